"""The built image, booted in an emulator with a software TPM; `make guest-test` runs it."""

from __future__ import annotations

import fnmatch
import hashlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.guest.trees import STRANGERS
from ostiary.measure import boot as measured
from ostiary.measure.pe import Image
from ostiary.processes import Program
from tests.kit import guest
from tests.kit.broker import prepared_once
from tests.kit.broker_outside import _answers
from tests.kit.guest import IMAGE, Boot
from tests.kit.vendors import NOW
from verifier.eventlog import appraise, boot
from verifier.eventlog.replay import replay

pytestmark = [
    pytest.mark.skipif(bool(guest.missing()), reason=guest.missing()),
    # The emulator is silent for minutes; `tests.kit.guest` has a limit of its own.
    pytest.mark.filterwarnings("default::ResourceWarning"),
]
GPT_EVENT = 0x80000006


@pytest.fixture(scope="module")
def disk() -> Path:
    """Give the disk."""
    return IMAGE / "disk.raw"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Start a real broker and give its port."""
    folder = tmp_path_factory.mktemp("broker")
    prepared = prepared_once(tmp_path_factory).copied(folder / "home")
    port = guest._free_port()
    arguments = ("tests.kit.broker_outside", str(prepared.home), str(port), str(NOW))
    with (
        Program.start(arguments[0], arguments, folder / "broker.txt") as program,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        program.until(lambda: _answers(client), 60)
        yield port


@pytest.fixture(scope="module")
def booted(broker: int, disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Boot:
    """Boot the image once, beside a real broker, until it powers off by itself."""
    return guest.boot(tmp_path_factory.mktemp("boot") / "machine", disk, broker=broker)


def computed(bank: str) -> dict[int, str]:
    """Return PCR 4, 11 and 12 as `ostiary policy measure` computes them from the UKI."""
    command = [sys.executable, "-m", "ostiary", "policy", "measure", "pcr", "--pcrs", "4,11,12"]
    command += ["--uki", str(IMAGE / "linux.efi"), "--bank", bank]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (reference,) = tomllib.loads(done.stdout)["reference"]
    return {int(each): value for each, value in reference["pcrs"].items()}


def test_the_machine_is_as_it_must_be(booted: Boot) -> None:
    """Lockdown, no modules, no swap, no dumps, verity, firewall: each is checked, and good."""
    checks = booted.checks

    assert all(checks.values()), checks
    assert checks.keys() >= {
        *("lockdown", "modules_disabled", "kexec_load_disabled", "core_pattern", "sysrq", "swap"),
        *("kdump", "root", "verity", "writable disks", "firewall", "listening"),
    }
    assert booted.one("machine") == "as it must be"


def test_nothing_else_runs(booted: Boot) -> None:
    """PID 1, its journal, devices and network, and our two programs: no login, no shell, no ssh."""
    assert {Path(each).name for each in booted.one("programs")} <= {
        *("systemd", "systemd-journald", "systemd-udevd", "(udev-worker)", "systemd-networkd"),
        *("python3.13", "systemd-executor"),
    }
    assert booted.one("listening") == []
    assert "login:" not in booted.console


def test_no_shell_is_in_the_image() -> None:
    """No file of root or initrd has a name of a shell, a login or a way in."""
    names = [line.split("\t")[0] for line in (IMAGE / "files.tsv").read_text().splitlines()]
    programs = [
        name for name in names if "/bin/" in name or "/sbin/" in name or "lib/systemd/" in name
    ]
    found = [
        each for each in programs if any(fnmatch.fnmatch(Path(each).name, s) for s in STRANGERS)
    ]

    assert programs
    assert found == []


def test_without_a_tee_the_runtime_refuses_and_the_machine_goes_off(booted: Boot) -> None:
    """The broker is reached, the device is not there: named, tried again, then power off."""
    refusal = [line for line in booted.console.splitlines() if "/dev/tdx_guest" in line]

    assert refusal, booted.console[-3000:]
    assert "broker_unavailable" not in booted.console
    assert "Power down" in booted.console
    assert booted.status == 0


def test_callers_reach_the_runtime_and_nothing_else(booted: Boot) -> None:
    """The front says that it is not serving; no other port answers."""
    assert booted.front
    assert {status for status, _ in booted.front} == {503}
    assert not booted.other_port_answered


@pytest.mark.parametrize("bank", ["sha256", "sha384"])
def test_the_tpm_holds_what_was_computed(booted: Boot, bank: str) -> None:
    """PCR 4, 11 and 12 of the booted machine are those computed from the UKI alone."""
    seen = {int(each): value for each, value in booted.one("pcrs")[bank].items()}

    assert computed(bank) == {each: seen[each] for each in (4, 11, 12)}


@pytest.mark.parametrize("bank", ["sha256", "sha384"])
def test_the_event_log_proves_the_boot(booted: Boot, bank: str) -> None:
    """The log replays to the TPM's values, and names UKI, command line and partition table."""
    log = appraise.parse(booted.boot_log, "tcg")
    seen = {int(each): bytes.fromhex(value) for each, value in booted.one("pcrs")[bank].items()}
    replayed = replay(log, bank)
    proven = {each for each, value in replayed.items() if seen.get(each) == value}
    claims = boot.read(log, bank, proven=proven)
    uki = Image.parse((IMAGE / "linux.efi").read_bytes())

    assert proven >= {0, 1, 2, 3, 4, 5, 6, 7, 9}
    assert uki.authenticode(bank) in claims.boot_applications
    assert measured.inner_kernel(uki).authenticode(bank) in claims.boot_applications
    # What RTMR 1 of a TD takes in beside them: the partition table of the disk.
    table = measured.gpt_event((IMAGE / "disk.raw").read_bytes()[: 4 << 20])
    which = log.banks.index(bank)
    told = [each.digests[which] for each in log.events if each.kind == GPT_EVENT]
    assert told == [hashlib.new(bank, table).digest()]


@pytest.mark.parametrize("where", ["superblock", "file", "hash tree"])
def test_one_changed_bit_of_the_root_stops_the_machine(
    where: str, disk: Path, tmp_path: Path
) -> None:
    """A root that is not the measured one, in any place that is read, never gets to the runtime."""
    _, root, verity = guest.partitions(disk)
    at = {
        "superblock": root + 1024 + 16,
        "file": disk.read_bytes().index(b"Description=Packets", root),
        "hash tree": verity + 4096 + 7,
    }[where]
    changed = guest.tampered(disk, tmp_path / "changed.raw", at)

    found = guest.boot(tmp_path / "machine", changed)

    assert "ostiary-machine: " not in found.console
    assert "Kernel panic" in found.console
    assert "verity_handle_err" in found.console


def test_what_a_host_adds_is_measured_and_makes_no_unit(disk: Path, tmp_path: Path) -> None:
    """Words for the kernel change PCR 12; a credential with a unit in it is not taken."""
    unit = "[Service]\\nExecStart=/usr/bin/python3.13 -c 'print(666)'\\n"
    extra = [
        *("-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra=systemd.debug_shell=1"),
        *("-smbios", f"type=11,value=io.systemd.credential:systemd.extra-unit.evil.service={unit}"),
    ]

    found = guest.boot(tmp_path / "machine", disk, extra=extra, stop_at='"machine":')

    assert found.one("pcrs")["sha256"]["12"] != computed("sha256")[12]
    assert "evil" not in found.console
    assert found.checks["modules_disabled"]


def test_a_kernel_that_the_host_hands_over_is_measured_as_computed(
    disk: Path, tmp_path: Path
) -> None:
    """PCR 9 is of command line and initrd, which RTMR 2 of a TD takes; the root is the same."""
    line = (IMAGE / "cmdline").read_text()
    initrd = IMAGE / "initrd.cpio.zst"
    extra = ["-kernel", str(IMAGE / "vmlinuz"), "-initrd", str(initrd), "-append", line]

    found = guest.boot(tmp_path / "machine", disk, extra=extra, stop_at='"machine":')

    assert all(found.checks.values()), found.checks
    # Where firmware writes initrd=initrd depends on its age: one of the two, and nothing else.
    orders: tuple[measured.InitrdOption, ...] = ("before", "after")
    for bank in ("sha256", "sha384"):
        possible = {
            measured.extend(bank, measured.stub_digests(bank, options, initrd.read_bytes())).hex()
            for options in (measured.load_options(line, initrd=order) for order in orders)
        }
        assert found.one("pcrs")[bank]["9"] in possible
