"""Machines in clouds from the command line of the simulated device, with a TPM that is kept."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from ostiary.simulator import device, machines
from ostiary.simulator.azure import AzureMachine
from ostiary.simulator.gcp import GcpMachine
from tests.kit import vendors

CONFIG = bytes(range(48))


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with both vendors."""
    folder = tmp_path_factory.mktemp("vendors") / "v"
    vendors.fake_intel().save(folder)
    vendors.fake_amd("Genoa").save(folder)
    return folder


def launch(vendor: Path, kind: str, *more: str) -> machines.Machine:
    """Return the machine that these arguments launch."""
    size = 32 if kind in {"snp", "gcp-snp"} else 48
    config = CONFIG[:size].hex()
    arguments = ["--vendor", str(vendor), "--socket", "s", "--config", config, "--kind", kind]
    return device.launch(device._options([*arguments, *more]))


@pytest.mark.parametrize("kind", get_args(machines.Kind))
def test_every_kind(vendor: Path, kind: str) -> None:
    """Each kind launches, and says what it is; a TPM is where the kind has one."""
    machine = launch(vendor, kind)

    assert machine.kind == kind
    assert bool(machine.ak) == ("-" in kind)
    assert (machine.vtpm(bytes(64)) is not None) == ("-" in kind)
    assert isinstance(machine, AzureMachine) == kind.startswith("azure")
    assert isinstance(machine, GcpMachine) == kind.startswith("gcp")


def test_the_key_is_kept(vendor: Path, tmp_path: Path) -> None:
    """A machine that starts again in its folder quotes with the same key, over the same PCRs."""
    first, again = (launch(vendor, "azure-tdx", "--machine", str(tmp_path / "m")) for _ in range(2))

    assert first.ak == again.ak
    assert first.claims() == again.claims()
    other = launch(vendor, "azure-tdx", "--image", f"kernel={vendor / 'intel.json'}")
    assert isinstance(other, AzureMachine)
    assert isinstance(first, AzureMachine)
    assert other.tpm.pcrs[4] != first.tpm.pcrs[4]
    assert other.hardware.claims() == first.hardware.claims(), "the hardware sees the paravisor"
