"""`ostiary simulator` and `ostiary runtime attest`: fake machines, and what is said inside one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ostiary.simulator.device import serving
from tests.cli.conftest import Run, one_line
from tests.kit.runtime import Served, SoftBroker, problem, served


@pytest.fixture
def house() -> Iterator[Served]:
    """Give a served broker."""
    with served(SoftBroker()) as found:
        yield found


def test_simulator(ostiary: Run, tmp_path: Path) -> None:
    """A fake vendor is made once, says what it is, and is never overwritten."""
    folder = tmp_path / "simulator"
    said = ostiary("simulator", "init", folder, "--collateral", tmp_path / "collateral")
    assert (said.status, "SIMULATED" in said.out) == (0, True)
    assert set(json.loads((folder / "roots.json").read_text())) == {
        *("intel", "amd", "nvidia_device", "nvidia_rim"),
    }
    one_line(ostiary("simulator", "init", folder), 1)


def test_machine(ostiary: Run, tmp_path: Path) -> None:
    """`simulator machine` takes the machine's own options and listens."""
    folder, path = tmp_path / "simulator", tmp_path / "machine.sock"
    assert ostiary("simulator", "init", folder).status == 0
    words = ("simulator", "machine", "--vendor", folder, "--socket", path, "--config", "00" * 48)
    with subprocess.Popen(
        [sys.executable, "-m", "ostiary", *map(str, words)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"SIMULATED tdx machine listens at {path}\n"
        process.terminate()
        assert process.wait(10) == 0


def attest(house: Served, device: Path | None, **changes: str) -> tuple[str, ...]:
    """Return the words that attest inside a machine."""
    options = {"broker": house.url, "tenant": "acme", "model": "tiny-llama/1"} | changes
    words = [f"--{name}={value}" for name, value in options.items()]
    if device is not None:
        words.append(f"--simulated-device={device}")
    return ("runtime", "attest", *words)


def test_attest(ostiary: Run, house: Served, tmp_path: Path) -> None:
    """Evidence bound to a fresh challenge is printed as JSON."""
    path = tmp_path / "machine.sock"
    with serving(path, house.broker.td()):
        said = ostiary(*attest(house, path))
    assert said.status == 0, said
    shown = json.loads(said.out)
    assert shown["genesis"] == house.broker.digest.hex()
    assert len(shown["report_data"]) == 128


def test_attest_for_somebody_else(ostiary: Run, house: Served, tmp_path: Path) -> None:
    """A machine that was launched for another tenant says what it was launched for."""
    path = tmp_path / "machine.sock"
    other = SoftBroker()
    with serving(path, other.td()):
        said = ostiary(*attest(house, path))
    one_line(said, 1, "anchor_mismatch", other.launch.hex(), house.broker.launch.hex())


def test_attest_refused(ostiary: Run, house: Served, tmp_path: Path) -> None:
    """No device, no broker, no such tenant, no address, no key version: one line each."""
    path = tmp_path / "machine.sock"
    one_line(ostiary(*attest(house, path)), 1, "device_absent", str(path))
    with serving(path, house.broker.td()):
        one_line(ostiary(*attest(house, path, model="tiny")), 2, "malformed")
        one_line(ostiary(*attest(house, path, broker="nowhere")), 1, "broker_unavailable")
        one_line(ostiary(*attest(house, path, tenant="No Name")), 2, "tenant")
        house.script = lambda _method, _target: problem(404, "not_found")
        one_line(ostiary(*attest(house, path)), 1, "broker_refused", "404")


def test_no_hardware(ostiary: Run, house: Served) -> None:
    """Outside a confidential VM there is no evidence, and the answer says so."""
    if Path("/sys/kernel/config/tsm").exists():
        pytest.skip("this machine has a report device")
    one_line(ostiary(*attest(house, None)), 1, "device_")
