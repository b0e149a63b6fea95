"""PEM: the text form in which certificates come, read strictly.

Guarantees: what `split_pem` returns are the contents of certificate blocks and of nothing else, and
their base64 has the one form that encoding gives. Does not read the certificates.
"""

from __future__ import annotations

import binascii
from typing import Final

from verifier.errors import Reason, VerifierError

MAX_PEM: Final = 64 * 1024
"""Largest PEM chain in bytes."""
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
_LINE_ENDS: Final = b"\r\n"


def split_pem(pem: str | bytes, what: str, *, limit: int) -> tuple[bytes, ...]:
    """Return the DER of each certificate block of a PEM text (RFC 7468 §5), at most `limit`.

    Only line ends may stand around blocks, and NUL bytes at the end (quotes carry a C string).

    Raises:
        VerifierError: `too_large`, or `chain_invalid` for other text, other blocks, loose base64
            and more blocks than `limit`.
    """
    if len(pem) > MAX_PEM:
        raise VerifierError(
            Reason.TOO_LARGE, f"{what}: {len(pem)} bytes, at most {MAX_PEM} expected"
        )
    try:
        raw = pem.encode("ascii") if isinstance(pem, str) else pem
    except UnicodeEncodeError as error:
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: not ASCII") from error
    left = raw.rstrip(b"\0").strip(_LINE_ENDS)
    blocks: list[bytes] = []
    while left:
        body, end, rest = left.removeprefix(_BEGIN).partition(_END)
        if not left.startswith(_BEGIN) or not end or not _in_lines(body):
            raise VerifierError(
                Reason.CHAIN_INVALID,
                f"{what}: block {len(blocks) + 1}: a PEM certificate block expected",
            )
        if len(blocks) == limit:
            raise VerifierError(
                Reason.CHAIN_INVALID, f"{what}: more than the expected {limit} certificates"
            )
        blocks.append(_decoded(body.translate(None, _LINE_ENDS), what))
        left = rest.lstrip(_LINE_ENDS)
    return tuple(blocks)


def _in_lines(body: bytes) -> bool:
    """Tell whether the contents stand on lines of their own."""
    return body.startswith((b"\n", b"\r\n")) and body.endswith(b"\n")


def _decoded(text: bytes, what: str) -> bytes:
    """Return what the base64 says; encoded again it must give the same text, and something."""
    try:
        der = binascii.a2b_base64(text)
    except binascii.Error as error:
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: base64: {error}") from error
    if not der or binascii.b2a_base64(der, newline=False) != text:
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: base64 is not canonical")
    return der
