"""Canonical JSON: one value has exactly one encoding, and nothing else decodes.

Guarantees: `decode` returns a value only if encoding it again gives the very bytes that came in,
so duplicate keys, other field orders, white space, `1.0` for an integer, loose base64 and unknown
fields are all refused. Does not guarantee that a value makes sense; that is its reader's business.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache
from typing import Any, TypeVar, final

import msgspec

from verifier.errors import Reason, VerifierError

MAX_MESSAGE = 1 << 20
"""Largest message in bytes that any of our endpoints reads, 1 MiB."""

ID_PATTERN = re.compile(r"[a-z0-9-]{1,63}")


@final
class B64(bytes):
    """Bytes that stand in JSON as unpadded base64url (RFC 4648 §5)."""

    __slots__ = ()


@final
class Hex(bytes):
    """Bytes that stand in JSON as lower-case hexadecimal; for digests, which people compare."""

    __slots__ = ()


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every message: immutable, and an unknown field is an error."""


T = TypeVar("T")


def b64encode(raw: bytes) -> str:
    """Return `raw` as unpadded base64url."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def b64decode(text: str) -> bytes:
    """Return the bytes of unpadded base64url `text`.

    Raises:
        VerifierError: `malformed` unless `text` is exactly what `b64encode` prints.
    """
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise VerifierError(Reason.MALFORMED, "not base64url") from error
    if b64encode(raw) != text:
        raise VerifierError(Reason.MALFORMED, "not canonical unpadded base64url")
    return raw


def hexdecode(text: str) -> bytes:
    """Return the bytes of lower-case hexadecimal `text`.

    Raises:
        VerifierError: `malformed` unless `text` is exactly what `bytes.hex` prints.
    """
    try:
        raw = bytes.fromhex(text)
    except ValueError as error:
        raise VerifierError(Reason.MALFORMED, "not hexadecimal") from error
    if raw.hex() != text:
        raise VerifierError(Reason.MALFORMED, "not canonical lower-case hexadecimal")
    return raw


def enc_hook(value: object) -> str:
    """Tell msgspec how `B64` and `Hex` are written."""
    if type(value) is B64:
        return b64encode(value)
    if type(value) is Hex:
        return value.hex()
    raise NotImplementedError(type(value).__name__)


def dec_hook(kind: type, value: object) -> object:
    """Tell msgspec how `B64` and `Hex` are read."""
    if kind is B64 and isinstance(value, str):
        return B64(b64decode(value))
    if kind is Hex and isinstance(value, str):
        return Hex(hexdecode(value))
    raise ValueError(f"{kind.__name__} expected")


_ENCODER = msgspec.json.Encoder(enc_hook=enc_hook)


@lru_cache(maxsize=64)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 - a type or a union of types
    return msgspec.json.Decoder(kind, strict=True, dec_hook=dec_hook)


def encode(value: msgspec.Struct) -> bytes:
    """Return the canonical JSON of `value`: fields in declared order, no white space."""
    return _ENCODER.encode(value)


def decode(raw: bytes, kind: type[T], *, limit: int = MAX_MESSAGE) -> T:
    """Return the `kind` that `raw` encodes.

    Args:
        raw: the received bytes.
        kind: a `Struct` type, or a union of tagged ones.
        limit: most bytes to read.

    Raises:
        VerifierError: `too_large` or `malformed`.
    """
    if len(raw) > limit:
        raise VerifierError(Reason.TOO_LARGE, f"message of {len(raw)} bytes, limit {limit}")
    try:
        value = _decoder(kind).decode(raw)  # type: ignore[arg-type]  # types are hashable
    except VerifierError:
        raise
    # msgspec gives ValidationError/DecodeError (both ValueError's kin), UnicodeDecodeError on bad
    # UTF-8 in some positions and RecursionError on deep nesting.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise VerifierError(Reason.MALFORMED, f"not a valid message: {error}") from error
    if _ENCODER.encode(value) != raw:
        raise VerifierError(Reason.MALFORMED, "not the canonical encoding")
    return value  # type: ignore[no-any-return]  # the decoder was made for `kind`


def require_id(text: str, what: str) -> str:
    """Return `text` if it is an identifier, `[a-z0-9-]{1,63}`.

    Raises:
        VerifierError: `malformed`, naming `what`.
    """
    if ID_PATTERN.fullmatch(text) is None:
        raise VerifierError(Reason.MALFORMED, f"{what} is not an identifier [a-z0-9-]{{1,63}}")
    return text
