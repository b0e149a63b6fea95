"""What Intel's certificates and revocation lists have in common, as DER.

Guarantees: each `read_*` returns what stands next only if it has the one form that the profile
gives it; anything else is a `VerifierError`, to which the caller gives the reason of its document.

Source: RFC 5280 §4.1, §4.2, §5.1; Intel SGX PCK Certificate and CRL Profile Specification.
"""

from __future__ import annotations

import functools
import re
from datetime import datetime
from typing import Final

from verifier.der import (
    BOOLEAN,
    GENERALIZED_TIME,
    INTEGER,
    OCTET_STRING,
    SEQUENCE,
    SET,
    UTC_TIME,
    Der,
)
from verifier.errors import Reason, VerifierError

ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
"""AlgorithmIdentifier ecdsa-with-SHA256 (DER)."""
_COMMON_NAME: Final = bytes.fromhex("550403")
_STRINGS: Final = frozenset({0x0C, 0x13})
"""UTF8String and PrintableString."""
_MAX_SERIAL: Final = 20
_UTC_DIGITS: Final = re.compile(rb"\d{12}Z")
_GENERALIZED_DIGITS: Final = re.compile(rb"\d{14}Z")
_UTC_PIVOT: Final = b"50"
_SHORT_EXTENSION: Final = re.compile(
    rb"0([\0-\x7f])\x06\x03(\x55\x1d[\0-\x7f])(\x01\x01\xff)?\x04([\0-\x7f])"
)
"""An extension of RFC 5280's own, with lengths of one byte, up to its contents: most of them."""


def refusal(message: str) -> VerifierError:
    """Return the error of DER that is not of the profile."""
    return VerifierError(Reason.MALFORMED, message)


def read_signed(der: bytes, what: str) -> tuple[bytes, bytes]:
    """Return what is signed (DER) and its signature, of a certificate or of a revocation list.

    Raises:
        VerifierError: `malformed`; also for another algorithm than ECDSA with SHA-256.
    """
    outer = Der(der, what)
    parts = outer.sequence()
    outer.end()
    signed = parts.element(SEQUENCE)
    algorithm = parts.element(SEQUENCE)
    if algorithm != ECDSA_SHA256:
        raise refusal(f"signature algorithm ecdsa-with-SHA256 expected, {algorithm.hex()} seen")
    signature = parts.whole_bits()
    parts.end()
    return signed, signature


def read_serial(body: Der) -> bytes:
    """Return the next INTEGER's contents, which must be those of a serial number (RFC 5280).

    Raises:
        VerifierError: `malformed`, also for a negative number and for one of over 20 bytes.
    """
    raw = body.value(INTEGER)
    padded = len(raw) > 1 and raw[0] == 0 and raw[1] < 0x80  # noqa: PLR2004 - the sign bit
    if not raw or raw[0] & 0x80 or padded or len(raw) > _MAX_SERIAL + 1:
        raise refusal(f"a serial number from 0 in at most 20 bytes expected, {raw.hex()} seen")
    return raw


def read_time(body: Der) -> int:
    """Return the next Time in unix seconds (RFC 5280 §4.1.2.5).

    Raises:
        VerifierError: `malformed`.
    """
    if body.next_is(UTC_TIME):
        raw = body.value(UTC_TIME)
        good = _UTC_DIGITS.fullmatch(raw)
        raw = (b"20" if raw < _UTC_PIVOT else b"19") + raw
    else:
        raw = body.value(GENERALIZED_TIME)
        good = _GENERALIZED_DIGITS.fullmatch(raw)
    if good is None:
        raise refusal(f"a time expected, {raw!r} seen")
    text = raw.decode()
    try:
        moment = datetime.fromisoformat(f"{text[:8]}T{text[8:]}")
    except ValueError as error:
        raise refusal(f"a time expected, {raw!r} seen") from error
    return int(moment.timestamp())


def read_extensions(outer: Der, honoured: frozenset[bytes]) -> dict[bytes, bytes]:
    """Return the contents of each extension by its OID (DER contents).

    Raises:
        VerifierError: `malformed`, also for one twice and for a critical one not in `honoured`.
    """
    raw = outer.value(SEQUENCE)
    outer.end()
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(raw):
        short = _SHORT_EXTENSION.match(raw, at)
        if short is not None and short[1][0] == short.end() - at - 2 + short[4][0]:
            oid, critical = short[2], short[3] is not None
            end = short.end() + short[4][0]
            value = raw[short.end() : end]
        else:
            oid, critical, value, end = _long_extension(raw, at)
        if end > len(raw):
            raise refusal("an extension is cut")
        if critical and oid not in honoured:
            raise refusal(f"unknown critical extension {oid.hex()}")
        if oid in found:
            raise refusal(f"extension {oid.hex()} twice")
        found[oid] = value
        at = end
    return found


def _long_extension(raw: bytes, at: int) -> tuple[bytes, bool, bytes, int]:
    """Return OID, criticality, contents and end of the extension that starts at `at`."""
    rest = Der(raw[at:], "extensions")
    first = rest.element(SEQUENCE)
    field = Der(first, "extension").sequence()
    oid = field.oid_bytes()
    critical = field.next_is(BOOLEAN) and field.boolean()
    value = field.value(OCTET_STRING)
    field.end()
    return oid, critical, value, at + len(first)


@functools.lru_cache(maxsize=64)
def common_name(name: bytes) -> str:
    """Return the common name in a Name (DER), or "" unless there is exactly one.

    Raises:
        VerifierError: `malformed`, also for two attributes in one part and for strange strings.
    """
    parts = Der(name, "name").sequence()
    names = []
    while not parts.done():
        part = parts.inside(SET)
        attribute = part.sequence()
        part.end()
        kind = attribute.oid_bytes()
        if not any(attribute.next_is(tag) for tag in _STRINGS):
            raise refusal("a UTF8String or a PrintableString expected in a name")
        raw = attribute.any()
        attribute.end()
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise refusal("a name is not UTF-8") from error
        if kind == _COMMON_NAME:
            names.append(text)
    return names[0] if len(names) == 1 else ""
