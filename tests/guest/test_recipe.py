"""The guest image's recipe: what can be said of it without building it."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.guest import trees
from deploy.guest.settings import HERE, Guest, SettingsError
from deploy.guest.tools import BuildError, read_list
from deploy.guest.trees import STRANGERS, keep, refuse_strangers, wheel_pins

EXAMPLE = (HERE / "guest.toml").read_text()
UNITS = sorted((HERE / "tree").rglob("systemd/system/*.service"))
ROOT = os.geteuid() == 0


def settings(**changes: Any) -> str:
    """Return the example with some fields replaced, named as `table_field`."""
    raw = tomllib.loads(EXAMPLE)
    for name, value in changes.items():
        table, _, key = name.partition("_")
        raw[table][key] = value
    lines = []
    for table, fields in raw.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in fields.items())]
    return "\n".join(lines)


def test_the_example_is_understood() -> None:
    """The example's settings parse, and say what the runtime is started with."""
    guest = Guest.parse(EXAMPLE)

    assert "--broker https://broker.example:8420 --tenant acme" in guest.serve_arguments()
    assert "192.0.2.10 broker.example" in guest.hosts()
    assert guest == Guest.parse(settings())


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("runtime_broker", "ftp://broker.example", "runtime.broker"),
        ("runtime_broker", "https://broker.example/%n", "runtime.broker"),
        ("runtime_broker", "https://broker.example:99999", "runtime.broker"),
        ("runtime_kind", "simulated", "runtime.kind"),
        ("runtime_port", 0, "runtime.port"),
        ("runtime_port", True, "runtime.port"),
        ("runtime_tenant", "acme\nExecStart=/bin/sh", "text"),
        ("runtime_model", "m/1 --simulated-device x", "one word"),
        ("runtime_arguments", ["--simulated-device"], "not given here"),
        ("runtime_arguments", ["--host=::"], "not given here"),
        ("runtime_arguments", ["$(reboot)"], "one word"),
        ("runtime_arguments", "--engine", "a list"),
        ("network_broker", [], "no DNS"),
        ("network_broker", ["broker.example"], "broker"),
        ("network_callers", ["10.0.0.1/8"], "callers"),
        ("network_registries", ["192.0.2.20"], "registries"),
        ("network_registries", ["192.0.2.20:0"], "registries"),
        ("image_kernel", "-oAPT::x", "one word"),
        ("image_command_line", ["quiet x"], "one word"),
        ("image_command_line", ["init=/bin/x"], "set already"),
        ("image_command_line", ["lockdown=none"], "set already"),
    ],
)
def test_settings_that_are_not_understood_are_refused(field: str, value: Any, said: str) -> None:
    """A value that is none is refused by its field."""
    with pytest.raises(SettingsError, match=said):
        Guest.parse(settings(**{field: value}))


def test_unknown_and_missing_fields_are_refused() -> None:
    """Every field is there once, and no other."""
    for text in (EXAMPLE + "\n[more]\n", EXAMPLE.replace("port =", "ports ="), "", "a = "):
        with pytest.raises(SettingsError):
            Guest.parse(text)


@given(word=st.text(max_size=20), where=st.sampled_from(["tenant", "model", "broker"]))
def test_no_value_becomes_a_line_of_its_own(word: str, where: str) -> None:
    """Whatever a value is, the unit gets one line of plain words, or the settings are refused."""
    try:
        guest = Guest.parse(settings(**{f"runtime_{where}": word}))
    except SettingsError:
        return
    line = guest.serve_arguments()

    assert line.isprintable()
    assert not set(line) & set("\"'\\$%;`\t\n")
    assert len(line.split()) == 12


def test_the_kernel_is_locked_by_its_command_line() -> None:
    """The words that close the machine are there, after the root hash."""
    words = Guest.parse(EXAMPLE).kernel_words("00" * 32).split()

    assert words[0] == f"roothash={'00' * 32}"
    assert set(words) >= {
        *(
            "lockdown=confidentiality",
            "module.sig_enforce=1",
            "ro",
            "panic=-1",
            "systemd.verity=yes",
        ),
        *("systemd.verity_root_options=panic-on-corruption", "systemd.import_credentials=no"),
        *("systemd.swap=no", "systemd.crash_shell=no", "rd.shell=0", "debugfs=off"),
    }
    assert not [word for word in words if word.startswith(("crashkernel", "init=", "rd.break"))]


def test_no_list_names_a_shell_or_a_way_in() -> None:
    """Neither packages nor kept files have a shell, a login or ssh in them."""
    packages = [words[0] for words in read_list(HERE / "packages.txt")]
    kept = [words for words in read_list(HERE / "files.txt") if words[0] != "never"]
    programs = [Path(name).name for _, name in kept]

    assert not [name for name in packages if any(fnmatch.fnmatch(name, each) for each in STRANGERS)]
    assert not {"bash", "dash", "openssh-server", "util-linux", "login", "apt", "sudo"} & {
        *packages
    }
    assert not [name for name in programs if any(fnmatch.fnmatch(name, each) for each in STRANGERS)]
    assert len(packages) == len(set(packages))
    # A star may stand for libraries, Python's own files and units: never for programs.
    assert not [name for _, name in kept if "*" in name and ("/bin/" in name or "/sbin/" in name)]
    assert {words[0] for words in read_list(HERE / "files.txt")} == {
        *("both", "root", "initrd", "never", "dlopen")
    }


def test_the_wheels_are_pinned_by_the_lock() -> None:
    """Each wheel has one version with hashes, and no condition on who builds."""
    lock = (HERE.parent.parent / "requirements.lock").read_text()
    pins = [line for line in wheel_pins(lock).splitlines() if not line.startswith(" ")]

    assert [pin.split("==")[0] for pin in pins] == sorted(
        w[0] for w in read_list(HERE / "wheels.txt")
    )
    assert all("==" in pin and ";" not in pin and pin.endswith("\\") for pin in pins)
    with pytest.raises(BuildError, match="xllamacpp"):
        wheel_pins(lock.replace("xllamacpp==", "other==") + "\n")


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_start_only_what_the_image_has(unit: Path) -> None:
    """Every program that a unit of ours starts is on the list of files, by its whole path."""
    kept = {name for where, name in read_list(HERE / "files.txt") if where in {"both", "root"}}
    for line in unit.read_text().splitlines():
        if line.startswith("Exec"):
            program = line.partition("=")[2].split()[0]
            assert program.removeprefix("/") in kept


def test_units_have_no_mistakes(tmp_path: Path) -> None:
    """systemd itself finds nothing to say about our units but programs that are not here."""
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not here")
    guest = Guest.parse(EXAMPLE)
    for unit in UNITS:
        text = unit.read_text().replace("@ARGUMENTS@", guest.serve_arguments())
        (tmp_path / unit.name).write_text(text)
    command = [verify, "verify", "--man=no", "--recursive-errors=no"]
    done = subprocess.run(
        [*command, *map(str, sorted(tmp_path.glob("*.service")))],
        check=False,
        capture_output=True,
        text=True,
    )
    told = [line for line in done.stderr.splitlines() if str(tmp_path) in line]

    # RestartMode is of systemd 254 and later: older ones, as here maybe, do not know it.
    assert [line for line in told if "RestartMode" not in line] == []


def test_the_runtime_has_no_capabilities_and_no_core() -> None:
    """The unit takes everything away that the runtime does not need, and powers off at its end."""
    unit = (HERE / "tree/root/etc/systemd/system/ostiary-runtime.service").read_text().splitlines()

    assert {
        *("CapabilityBoundingSet=", "NoNewPrivileges=yes", "LimitCORE=0", "MemorySwapMax=0"),
        *("ProtectSystem=strict", "SuccessAction=poweroff", "FailureAction=poweroff"),
        *("Requires=ostiary-machine.service", "RestrictNamespaces=yes"),
    } <= set(unit)


def test_a_shell_in_a_tree_is_refused(tmp_path: Path) -> None:
    """A tree with a shell, a set-user-id program or ssh is named and refused."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    good, shell, mount = (tmp_path / "usr/bin" / name for name in ("python3.13", "dash", "mount"))
    for path in (good, mount):
        path.touch(0o755)
    refuse_strangers(tmp_path)
    shell.touch(0o755)
    mount.chmod(0o4755)
    (tmp_path / "usr/bin/sshd").symlink_to("python3.13")

    with pytest.raises(BuildError) as refusal:
        refuse_strangers(tmp_path)

    assert all(each in str(refusal.value) for each in ("bin/dash", "bin/mount", "bin/sshd"))
    assert "python3.13 " not in str(refusal.value)


def test_a_file_that_no_package_has_stops_the_build(tmp_path: Path) -> None:
    """A line of the list that names nothing is not passed over."""
    (tmp_path / "unpacked").mkdir()

    with pytest.raises(BuildError, match="is in no package"):
        keep(tmp_path / "unpacked", tmp_path / "tree", "root")


def test_our_own_packages_come_without_the_simulator(tmp_path: Path) -> None:
    """The image has the runtime and no simulated hardware; no caches of other Pythons."""
    for name in trees.OURS:
        trees._copy_ours(trees.CHECKOUT / name, tmp_path / name)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}

    assert "inference_runtime/supervisor.py" in names
    assert "ostiary/cli/runtime.py" in names
    assert not [name for name in names if "simulator/" in name or "__pycache__" in name]


def test_the_image_imports_what_it_starts(tmp_path: Path) -> None:
    """`ostiary runtime` loads from what is copied into the image, without the parts left out."""
    for name in trees.OURS:
        trees._copy_ours(trees.CHECKOUT / name, tmp_path / name)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import ostiary.cli.runtime as r; "
    code += "print(r.__file__)"
    command = [sys.executable, "-I", "-B", "-c", code, str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))


needs_network_namespace = pytest.mark.skipif(
    not ROOT or any(shutil.which(each) is None for each in ("nft", "ip", "unshare")),
    reason="needs root, nft, ip and unshare (apt-get install nftables iproute2)",
)


@needs_network_namespace
def test_the_firewall_lets_through_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    """Between two network namespaces: the broker and callers get through; all else does not."""
    guest = Guest.parse(
        settings(
            runtime_broker="http://broker.example:8420",
            network_broker=["10.9.0.1", "fd00:9::1"],
            network_registries=["10.9.0.1:8443"],
            network_callers=["10.9.0.1/32"],
        )
    )
    (tmp_path / "rules").write_text(guest.firewall())
    probe = Path(__file__).with_name("probe_firewall.py")
    command = ["unshare", "--net", sys.executable, str(probe), str(tmp_path / "rules")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if "cannot be loaded here" in done.stdout:
        pytest.skip(done.stdout.strip())

    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["before"] == dict.fromkeys(told["after"], True)
    assert told["after"] == {
        **dict.fromkeys(["out 8420", "out 8443", "in 8421"], True),
        **dict.fromkeys(["out 9999", "in 9999"], False),
    }
    assert told["other caller"] == {"in 8421": False}
