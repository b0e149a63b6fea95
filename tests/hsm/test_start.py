"""Ceremony and start: what is made once, and what a worker refuses to start on."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.hsm import keys
from broker.hsm.ceremony import init_token
from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.home import HsmHome
from broker.hsm.softhsm import render_conf
from broker.hsm.spawn import spawn_same_user
from broker.hsm.worker import open_service
from tests.kit.hsm import Prepared, ready, run, worker
from tests.kit.hsm_token import opened

pytestmark = pytest.mark.softhsm


def _start(home: Path, *, simulated: bool = True) -> HsmReason:
    """Return why a worker on `home` does not start, tried in this process."""
    place = HsmHome(home)
    with pytest.raises(HsmError) as caught, place.locked():
        open_service(place, simulated=simulated, module="", mode="same-user", hardening=())
    return caught.value.reason


def _spawn(home: Path, *, simulated: bool) -> HsmReason:
    """Return why a worker's process on `home` does not start; it says so for every call."""

    async def attempt() -> HsmReason:
        async with worker(home, simulated=simulated) as client:
            with pytest.raises(HsmError) as caught:
                await client.info()
            with pytest.raises(HsmError) as again:
                await client.head(bytes(32))
            assert again.value.reason is caught.value.reason
            return caught.value.reason

    return run(attempt())


def test_a_ceremony_makes_a_private_home_and_is_held_once(hsm_home: Callable[..., Path]) -> None:
    """Nobody else may read any of it, and a second ceremony changes nothing."""
    home = hsm_home()
    place = HsmHome(home)
    before = {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}

    assert {path.name for path in before} >= {"pin", "marker", "worker.db", "softhsm2.conf"}
    for path in (place.folder, *place.folder.rglob("*")):
        assert not path.stat().st_mode & 0o077, path
    with pytest.raises(HsmError) as caught:
        init_token(home, simulated=True)
    assert caught.value.reason is HsmReason.EXISTS
    assert {path: path.read_bytes() for path in before} == before


def test_a_ceremony_never_heals_a_damaged_home(hsm_home: Callable[..., Path]) -> None:
    """What is left of a home is reported, not replaced."""
    home = hsm_home()
    HsmHome(home).marker.unlink()

    with pytest.raises(HsmError) as caught:
        init_token(home, simulated=True)

    assert caught.value.reason is HsmReason.TOKEN_MISSING


def test_a_ceremony_without_a_module_says_what_to_install(tmp_path: Path) -> None:
    """Nothing is left behind by one that could not be held."""
    with pytest.raises(HsmError) as caught:
        init_token(tmp_path, simulated=True, module=str(tmp_path / "no.so"))

    assert caught.value.reason is HsmReason.UNSUPPORTED
    assert list(tmp_path.iterdir()) == []


def _remove(*names: str) -> Callable[[HsmHome], None]:
    def spoil(place: HsmHome) -> None:
        for name in names:
            path = place.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    return spoil


def _empty_token(place: HsmHome) -> None:
    for path in place.tokens.glob("*/token.object*"):
        path.write_bytes(b"")


def _lost_key(place: HsmHome) -> None:
    for path in place.tokens.glob("*/*.object"):
        if path.name != "token.object":
            path.unlink()


def _open_pin(place: HsmHome) -> None:
    place.pin.chmod(0o644)


def _linked_pin(place: HsmHome) -> None:
    place.pin.rename(place.folder / "elsewhere")
    place.pin.symlink_to(place.folder / "elsewhere")


def _wrong_pin(place: HsmHome) -> None:
    place.pin.write_bytes(b"0" * 24)


def _empty_pin(place: HsmHome) -> None:
    place.pin.write_bytes(b"")


def _empty_database(place: HsmHome) -> None:
    place.database.write_bytes(b"")


def _garbled_database(place: HsmHome) -> None:
    place.database.write_bytes(os.urandom(4096))


def _garbled_marker(place: HsmHome) -> None:
    place.marker.write_bytes(place.marker.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_remove("tokens"), HsmReason.TOKEN_MISSING),
        (_empty_token, HsmReason.TOKEN_MISSING),
        (_lost_key, HsmReason.TOKEN_MISSING),
        (_remove("softhsm2.conf"), HsmReason.TOKEN_MISSING),
        (_remove("marker"), HsmReason.TOKEN_MISSING),
        (_garbled_marker, HsmReason.TOKEN_MISSING),
        (_remove("pin"), HsmReason.TOKEN_MISSING),
        (_linked_pin, HsmReason.TOKEN_MISSING),
        (_open_pin, HsmReason.REFUSED),
        (_wrong_pin, HsmReason.REFUSED),
        (_empty_pin, HsmReason.REFUSED),
        (_remove("worker.db"), HsmReason.STATE_MISSING),
        (_empty_database, HsmReason.STATE_MISSING),
        (_garbled_database, HsmReason.STATE_MISSING),
    ],
    ids=[
        "no_tokens",
        "empty_token_file",
        "no_broker_key",
        "no_conf",
        "no_marker",
        "garbled_marker",
        "no_pin",
        "pin_is_a_link",
        "pin_readable_by_others",
        "wrong_pin",
        "empty_pin",
        "no_database",
        "empty_database",
        "garbled_database",
    ],
)
def test_a_damaged_home_is_fatal_and_never_a_first_start(
    hsm_home: Callable[..., Path], spoil: Callable[[HsmHome], None], reason: HsmReason
) -> None:
    """Every part that is gone or wrong stops the worker, by name, and nothing is made anew."""
    home = hsm_home()
    spoil(HsmHome(home))
    before = sorted(path for path in home.rglob("*"))

    assert _start(home) is reason
    made = set(home.rglob("*")) - set(before)
    assert {path.name for path in made} <= {"lock", "token.object.before-login"}


def test_a_home_that_never_was_is_not_made_by_a_worker(tmp_path: Path) -> None:
    """Only the ceremony makes a home."""
    assert _start(tmp_path) is HsmReason.TOKEN_MISSING
    assert list(tmp_path.iterdir()) == []


def test_a_lost_kek_is_fatal_for_its_tenant(enrolled_home: Callable[[], Prepared]) -> None:
    """With the tenant's row there and its KEK gone, nothing is made anew."""
    prepared = enrolled_home()

    async def attempt() -> HsmReason:
        async with worker(prepared.home) as client:
            await client.head(prepared.g)
        with opened(prepared.home) as session:
            assert keys.destroy_all(session, keys.kek_id(prepared.g, 1, simulated=True)) == 1
        async with worker(prepared.home) as client:
            with pytest.raises(HsmError) as caught:
                await client.head(prepared.g)
            return caught.value.reason

    assert run(attempt()) is HsmReason.TOKEN_MISSING


@pytest.mark.parametrize("simulated", [True, False])
def test_neither_mode_opens_the_other_s_token(
    hsm_home: Callable[..., Path], simulated: bool
) -> None:
    """What the ceremony fixed, a worker of the other mode refuses."""
    home = hsm_home(simulated=simulated)

    assert _spawn(home, simulated=not simulated) is HsmReason.WRONG_MODE

    async def look() -> None:
        async with worker(home, simulated=simulated) as client:
            info = await client.info()
            assert info.simulated is simulated
            assert info.label.startswith("ostiary-sim-") is simulated
            assert info.mode == "same-user"

    run(look())


def test_a_database_of_another_token_is_refused(hsm_home: Callable[..., Path]) -> None:
    """worker.db belongs to one token; that of a fresh one would forget every burnt permit."""
    home, other = hsm_home(simulated=True), hsm_home(simulated=False)
    shutil.copyfile(HsmHome(other).database, HsmHome(home).database)

    assert _start(home) is HsmReason.STATE_MISSING


def test_one_home_has_one_worker(hsm_home: Callable[..., Path]) -> None:
    """A second worker on the same home is turned away while the first serves."""
    home = hsm_home()

    async def both() -> HsmError:
        async with worker(home) as first:
            await first.info()
            async with worker(home) as second:
                with pytest.raises(HsmError, match="another HSM worker") as caught:
                    await second.info()
            await first.info()
            return caught.value

    assert run(both()).reason is HsmReason.UNAVAILABLE


def test_a_token_file_torn_during_login_is_restored_from_its_copy(
    enrolled_home: Callable[[], Prepared],
) -> None:
    """The crash that empties token.object costs nothing, and `info` says that it happened."""
    prepared = enrolled_home()
    place = HsmHome(prepared.home)

    async def life() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
        for token in place.tokens.glob("*/token.object"):
            token.write_bytes(b"")
        async with worker(prepared.home) as client:
            assert any("torn" in line for line in (await client.info()).checks)
            assert (await client.head(book.g)).size == 3

    run(life())


def test_the_template_of_the_configuration_is_what_the_ceremony_writes() -> None:
    """softhsm/softhsm2.conf.template and the code agree."""
    root = Path(__file__).resolve().parents[2]
    lines = (root / "softhsm" / "softhsm2.conf.template").read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#") and line.strip())

    assert text == render_conf(Path("@TOKENS@"))


def test_no_process_but_the_worker_loads_pkcs11() -> None:
    """Client, spawn and ceremony can be imported by a broker without the module."""
    code = (
        "import sys, broker.hsm.client, broker.hsm.spawn, broker.hsm.ceremony\n"
        "sys.exit(any(name.split('.')[0] == 'pkcs11' for name in sys.modules))"
    )
    root = Path(__file__).resolve().parents[2]

    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_a_worker_ends_when_its_broker_does(hsm_home: Callable[..., Path]) -> None:
    """Over a socket pair the worker does not outlive its one peer."""
    home = hsm_home()

    async def life() -> int:
        process, client = spawn_same_user(home, simulated=True)
        await client.info()
        await client.close()
        return process.wait(20)

    assert run(life()) == 0
    assert stat.S_IMODE(HsmHome(home).database.stat().st_mode) == 0o600
