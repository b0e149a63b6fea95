"""Writes attestation reports: SPDM 1.1 GET_MEASUREMENTS, the device's MEASUREMENTS, signature.

Guarantees: `Report.unsigned` is the layout of real reports (DSP0274 1.1 §10.11 and NVIDIA's opaque
data), byte for byte; `sign` covers the request too, as the devices do. Checks nothing: negative
tests want reports that no device would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

REQUEST: Final = bytes.fromhex("11e001ff")
"""SPDM 1.1, GET_MEASUREMENTS, signature requested, all blocks."""
RESPONSE: Final = bytes.fromhex("11600000")
_DMTF: Final = 1
"""MeasurementSpecification: DMTF."""
_SCALAR: Final = 48
"""Bytes of r and of s on P-384."""


@final
@dataclass(frozen=True, slots=True)
class Block:
    """One measurement block. `index` counts from 1; its RIM index is one less."""

    index: int
    value: bytes
    kind: int = 1
    """DMTFSpecMeasurementValueType; all of NVIDIA's have 1 (mutable firmware)."""
    specification: int = _DMTF

    def encode(self) -> bytes:
        """Return the block."""
        value = bytes([self.kind]) + len(self.value).to_bytes(2, "little") + self.value
        head = bytes([self.index, self.specification]) + len(value).to_bytes(2, "little")
        return head + value


@final
@dataclass(frozen=True, slots=True)
class Field:
    """One field of the opaque data, in the legacy layout (drivers before 620)."""

    type: int
    data: bytes

    def encode(self) -> bytes:
        """Return type, length, data."""
        size = len(self.data).to_bytes(2, "little")
        return self.type.to_bytes(2, "little") + size + self.data


@final
@dataclass(frozen=True, slots=True)
class Report:
    """What a report says, before it is signed."""

    nonce: bytes
    responder_nonce: bytes
    blocks: tuple[Block, ...]
    fields: tuple[Field, ...]
    slot: int = 0
    request: bytes = REQUEST
    response: bytes = RESPONSE

    def unsigned(self) -> bytes:
        """Return everything that the signature covers."""
        record = b"".join(block.encode() for block in self.blocks)
        opaque = b"".join(field.encode() for field in self.fields)
        return (
            self.request
            + self.nonce
            + bytes([self.slot])
            + self.response
            + bytes([len(self.blocks)])
            + len(record).to_bytes(3, "little")
            + record
            + self.responder_nonce
            + len(opaque).to_bytes(2, "little")
            + opaque
        )

    def sign(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        """Return the report, signed (ECDSA P-384 with SHA-384, r and s big-endian)."""
        body = self.unsigned()
        return body + raw_signature(key, body)


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Return r and s, 48 bytes each, big-endian."""
    pair = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA384())))
    return b"".join(number.to_bytes(_SCALAR, "big") for number in pair)
