"""Two spellings that every C2SP text uses, each read in its one canonical form only.

Guarantees: `base64_line` and `decimal` accept exactly what `print_base64` and `str` print, and
raise nothing but `VerifierError`. Does not know which text the line stands in; the caller names it.
"""

from __future__ import annotations

import base64
import binascii
import re

from verifier.errors import Reason, VerifierError

MAX_SIZE = (1 << 63) - 1
"""Most leaves in a tree: what a signed 64-bit integer holds, in databases and in other readers."""

HASH_SIZE = 32
"""Bytes of a SHA-256 hash."""

_DECIMAL = re.compile(rb"0|[1-9][0-9]{0,18}")
_CONTROL = re.compile(r"[\x00-\x1f]")


def print_base64(raw: bytes) -> bytes:
    """Return `raw` in standard padded base64 (RFC 4648 §4)."""
    return base64.b64encode(raw)


def base64_line(line: bytes, what: str) -> bytes:
    """Return the bytes that `line` encodes.

    Raises:
        VerifierError: `malformed`, naming `what`, unless `line` is exactly what we would print.
            Python accepts loose trailing bits (`bm5=` for `bm4=`), hence the comparison.
    """
    try:
        raw = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError) as error:
        raise VerifierError(Reason.MALFORMED, f"{what} is not base64") from error
    if base64.b64encode(raw) != line:
        raise VerifierError(Reason.MALFORMED, f"{what} is not canonical base64")
    return raw


def hash_line(line: bytes, what: str) -> bytes:
    """Return the 32-byte hash that `line` encodes.

    Raises:
        VerifierError: `malformed`, naming `what`.
    """
    return require_hash(base64_line(line, what), what)


def require_hash(value: bytes, what: str) -> bytes:
    """Return `value` if it has the length of a hash.

    Raises:
        VerifierError: `malformed`, naming `what`.
    """
    if len(value) != HASH_SIZE:
        raise VerifierError(
            Reason.MALFORMED, f"{what}: expected {HASH_SIZE} bytes, seen {len(value)}"
        )
    return value


def decimal(line: bytes, what: str) -> int:
    """Return the ASCII decimal `line`, without sign, space or leading zero, at most `MAX_SIZE`.

    Raises:
        VerifierError: `malformed`, naming `what`.
    """
    if _DECIMAL.fullmatch(line) is None:
        raise VerifierError(Reason.MALFORMED, f"{what} is not a canonical decimal")
    return require_count(int(line), what)


def require_count(value: int, what: str) -> int:
    """Return `value` if it is a number of leaves that we handle, 0 to `MAX_SIZE`.

    Raises:
        VerifierError: `malformed`, naming `what`.
    """
    if not 0 <= value <= MAX_SIZE:
        raise VerifierError(Reason.MALFORMED, f"{what} is outside 0 to 2^63-1")
    return value


def has_control(text: str) -> bool:
    """Tell whether `text` has an ASCII control character, newline included."""
    return _CONTROL.search(text) is not None
