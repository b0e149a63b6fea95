"""Devices of machines in clouds: whose quote, over what, and for which kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference_runtime.attester import AttesterError, DeviceFault
from inference_runtime.attester.answer import check_evidence
from inference_runtime.attester.configfs import ConfigfsDevice
from inference_runtime.attester.socket_device import SocketDevice, read_vtpm
from ostiary.simulator.azure import AzureMachine, measure, paravisor
from ostiary.simulator.device import serving
from ostiary.simulator.gcp import GcpMachine
from ostiary.simulator.machine import LaunchRequest, launch_td
from ostiary.simulator.machines import TdxMachine
from tests.kit import vendors
from tests.kit.vendors import good_quote
from verifier.wire import canonical
from verifier.wire.canonical import B64
from verifier.wire.messages import Vtpm

DATA = bytes(range(64))


def azure() -> AzureMachine:
    """Return a machine in Azure on Intel."""
    hardware = TdxMachine(vendors.platform(), launch_td(paravisor("tdx")))
    return AzureMachine(hardware, measure(vendors.tpm(), LaunchRequest(bytes(48))))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def test_azure(path: Path) -> None:
    """The device names its key, and its quote answers exactly our report data."""
    machine = azure()
    with serving(path, machine):
        device = SocketDevice(path)
        found = device.report(DATA)

    assert (device.kind, device.ak) == ("azure-tdx", machine.ak)
    assert device.launch_config().extended
    assert found.vtpm is not None
    assert found.vtpm.hcl_report == machine.hcl_report()


def test_google(path: Path) -> None:
    """At Google the hardware report carries report data, and the vTPM the same."""
    hardware = TdxMachine(vendors.platform(), launch_td(LaunchRequest(bytes(48))))
    for tpm in (vendors.tpm(), None):
        with serving(path, GcpMachine(hardware, tpm)):
            found = SocketDevice(path).report(DATA)
        assert (found.vtpm is None) == (tpm is None)
        assert found.cpu[568:632] == DATA


def said(**changes: Any) -> Vtpm:
    """Return what the TPM says of our report data; parts changed."""
    return msgspec.structs.replace(vendors.tpm().says(DATA), **changes)


@pytest.mark.parametrize(
    ("kind", "vtpm", "code"),
    [
        ("azure-tdx", None, DeviceFault.ANSWER_INVALID),
        ("azure-snp", None, DeviceFault.ANSWER_INVALID),
        ("tdx", said(), DeviceFault.ANSWER_INVALID),
        ("azure-tdx", said(message=B64(b"x")), DeviceFault.ANSWER_INVALID),
        ("azure-tdx", said(message=B64(said().message[:40])), DeviceFault.ANSWER_INVALID),
        ("azure-tdx", vendors.tpm().says(bytes(64)), DeviceFault.RACED),
        ("gcp-tdx", vendors.tpm().says(bytes(64)), DeviceFault.RACED),
    ],
)
def test_quotes_that_are_not_ours(kind: Any, vtpm: Vtpm | None, code: DeviceFault) -> None:
    """A quote that is missing, out of place, none, or over other data is refused."""
    with pytest.raises(AttesterError) as refused:
        check_evidence(kind, good_quote(DATA), DATA, vtpm)
    assert refused.value.code is code


def test_a_device_that_says_nonsense() -> None:
    """What the vTPM says is read strictly: not its canonical form is none."""
    raw = canonical.encode(said())

    assert read_vtpm(b"") is None
    assert read_vtpm(raw) == said()
    for bad in (b"{}", raw + b" ", raw[:-1]):
        with pytest.raises(AttesterError) as refused:
            read_vtpm(bad)
        assert refused.value.code is DeviceFault.ANSWER_INVALID


def test_configfs_is_not_for_azure() -> None:
    """A machine in Azure gives no reports through configfs-tsm; one at Google does."""
    with pytest.raises(ValueError, match="azure-tdx"):
        ConfigfsDevice("azure-tdx")
    assert ConfigfsDevice("gcp-snp").ak == b""
    assert replace(azure(), tpm=vendors.tpm("x")).ak != azure().ak
