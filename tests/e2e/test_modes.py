"""Simulated and real never mix: not in settings, tokens, tenants, evidence or production."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker import settings
from broker.errors import BrokerError, Code
from broker.settings import CONFIRMATION, Settings
from tests.kit.broker import prepared_once, problem, running
from tests.kit.broker_home import Prepared, write_settings

TRUST = "dangerously_trust_simulated_hardware"
TRUSTED = f'{TRUST} = "{CONFIRMATION}"\n'
ROOTS = 'simulated_roots = "roots.json"\n'
PRODUCTION = 'mode = "production"\nhsm_socket = "s"\n'
DEMO = 'mode = "demo"\n'


@pytest.fixture
def real(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Prepared:
    """Give a home whose token and tenant were made for real hardware."""
    return prepared_once(tmp_path_factory, simulated=False).copied(tmp_path / "real")


def refuse_start(prepared: Prepared) -> BrokerError:
    """Return why the broker of this home does not start."""
    with pytest.raises(BrokerError) as refused, running(prepared):
        pass
    return refused.value


def test_real_broker(real: Prepared) -> None:
    """A broker that trusts no simulator refuses simulated evidence, though all else is right."""
    with running(real) as house:
        assert house.send("GET", "/health").json()["simulated"] is False
        house.refused(house.ask().body(), "evidence_refused", why="root")


def test_real_token_in_simulated_mode(real: Prepared) -> None:
    """A token that was made for real hardware is not opened by a broker that trusts a simulator."""
    write_settings(real.home, simulated=True)

    refused = refuse_start(real)
    assert refused.code is Code.HSM_UNAVAILABLE
    assert "real hardware" in refused.detail


def test_simulated_token_in_real_mode(fresh: Prepared) -> None:
    """A token that was made for simulated hardware is not opened by a real broker."""
    write_settings(fresh.home, simulated=False)

    refused = refuse_start(fresh)
    assert refused.code is Code.HSM_UNAVAILABLE
    assert "simulated hardware" in refused.detail


@pytest.mark.parametrize(
    "text",
    [
        PRODUCTION + TRUSTED + ROOTS,
        PRODUCTION + ROOTS,
        PRODUCTION + TRUSTED,
        'mode = "production"\n',
        "",
        DEMO + ROOTS,
        DEMO + TRUSTED,
        DEMO + ROOTS + f'{TRUST} = "yes"',
        DEMO + ROOTS + f"{TRUST} = true",
        'mode = "test"\n',
        DEMO + "simulated = true",
        DEMO + 'port = "8420"',
        "mode = ",
        "\0",
    ],
)
def test_settings(tmp_path: Path, text: str) -> None:
    """Settings that must not be are refused before anything is opened."""
    (tmp_path / settings.FILE).write_text(text)

    with pytest.raises(BrokerError) as refused:
        settings.load(tmp_path)
    assert refused.value.code is Code.SETTINGS_INVALID


def test_no_settings(tmp_path: Path) -> None:
    """Without settings nothing starts: there is no default broker."""
    with pytest.raises(BrokerError) as refused:
        settings.load(tmp_path)
    assert refused.value.code is Code.SETTINGS_INVALID


def test_settings_made_in_code() -> None:
    """The defaults are production's, and not enough to run."""
    with pytest.raises(BrokerError):
        Settings().check()


@pytest.mark.parametrize("text", ["", "{}x", '{"intel":["zz"]}', '{"other":[]}', "[]"])
def test_roots(fresh: Prepared, text: str) -> None:
    """A file of simulated roots that cannot be read is fatal."""
    (fresh.home / "roots.json").write_text(text)

    assert refuse_start(fresh).code is Code.SETTINGS_INVALID


def test_no_simulated_roots(fresh: Prepared) -> None:
    """A simulated broker trusts the roots in its file, and with none in it no evidence at all."""
    (fresh.home / "roots.json").write_text("{}")
    with running(fresh) as house:
        house.refused(house.ask().body(), "evidence_refused", why="root")


def test_says_so(fresh: Prepared) -> None:
    """Whatever a simulated broker releases says that it was simulated: leaf and result."""
    with running(fresh) as house:
        released = house.released()
        assert b'"simulated":true' in bytes(released.answer.leaf)
        assert re.search(rb'"simulated": ?true', released.answer.result)
        problem(house.send("GET", "/nothing"), "http", 404)
