"""What a device is by: its PDI, its boot ROM's certificate and its attestation key's.

Guarantees: names, serials and extensions of the two lowest certificates as real Hopper GPUs and
LS10 switches have them. Signs nothing: `pki.py` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, final

from cryptography.hazmat.primitives.asymmetric import ec

from ostiary.simulator import certificates, der
from ostiary.simulator.certificates import Certificate, Extension, key_id, name

Chip = Literal["GH100", "LS10"]
FOREVER: Final = 253_402_300_799
"""9999-12-31T23:59:59Z, the end of every device certificate."""
PDI_SIZE: Final = 8
CORPORATION: Final = ("O", "NVIDIA Corporation")
COUNTRY: Final = ("C", "US")
_FWID: Final = "2.23.133.5.4.1"
_SAN_TYPE: Final = "1.3.6.1.4.1.412.274.1"
_SPELLED: Final[Mapping[Chip, str]] = {"GH100": "GH100", "LS10": "LS_10"}
"""How certificates spell the chip."""
_PROCESSOR: Final[Mapping[Chip, str]] = {"GH100": "GSP", "LS10": "FSP"}
_PREFIX: Final[Mapping[Chip, int]] = {"GH100": 0x41, "LS10": 0x50}
"""First byte of a BROM's serial number; the PDI follows."""


@final
@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """One device's keys and chain (DER): leaf, BROM, ICA, Identity, root."""

    chip: Chip
    pdi: bytes
    """8 bytes; the BROM's serial is 0x41 or 0x50 and these."""
    fwid: bytes
    """SHA-384 of the firmware that holds the attestation key; 48 bytes."""
    brom_key: ec.EllipticCurvePrivateKey
    key: ec.EllipticCurvePrivateKey
    """The attestation key."""
    chain: tuple[bytes, ...]

    @property
    def brom_serial(self) -> int:
        """The serial number of the BROM's certificate."""
        return brom_serial(self.chip, self.pdi)

    @property
    def chain_pem(self) -> bytes:
        """The chain as the driver hands it out."""
        return certificates.pem(*self.chain).encode()


def brom_serial(chip: Chip, pdi: bytes) -> int:
    """Return a BROM's serial number."""
    return int.from_bytes(bytes([_PREFIX[chip]]) + pdi, "big")


def fwid_extension(brom_spki: bytes, fwid: bytes) -> Extension:
    """Return the leaf's firmware id: the BROM's key, and the digest of the firmware that ran."""
    digest = der.sequence(der.oid("2.16.840.1.101.3.4.2.2"), der.octets(fwid))
    return Extension(_FWID, der.sequence(der.integer(1), brom_spki, digest))


def brom(
    chip: Chip, pdi: bytes, spki: bytes, *, issuer: bytes, above: bytes, at: int
) -> Certificate:
    """Return what a boot ROM's certificate says.

    Args:
        chip: decides names.
        pdi: the device's.
        spki: its key.
        issuer: the ICA's name (DER).
        above: the ICA's key (SPKI).
        at: not before.
    """
    serial = brom_serial(chip, pdi)
    common_name = f"{_SPELLED[chip]} A01 {_PROCESSOR[chip]} BROM"
    return Certificate(
        subject=name(("serialNumber", f"{serial:X}"), COUNTRY, CORPORATION, ("CN", common_name)),
        issuer=issuer,
        serial=serial,
        not_before=at,
        not_after=FOREVER,
        spki=spki,
        extensions=(
            certificates.basic_constraints(ca=True),
            certificates.key_usage(certificates.KEY_CERT_SIGN),
            certificates.subject_key_id(spki),
            certificates.authority_key_id(above),
        ),
    )


def leaf(chip: Chip, pdi: bytes, fwid: bytes, spki: bytes, *, parent: Certificate) -> Certificate:
    """Return what an attestation key's certificate says, under a boot ROM's."""
    spelled = _SPELLED[chip]
    # The key's SHA-1 with the top bits forced: always positive, always 20 bytes.
    digest = key_id(spki)
    serial = int.from_bytes(bytes([digest[0] & 0x7F | 0x40]) + digest[1:], "big")
    # The id in the SAN is another one than the PDI; any stable one will do.
    board = hashlib.sha256(pdi).hexdigest()[:10].upper()
    text = der.explicit(0, der.utf8(f"NVIDIA:{spelled}:48B02D{board}"))
    common_name = f"{spelled} A01 {_PROCESSOR[chip]} FMC LF"
    return Certificate(
        subject=name(("serialNumber", f"{serial:X}"), COUNTRY, CORPORATION, ("CN", common_name)),
        issuer=parent.subject,
        serial=serial,
        not_before=parent.not_before,
        not_after=FOREVER,
        spki=spki,
        extensions=(
            certificates.key_usage(certificates.DIGITAL_SIGNATURE),
            certificates.subject_key_id(spki),
            certificates.authority_key_id(parent.spki),
            Extension("2.5.29.17", der.sequence(der.explicit(0, der.oid(_SAN_TYPE), text))),
            fwid_extension(parent.spki, fwid),
        ),
    )
