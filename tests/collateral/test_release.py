"""Room 3 in a whole broker: fetching releases a key, and an old or absent answer does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest

from broker import settings as broker_settings
from broker.errors import BrokerError, Code
from broker.settings import Settings
from ostiary.simulator.services import Reply
from tests.kit.broker import fresh, prepared_broker, running
from tests.kit.broker_home import MODEL, Clock, Prepared
from tests.kit.collateral import DAY, Site, site
from tests.kit.vendors import NOW

__all__ = ["fresh", "prepared_broker"]


@pytest.fixture
def online(fresh: Prepared, tmp_path: Path) -> Iterator[tuple[Prepared, Site]]:
    """Give a home without endorsements whose broker may fetch them from running services."""
    rmtree(fresh.home / "collateral")
    with site(tmp_path / "unused") as place:
        path = fresh.home / broker_settings.FILE
        path.write_text(
            f'{path.read_text()}collateral_fetch = true\nintel_pcs = "{place.server.url}"\n'
            f'amd_kds = "{place.server.url}"\n'
        )
        yield fresh, place


def test_a_broker_fetches_and_releases(online: tuple[Prepared, Site]) -> None:
    """Both kinds of machine get the key; a second release asks nobody; old parts are refused."""
    prepared, place = online
    ticking = Clock(NOW)
    with running(prepared, ticking) as house:
        for kind in ("tdx", "snp"):
            released = house.released(house.ask(kind=kind))
            assert bytes(released.deks[MODEL].view()) == prepared.dek
        asked = place.server.asked.copy()
        house.released()
        assert place.server.asked == asked
        place.server.fail("/", Reply(404))
        with ticking.at(NOW + 29 * DAY - 10):
            house.released()
        with ticking.at(NOW + 30 * DAY):
            house.refused(house.ask().body(), "collateral_unavailable")


def test_a_dead_vendor_is_said(online: tuple[Prepared, Site]) -> None:
    """Without endorsements there is no release, and the operator reads why."""
    prepared, place = online
    place.server.fail("/tdx", Reply(404))
    with running(prepared) as house:
        house.refused(house.ask().body(), "collateral_unavailable", why="/tdx/certification/v4/")


@pytest.mark.parametrize(
    "changed",
    [
        {"intel_pcs": "http://pccs.example"},
        {"amd_kds": "kds"},
        {"azure_imds": "ftp://x"},
        {"collateral_ca": "none.pem"},
        {"amd_kds_per_minute": 0},
        {"collateral_update": "late"},
    ],
)
def test_settings_that_name_no_service(fresh: Prepared, changed: dict[str, str | int]) -> None:
    """A broker does not start with a service that it could never ask."""
    path = fresh.home / broker_settings.FILE
    lines = [f"{name} = {value!r}" for name, value in changed.items()]
    path.write_text("\n".join((path.read_text(), "collateral_fetch = true", *lines)))
    with pytest.raises(BrokerError) as caught, running(fresh):
        pass

    assert caught.value.code is Code.SETTINGS_INVALID


def test_fetching_is_off_by_default() -> None:
    """A broker opens no socket for endorsements unless it is told to."""
    assert Settings().collateral_fetch is False


def test_the_verifier_itself_stays_off_the_network() -> None:
    """Importing and appraising load no HTTP client and no event loop."""
    script = (
        "import sys, verifier, verifier.appraise, verifier.collateral.store\n"
        "print(sorted({'httpx', 'asyncio', 'tenacity', 'ssl'} & set(sys.modules)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )

    assert told.stdout == "[]\n"
