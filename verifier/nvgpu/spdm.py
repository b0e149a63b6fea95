"""The report of a device: an SPDM 1.1 GET_MEASUREMENTS request, and its signed response.

Guarantees: every byte is accounted for, no index stands twice, and the signature is over all bytes
before it, the request with its nonce included. Does not judge a measurement, does not look into the
opaque data, and does not know whose key signs.

(r, n - s) verifies as well as (r, s), so that neither a report nor a digest over one ever names
anything (no replay key). Source: DMTF DSP0274 1.1, §10.11, §10.12; ECDSA P-384 with SHA-384.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from verifier.errors import Reason, VerifierError

MAX_REPORT: Final = 16 * 1024
"""Largest report in bytes; the largest seen (Rubin) has 5.3 KiB."""
NONCE_SIZE: Final = 32
SIGNATURE_SIZE: Final = 96
DIGEST: Final = 0x01
"""Type of a block that holds a digest of mutable firmware, as all of NVIDIA's but manifests."""

_REQUEST: Final = bytes.fromhex("11e001ff")
_RESPONSE: Final = bytes.fromhex("11600000")
_DMTF: Final = 0x01
_BLOCK: Final = 4
_VALUE: Final = 3
_HEAD: Final = struct.Struct("<BBHBH")
"""A block's head and that of the value in it."""
_HALF: Final = SIGNATURE_SIZE // 2
_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
_ALGORITHM: Final = ec.ECDSA(SHA384())


@final
class Block(NamedTuple):
    """One measurement: its type (`DIGEST`, or what else a device says) and its value."""

    kind: int
    value: bytes


@final
@dataclass(frozen=True, slots=True)
class Report:
    """A report, taken apart. `nonce` is the request's: the one that we asked with.

    `blocks` are by index, counted from 1, in the order of the report.
    """

    nonce: bytes
    slot: int
    blocks: Mapping[int, Block]
    responder_nonce: bytes
    opaque: bytes
    signature: bytes
    signed: bytes

    def verifies(self, key: ec.EllipticCurvePublicKey) -> bool:
        """Tell whether the signature is this P-384 key's over everything before it."""
        r = int.from_bytes(self.signature[:_HALF])
        s = int.from_bytes(self.signature[_HALF:])
        if not (0 < r < _ORDER and 0 < s < _ORDER):
            return False
        try:
            key.verify(encode_dss_signature(r, s), self.signed, _ALGORITHM)
        except InvalidSignature:
            return False
        return True


def _error(message: str) -> VerifierError:
    return VerifierError(Reason.MALFORMED, f"report: {message}")


class _Bytes:
    """A place in the report; asking for more than is left is `malformed`."""

    __slots__ = ("at", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def take(self, count: int, what: str) -> bytes:
        part = self.raw[self.at : self.at + count]
        if len(part) != count:
            raise _error(f"{what}: {count} bytes expected, {len(part)} left, at byte {self.at}")
        self.at += count
        return part

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def head(self, expected: bytes, what: str) -> None:
        seen = self.take(len(expected), what)
        if seen != expected:
            raise _error(f"{what}: {expected.hex()} expected, {seen.hex()} seen")


def parse(raw: bytes) -> Report:
    """Return the report in `raw`, request and response, of exactly this length.

    Raises:
        VerifierError: `too_large`, `malformed`, `trailing_data`.
    """
    if len(raw) > MAX_REPORT:
        raise VerifierError(
            Reason.TOO_LARGE, f"report: {len(raw)} bytes, at most {MAX_REPORT} expected"
        )
    data = _Bytes(raw)
    data.head(_REQUEST, "request header")
    nonce = data.take(NONCE_SIZE, "request nonce")
    slot = data.number(1, "slot")
    data.head(_RESPONSE, "response header")
    count = data.number(1, "number of blocks")
    record = data.take(data.number(3, "record length"), "measurement record")
    blocks = _blocks(record, count)
    responder_nonce = data.take(NONCE_SIZE, "responder nonce")
    opaque = data.take(data.number(2, "opaque length"), "opaque data")
    end = data.at
    signature = data.take(SIGNATURE_SIZE, "signature")
    if data.at != len(raw):
        raise VerifierError(
            Reason.TRAILING_DATA,
            f"report: nothing more expected after byte {data.at}, {len(raw) - data.at} bytes left",
        )
    return Report(nonce, slot, blocks, responder_nonce, opaque, signature, raw[:end])


def _blocks(record: bytes, count: int) -> Mapping[int, Block]:
    """Return the blocks of a record: `count` of them, each index once, nothing between or after."""
    blocks: dict[int, Block] = {}
    at = 0
    while at < len(record):
        if len(record) - at < _BLOCK + _VALUE:
            raise _error(f"block: {_BLOCK + _VALUE} bytes expected, {len(record) - at} left")
        index, specification, size, kind, length = _HEAD.unpack_from(record, at)
        start = at + _BLOCK + _VALUE
        at += _BLOCK + size
        if specification != _DMTF or size != length + _VALUE or at > len(record):
            raise _error(
                f"block {index}: specification {specification}, sizes {size} and {length}, "
                f"record ends at {len(record)}"
            )
        if index == 0 or index in blocks:
            raise _error(f"block {index}: an index from 1 to 255, each once, expected")
        blocks[index] = Block(kind, record[start:at])
    if len(blocks) != count:
        raise _error(f"{count} blocks declared, {len(blocks)} seen")
    return MappingProxyType(blocks)


def encode(report: Report) -> bytes:
    """Return the bytes of a report, from its parts."""
    record = b"".join(
        bytes([index, _DMTF])
        + (len(block.value) + _VALUE).to_bytes(2, "little")
        + bytes([block.kind])
        + len(block.value).to_bytes(2, "little")
        + block.value
        for index, block in report.blocks.items()
    )
    return b"".join(
        (
            _REQUEST,
            report.nonce,
            bytes([report.slot]),
            _RESPONSE,
            bytes([len(report.blocks)]),
            len(record).to_bytes(3, "little"),
            record,
            report.responder_nonce,
            len(report.opaque).to_bytes(2, "little"),
            report.opaque,
            report.signature,
        )
    )
