"""The certificate table that an SNP host hands to its guest beside a report.

Guarantees: `find` returns an entry only if every row up to it lies inside the table. Nothing in
it is trusted: the chain is verified like any other. Format: AMD GHCB specification, extended guest
request: rows of GUID (16 bytes), offset u32, length u32 (little-endian), ended by a zero row.
"""

from __future__ import annotations

import struct
import uuid
from typing import Final

from verifier.errors import Reason, VerifierError

VCEK: Final = uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes
VLEK: Final = uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1").bytes
MAX_TABLE: Final = 256 * 1024

_ROW: Final = struct.Struct("<16sII")
_MAX_ROWS: Final = 16


def find(table: bytes, wanted: bytes) -> bytes:
    """Return the entry named by the GUID `wanted`, or nothing if the table has none.

    Raises:
        VerifierError: `too_large` or `malformed`.
    """
    if len(table) > MAX_TABLE:
        raise VerifierError(Reason.TOO_LARGE, f"certificate table of {len(table)} bytes")
    for number in range(_MAX_ROWS):
        at = number * _ROW.size
        if at + _ROW.size > len(table):
            break
        guid, offset, length = _ROW.unpack_from(table, at)
        if not any(guid) and offset == length == 0:
            return b""
        if offset + length > len(table):
            raise VerifierError(Reason.MALFORMED, "certificate table: an entry lies outside of it")
        if guid == wanted:
            return table[offset : offset + length]
    raise VerifierError(Reason.MALFORMED, "certificate table: no end")
