"""What an operator does: ceremony, settings, tenants, and what is refused before it serves."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Site, digest_of, one_line
from tests.kit.runtime import SoftBroker

CHANGING = ("-wal", "-shm", "lock", "token.object", "token.object.before-login")
"""SoftHSM counts logins in its token object; the keys beside it must stay as they are."""


@pytest.fixture
def home(site: Site, tmp_path: Path) -> Path:
    """Give a copy of the site's home, whose broker does not run."""
    target = tmp_path / "home"
    shutil.copytree(site.pristine, target)
    settings = target / "broker.toml"
    port = site.url.rpartition(":")[2]
    settings.write_text(settings.read_text().replace(f"port = {port}", "port = 0"))
    conf = target / "hsm" / "softhsm2.conf"
    conf.write_text(conf.read_text().replace(str(site.home), str(target)))
    return target


def test_init_twice(ostiary: Run, home: Path) -> None:
    """`init` in a home that was set up changes nothing and says the same as before."""
    first = ostiary("broker", "--home", home, "init")
    assert first.status == 0, first
    before = digest_of(home, *CHANGING)
    second = ostiary("broker", "--home", home, "init", "--port", "1", "--mode", "production")
    assert (second.status, second.out) == (0, first.out)
    assert digest_of(home, *CHANGING) == before


def test_show(ostiary: Run, home: Path, site: Site) -> None:
    """`show` says who the broker is, that it trusts a simulator, and what its token refused."""
    said = ostiary("broker", "--home", home, "show")
    assert said.status == 0
    for shown in ("SIMULATED", "tenant   acme", "refused to", "OAEP sha1"):
        assert shown in said.out
    assert ostiary("broker", "--home", home, "upgrade").status == 0
    pin = (home / "hsm" / "pin").read_text().strip()
    assert pin not in said.out + said.err
    assert pin not in (site.root / "serve.txt").read_text()


def test_token_missing(ostiary: Run, home: Path) -> None:
    """A database without its token is a hard error, never a first start."""
    shutil.rmtree(home / "hsm")
    one_line(ostiary("broker", "--home", home, "init"), 1, "token_missing", "backup")
    assert not (home / "hsm").exists()
    said = ostiary("broker", "--home", home, "serve")
    assert said.status == 1
    assert "ostiary: hsm_unavailable" in said.err


def test_production(ostiary: Run, tmp_path: Path) -> None:
    """A production broker wants its worker's socket and no simulator, and leaves no file if not."""
    home = tmp_path / "home"
    init = ("broker", "--home", home, "init", "--mode", "production")
    one_line(ostiary(*init), 1, "settings_invalid", "hsm_socket")
    roots = tmp_path / "roots.json"
    roots.write_text("{}")
    said = ostiary(*init, "--hsm-socket", "x.sock", "--simulated-roots", roots)
    one_line(said, 1, "settings_invalid", "simulated")
    assert list(home.iterdir()) == []


def test_production_written_by_hand(ostiary: Run, home: Path) -> None:
    """The same settings written into the file by hand are refused when the broker starts."""
    path = home / "broker.toml"
    path.write_text(path.read_text().replace('"demo"', '"production"'))
    one_line(ostiary("broker", "--home", home, "serve"), 1, "settings_invalid", "simulated")
    path.write_text('mode = "production"\n')
    one_line(ostiary("broker", "--home", home, "serve"), 1, "settings_invalid", "hsm_socket")


def test_the_other_mode(ostiary: Run, home: Path) -> None:
    """A simulator's token is not opened by settings that trust real hardware."""
    (home / "broker.toml").write_text('mode = "demo"\n')
    said = ostiary("broker", "--home", home, "serve")
    assert said.status == 1
    assert "ostiary: " in said.err.splitlines()[-1]


def test_half_a_confirmation(ostiary: Run, home: Path) -> None:
    """The frightening setting has one spelling."""
    path = home / "broker.toml"
    text = path.read_text()
    path.write_text(text.replace("i-know-that", "i-do-not-know-that"))
    one_line(ostiary("broker", "--home", home, "serve"), 1, "settings_invalid", "i-know-that")


@pytest.mark.parametrize(
    "text", ["x = = 1", "colour = 1", "port = 'x'", 'mode = "test"', "\udcff", "mode = 1"]
)
def test_bad_settings(ostiary: Run, tmp_path: Path, text: str) -> None:
    """Settings that cannot be read, or that nobody knows, are refused with the file's name."""
    (tmp_path / "broker.toml").write_text(text, errors="surrogateescape")
    one_line(ostiary("broker", "--home", tmp_path, "serve"), 1, "settings_invalid", "broker.toml")


def test_never_set_up(ostiary: Run, tmp_path: Path) -> None:
    """Every verb but `init` says that `init` comes first."""
    for verb in ("serve", "show", "import-keys", "upgrade"):
        one_line(ostiary("broker", "--home", tmp_path / "no", verb), 1, "broker init")


def test_roots_that_are_missing(ostiary: Run, tmp_path: Path) -> None:
    """A simulator's roots file that is not there is named before anything is made."""
    home = tmp_path / "home"
    said = ostiary("broker", "--home", home, "init", "--simulated-roots", tmp_path / "no.json")
    one_line(said, 2, "no.json")
    assert list(home.iterdir()) == []


def test_roots_in_this_folder(
    ostiary: Run, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path counts from where the operator stands, and odd names are no trouble."""
    folder = tmp_path / 'a "quoted\\ folder'
    folder.mkdir()
    shutil.copy(site.root / "simulator" / "roots.json", folder / "roots.json")
    monkeypatch.chdir(folder)
    said = ostiary("broker", "--home", "home", "init", "--simulated-roots", "roots.json")
    assert said.status == 0, said


def test_home_that_is_a_file(ostiary: Run, tmp_path: Path) -> None:
    """A home that cannot be one is named."""
    (tmp_path / "file").write_text("")
    one_line(ostiary("broker", "--home", tmp_path / "file", "init"), 2, "file")


def test_port_in_use(ostiary: Run, home: Path) -> None:
    """A port that is taken is named, with the setting to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = (home / "broker.toml").read_text()
        (home / "broker.toml").write_text(text.replace("port = 0", f"port = {port}"))
        said = ostiary("broker", "--home", home, "serve")
    one_line(said, 1, str(port), "Address already in use", "broker.toml")


def test_tenant_and_key_together(ostiary: Run, tmp_path: Path) -> None:
    """`init --tenant` needs the vendor's key."""
    said = ostiary("broker", "--home", tmp_path, "init", "--tenant", "acme")
    one_line(said, 1, "--vendor-key")


def test_draft(ostiary: Run, home: Path, site: Site, tmp_path: Path) -> None:
    """A genesis is drawn up for signers that are keys, as many as its threshold needs."""
    out, public = tmp_path / "draft", f"{site.key}.pub"
    draw = ("broker", "--home", home, "tenant", "rival", "--out", out)
    one_line(ostiary(*draw, "--signer", public, "--threshold", 2), 2, "threshold")
    one_line(ostiary(*draw, "--signer", tmp_path / "none"), 2, "none")
    bad = tmp_path / "bad.pub"
    bad.write_bytes(b"\xff not base64")
    one_line(ostiary(*draw, "--signer", bad), 2, "malformed")
    assert not out.exists()
    assert ostiary(*draw, "--signer", public).status == 0


def test_enrol(ostiary: Run, home: Path, site: Site, tmp_path: Path) -> None:
    """A tenant is enrolled by a genesis signed for this broker; a second time does no harm."""
    enrol = ("broker", "--home", home, "enrol")
    assert ostiary(*enrol, site.genesis).status == 0
    foreign = tmp_path / "foreign.json"
    foreign.write_bytes(SoftBroker(tenant="foreign").document)
    said = ostiary(*enrol, foreign)
    assert said.status == 1
    foreign.write_bytes(b"garbage")
    said = ostiary(*enrol, foreign)
    assert said.status in {1, 2}
    one_line(ostiary(*enrol, tmp_path / "none"), 2, "none")
