"""Reads the machine's report device: the place where hardware vouches for this guest.

Guarantees: `report` returns evidence that the device made for exactly the 64 bytes it was given, or
raises; `launch_config` returns what the launch was measured with, from a source that the host
cannot forge on real hardware. Does not judge evidence (the verifier does) and knows no broker.
`configfs.py` reads real TDX and SNP guests, `socket_device.py` the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, final

from inference_runtime.attester.errors import AttesterError, DeviceFault
from verifier.wire.messages import Kind, Vtpm

REPORT_DATA_SIZE: Final = 64
"""Bytes that a report can be bound to (TDX REPORTDATA, SNP REPORT_DATA)."""
LAUNCH_CONFIG_SIZE: Final[dict[Kind, int]] = {
    "tdx": 48,
    "snp": 32,
    "gcp-tdx": 48,
    "gcp-snp": 32,
    "azure-tdx": 32,
    "azure-snp": 32,
}
"""Bytes of MRCONFIGID (TDX module ABI, TDINFO), of HOST_DATA (AMD 56860), of PCR 8 in Azure."""


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """What the device gave: a quote or report, an event log, and the vendor's auxiliary blob.

    `event_log` and `aux` are host input: empty where the machine offers none. `vtpm` is what a
    virtual TPM says, where the kind has one; in Azure it holds the hardware report. `missing` says
    for people what this machine does not offer, and what would make it; a policy may need it.
    """

    cpu: bytes
    event_log: bytes
    aux: bytes
    vtpm: Vtpm | None = None
    missing: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """What the launch was configured with: MRCONFIGID (48 bytes) or HOST_DATA (32 bytes).

    With `extended` it is PCR 8 (SHA-256, 32 bytes), which the machine's first stage extended once.
    """

    value: bytes
    extended: bool = False


class ReportDevice(Protocol):
    """A machine's report device."""

    @property
    def kind(self) -> Kind:
        """The kind of evidence that this device gives."""
        ...

    @property
    def ak(self) -> bytes:
        """The public key (SPKI, DER) that this machine's vTPM quotes with; empty without one."""
        ...

    def report(self, report_data: bytes) -> Evidence:
        """Return evidence bound to `report_data` (64 bytes).

        Raises:
            AttesterError: no evidence, with what to do about it.
        """
        ...

    def launch_config(self) -> LaunchConfig:
        """Return what this machine was launched with.

        Raises:
            AttesterError: it cannot be read.
        """
        ...


def require_report_data(report_data: bytes) -> None:
    """Refuse report data of another size than 64 bytes.

    Raises:
        AttesterError: `device_request_invalid`.
    """
    if len(report_data) != REPORT_DATA_SIZE:
        raise AttesterError(
            DeviceFault.REQUEST_INVALID,
            f"report data has {len(report_data)} bytes, {REPORT_DATA_SIZE} expected",
        )


__all__ = [
    "LAUNCH_CONFIG_SIZE",
    "REPORT_DATA_SIZE",
    "AttesterError",
    "DeviceFault",
    "Evidence",
    "Kind",
    "LaunchConfig",
    "ReportDevice",
    "Vtpm",
    "require_report_data",
]
