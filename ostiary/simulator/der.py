"""Writes DER (X.690): just the types that certificates, CRLs and signatures are made of.

Guarantees: definite, minimal lengths and minimal integers. Writing certificates by hand is needed
because AMD's have serial number 0 and extensions whose values are bare integers, which certificate
builders refuse; and negative tests want certificates that no builder would make.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_UTC_TIME_UNTIL: Final = 2050
"""RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime from then on."""


def tlv(tag: int, *content: bytes) -> bytes:
    """Return one element: tag, definite length, content."""
    body = b"".join(content)
    size = len(body)
    if size < 0x80:  # noqa: PLR2004 - X.690 §8.1.3: short form below 128
        return bytes([tag, size]) + body
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + body


def sequence(*items: bytes) -> bytes:
    """Return a SEQUENCE."""
    return tlv(0x30, *items)


def set_of(*items: bytes) -> bytes:
    """Return a SET (the caller has sorted what needs sorting)."""
    return tlv(0x31, *items)


def explicit(number: int, *content: bytes) -> bytes:
    """Return a constructed, context-specific element."""
    return tlv(0xA0 | number, *content)


def implicit(number: int, content: bytes) -> bytes:
    """Return a primitive, context-specific element."""
    return tlv(0x80 | number, content)


def integer(value: int) -> bytes:
    """Return an INTEGER in two's complement, minimal."""
    size = (value if value >= 0 else ~value).bit_length() // 8 + 1
    return tlv(0x02, value.to_bytes(size, "big", signed=True))


def enumerated(value: int) -> bytes:
    """Return an ENUMERATED."""
    return b"\x0a" + integer(value)[1:]


def boolean(value: bool) -> bytes:  # noqa: FBT001 - its one operand
    """Return a BOOLEAN; DER true is 0xFF."""
    return tlv(0x01, b"\xff" if value else b"\x00")


def octets(value: bytes) -> bytes:
    """Return an OCTET STRING."""
    return tlv(0x04, value)


def bits(value: bytes, unused: int = 0) -> bytes:
    """Return a BIT STRING."""
    return tlv(0x03, bytes([unused]), value)


def null() -> bytes:
    """Return NULL."""
    return tlv(0x05)


def utf8(text: str) -> bytes:
    """Return a UTF8String."""
    return tlv(0x0C, text.encode())


def printable(text: str) -> bytes:
    """Return a PrintableString."""
    return tlv(0x13, text.encode("ascii"))


def ia5(text: str) -> bytes:
    """Return an IA5String."""
    return tlv(0x16, text.encode("ascii"))


def oid(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    out = bytearray()
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | (arc & 0x7F))
        out += bytes(reversed(groups))
    return tlv(0x06, bytes(out))


def time(moment: int) -> bytes:
    """Return a Time for unix seconds (RFC 5280 §4.1.2.5)."""
    when = datetime.fromtimestamp(moment, UTC)
    if when.year < _UTC_TIME_UNTIL:
        return tlv(0x17, when.strftime("%y%m%d%H%M%SZ").encode())
    return generalized_time(moment)


def generalized_time(moment: int) -> bytes:
    """Return a GeneralizedTime for unix seconds, whatever the year."""
    return tlv(0x18, datetime.fromtimestamp(moment, UTC).strftime("%Y%m%d%H%M%SZ").encode())
