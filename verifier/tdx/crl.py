"""Intel's revocation lists, read strictly and at once.

Guarantees: what `load` returns is DER of a complete v2 list of bounded size, signed by ECDSA with
SHA-256 in whole bytes, with nextUpdate, no extension twice and none that is critical and narrows or
widens the list; `check_signature` returns only if the issuer may sign lists and signed this one.
Does not judge dates.

Source: Intel SGX PCK Certificate and CRL Profile Specification; RFC 5280 §5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, final

from verifier.der import INTEGER, SEQUENCE, Der
from verifier.errors import Reason, VerifierError
from verifier.tdx.certificate import Certificate, may_sign_crls, verifies
from verifier.tdx.profile import (
    ECDSA_SHA256,
    common_name,
    read_extensions,
    read_serial,
    read_signed,
    read_time,
    refusal,
)
from verifier.tdx.windows import Window
from verifier.x509 import MAX_CRL

_V2: Final = b"\x01"
_EXTENSIONS_TAG: Final = 0xA0
_CRL_NUMBER: Final = bytes.fromhex("551d14")
_AUTHORITY_KEY: Final = bytes.fromhex("551d23")
_HONOURED: Final = frozenset({_CRL_NUMBER, _AUTHORITY_KEY})
"""Extensions with no effect on what the list covers."""

_DATE: Final = (
    rb"(?:[0-9]{2}(?:(?:0[1-9]|1[0-2])(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])(?:29|30)"
    rb"|(?:0[13578]|1[02])31)|(?:[02468][048]|[13579][26])0229)"
)
"""YYMMDD of a day that there is: of UTCTime's years, those that 4 divides have a February 29."""

# An entry as Intel writes all of them: a serial number of 20 bytes, a UTCTime, a reason code. Large
# lists are read by this form; an entry of any other form is read field by field.
_ENTRY: Final = re.compile(
    rb"0(?:3\x02\x14(?=[\x01-\x7f])|4\x02\x15(?=\0[\x80-\xff]))(\0?+[\s\S]{20})"
    rb"\x17\r"
    + _DATE
    + rb"(?:[01][0-9]|2[0-3])[0-5][0-9][0-5][0-9]Z0\x0c0\n\x06\x03\x55\x1d\x15\x04\x03\n\x01[\s\S]"
)
_ENTRY_REST: Final = 33
"""Bytes of such an entry beside the serial number itself."""


@final
@dataclass(frozen=True, slots=True)
class RevocationList:
    """One list. `issuer` is DER, `revoked` are serial numbers as certificates have them."""

    what: str
    issuer: bytes
    start: int
    end: int
    revoked: frozenset[bytes]
    signed: bytes
    signature: bytes

    @property
    def window(self) -> Window:
        """Return thisUpdate to nextUpdate."""
        return Window(self.what, self.start, self.end, Reason.CRL_INVALID, Reason.CRL_EXPIRED)


def load(der: bytes, what: str) -> RevocationList:
    """Return the revocation list in `der`, named `what` in errors.

    Raises:
        VerifierError: `too_large` over 1 MiB, else `crl_invalid`.
    """
    if len(der) > MAX_CRL:
        raise VerifierError(
            Reason.TOO_LARGE, f"{what}: {len(der)} bytes, at most {MAX_CRL} expected"
        )
    try:
        return _load(der, what)
    except VerifierError as error:
        raise VerifierError(Reason.CRL_INVALID, f"{what}: {error}") from error


def _load(der: bytes, what: str) -> RevocationList:
    signed, signature = read_signed(der, what)
    body = Der(signed, what).sequence()
    if not body.next_is(INTEGER) or body.value(INTEGER) != _V2:
        raise refusal("v2 expected")
    if body.element(SEQUENCE) != ECDSA_SHA256:
        raise refusal("the same signature algorithm inside expected")
    issuer = body.element(SEQUENCE)
    common_name(issuer)  # refuses a name that is not well formed
    start, end = read_time(body), read_time(body)
    revoked = frozenset[bytes]()
    if body.next_is(SEQUENCE):
        revoked = _revoked(body.value(SEQUENCE), what)
    read_extensions(body.inside(_EXTENSIONS_TAG), _HONOURED)
    body.end()
    return RevocationList(what, issuer, start, end, revoked, signed, signature)


def _revoked(entries: bytes, what: str) -> frozenset[bytes]:
    """Return the serial numbers of all entries."""
    serials: list[bytes] = _ENTRY.findall(entries)
    if sum(map(len, serials)) + _ENTRY_REST * len(serials) == len(entries):
        return frozenset(serials)
    found = set()
    left = Der(entries, what)
    while not left.done():
        entry = left.sequence()
        found.add(read_serial(entry))
        read_time(entry)
        if not entry.done():
            read_extensions(entry, frozenset())
    return frozenset(found)


def check_signature(crl: RevocationList, issuer: Certificate) -> None:
    """Check that `issuer` signed the list: its name, its right to, its signature (RFC 5280 §6.3.3).

    Raises:
        VerifierError: `crl_invalid`.
    """
    if crl.issuer != issuer.subject:
        raise VerifierError(
            Reason.CRL_INVALID,
            f"{crl.what}: issuer {issuer.common_name} expected, {common_name(crl.issuer)} seen",
        )
    if not may_sign_crls(issuer):
        raise VerifierError(Reason.CRL_INVALID, f"{crl.what}: its issuer may not sign CRLs")
    if not verifies(issuer, crl.signature, crl.signed):
        raise VerifierError(Reason.CRL_INVALID, f"{crl.what}: not signed by its issuer")
