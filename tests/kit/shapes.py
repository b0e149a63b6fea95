"""Skeletons: what a signed thing looks like without its values, to compare real with ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = (ROOT / os.environ.get("OSTIARY_EVIDENCE_DIR", "../shared/evidence")).resolve()

_KEPT = {0x01, 0x05, 0x06, 0x0C, 0x13}
"""BOOLEAN, NULL, OID and the texts of names: equal in real and simulated."""

_RAW = {2, 6, 16, 20, 32, 64}
"""Sizes of identifiers and digests: random bytes, which may look like DER by chance."""


def elements(data: bytes) -> list[tuple[int, bytes]]:
    """Return the DER elements in `data`, one level."""
    found = []
    at = 0
    while at < len(data):
        tag, first = data[at], data[at + 1]
        octets = first & 0x7F if first & 0x80 else 0
        start = at + 2 + octets
        size = int.from_bytes(data[at + 2 : start], "big") if octets else first
        if start + size > len(data):
            raise ValueError("cut short")
        found.append((tag, data[start : start + size]))
        at = start + size
    return found


def skeleton(data: bytes) -> Any:
    """Return DER with numbers, times and strings of bits and octets replaced by their tag."""
    rows: list[Any] = []
    for tag, content in elements(data):
        if tag & 0x20:
            rows.append((hex(tag), skeleton(content)))
        elif tag in _KEPT:
            rows.append((hex(tag), content.hex()))
        elif tag == 0x04 and len(content) in _RAW:
            rows.append(("octets", len(content)))
        elif tag == 0x04:
            try:
                rows.append(("octets", skeleton(content)))
            except (ValueError, IndexError):
                rows.append(("octets", len(content)))
        else:
            rows.append((hex(tag),))
    return rows


def members(value: Any) -> Any:
    """Return JSON with its values taken out: member names in order, the first of each list."""
    if isinstance(value, dict):
        return [(key, members(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return [members(value[0])] if value else []
    return type(value).__name__


def tbs(der: bytes) -> bytes:
    """Return the bytes of a certificate or CRL that are signed."""
    inside = elements(der)[0][1]
    first = elements(inside)[0][1]
    head = 2 + (inside[1] & 0x7F if inside[1] & 0x80 else 0)
    return inside[: head + len(first)]


def serial(der: bytes) -> bytes:
    """Return a certificate's serial number as its DER content (the library dislikes AMD's 0)."""
    return elements(elements(tbs(der))[0][1])[1][1]


def signature(der: bytes) -> bytes:
    """Return the signature of a certificate or CRL."""
    return elements(elements(der)[0][1])[2][1][1:]


def check_signed(der: bytes, issuer_spki: bytes) -> None:
    """Raise `InvalidSignature` unless a certificate or CRL is signed by the issuer's key."""
    key = load_der_public_key(issuer_spki)
    if isinstance(key, rsa.RSAPublicKey):
        scheme = padding.PSS(padding.MGF1(SHA384()), 48)
        key.verify(signature(der), tbs(der), scheme, SHA384())
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature(der), tbs(der), ec.ECDSA(SHA256()))
    else:
        raise TypeError("EC or RSA")
