"""Which device a certificate chain names: chip, architecture, kind, and an id that stays.

Guarantees: all of it comes from the certificates of boot ROM (BROM) and attestation key (leaf), who
must agree, never from the caller and never from the report. The id is the serial number of the BROM
certificate: a kind byte and the PDI. It outlives firmware updates, which the leaf's does not.
Does not check signatures; `chain` calls this once they hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, final

from cryptography import x509 as certificates

from verifier import x509
from verifier.der import Der
from verifier.errors import Reason, VerifierError

Arch = Literal["hopper", "blackwell", "rubin", "ls10", "unknown"]

DEVICE_ID_SIZE: Final = 9

_ARCHS: Final[dict[str, Arch]] = {"GH": "hopper", "GB": "blackwell", "GR": "rubin", "LS": "ls10"}
_LEAF: Final = re.compile(r"([A-Z]{2}_?[0-9A-Z]{2,6}) ([A-Z][0-9]{2}) ([A-Z]{3}) FMC LF", re.ASCII)
_BROM: Final = re.compile(r"([A-Z]{2}_?[0-9A-Z]{2,6}) ([A-Z][0-9]{2}) ([A-Z]{3}) BROM", re.ASCII)
_SAN: Final = re.compile(r"NVIDIA:([A-Z]{2}_?[0-9A-Z]{2,6}):[0-9A-F]{16}", re.ASCII)
_SAN_TYPE: Final = "1.3.6.1.4.1.412.274.1"
"""DMTF's otherName for a device, id-DMTF-device-info (DSP0274 §8.3)."""
_UTF8_STRING: Final = 0x0C


@final
class DeviceKind(IntEnum):
    """What a device is; the same numbers as in the wire's GpuEvidence."""

    GPU = 1
    SWITCH = 2


_KINDS: Final = {0x41: DeviceKind.GPU, 0x50: DeviceKind.SWITCH}
"""Kinds by the first byte of a BROM certificate's serial number."""


@final
@dataclass(frozen=True, slots=True)
class Identity:
    """Who a device is. `chip` is as the RIMs spell it: "GH100", "LS10"; `model` as on the leaf."""

    device_id: bytes
    kind: DeviceKind
    chip: str
    arch: Arch
    model: str

    @property
    def pdi(self) -> bytes:
        """The 8 bytes by which GPUs and switches name each other."""
        return self.device_id[1:]


def _error(message: str) -> VerifierError:
    return VerifierError(Reason.CHAIN_INVALID, f"device chain: {message}")


def read(leaf: certificates.Certificate, brom: certificates.Certificate) -> Identity:
    """Return whom the two lowest certificates name (NVIDIA's names; see the module).

    Raises:
        VerifierError: `chain_invalid` if they are not of one device, or of no known form.
    """
    names = (x509.common_name(leaf), x509.common_name(brom))
    found, below = _LEAF.fullmatch(names[0]), _BROM.fullmatch(names[1])
    if found is None or below is None or found.groups() != below.groups():
        raise _error(f"attestation key and BROM of one device expected, {names!r:.200} seen")
    if _san(leaf) != found[1]:
        raise _error(f"subjectAltName: {found[1]} expected, {_san(leaf)!r:.80} seen")
    serial = x509.serial_number(brom)
    kind = _KINDS.get(serial >> (8 * (DEVICE_ID_SIZE - 1)))
    chip = found[1].replace("_", "")
    if kind is None or (kind is DeviceKind.SWITCH) != chip.startswith("LS"):
        raise _error(f"BROM: serial number {serial:x} is not that of a {chip}")
    arch = _ARCHS.get(chip[:2], "unknown")
    return Identity(serial.to_bytes(DEVICE_ID_SIZE), kind, chip, arch, names[0])


def _san(leaf: certificates.Certificate) -> str:
    """Return the chip that the leaf's subjectAltName names, "" unless exactly one does."""
    try:
        names = leaf.extensions.get_extension_for_class(certificates.SubjectAlternativeName).value
    except certificates.ExtensionNotFound:
        return ""
    chips = []
    for name in names.get_values_for_type(certificates.OtherName):
        if name.type_id.dotted_string == _SAN_TYPE:
            text = Der(name.value, "subjectAltName").value(_UTF8_STRING).decode("latin-1")
            match = _SAN.fullmatch(text)
            chips.append("" if match is None else match[1])
    return chips[0] if len(chips) == 1 else ""
