"""Certificate revocation lists, read strictly and checked one property at a time.

Guarantees: what `load_crl` returns is a complete v2 list in DER with nothing after it, of bounded
size, with no extension twice, none that narrows or widens the list, and one spelling of its
signature; each `check_*` returns only if the property that it names holds.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Final

from cryptography import x509

from verifier.errors import Reason, VerifierError
from verifier.x509.certificate import check_algorithm, check_extensions, key_usage, serial_number
from verifier.x509.library import LIBRARY_ERRORS, check_crl_shape
from verifier.x509.moment import rfc3339, unix

MAX_CRL: Final = 1024 * 1024
"""Largest revocation list in bytes (DER)."""

_CRITICAL: Final = frozenset({"2.5.29.20", "2.5.29.35"})
"""Extensions with no effect on what the list covers: cRLNumber, authorityKeyIdentifier."""
_EAGER: Final[tuple[Callable[[x509.CertificateRevocationList], object], ...]] = (
    attrgetter("issuer"),
    attrgetter("last_update_utc"),
    attrgetter("next_update_utc"),
    attrgetter("signature_hash_algorithm"),
    attrgetter("signature_algorithm_parameters"),
)


def load_crl(der: bytes, what: str) -> x509.CertificateRevocationList:
    """Return the complete v2 CRL in `der` (RFC 5280 §5.1).

    Raises:
        VerifierError: `too_large` over 1 MiB; `crl_invalid` for another version, a missing
            nextUpdate, a repeated extension, or a critical one that narrows or widens the list.
    """
    if len(der) > MAX_CRL:
        raise VerifierError(
            Reason.TOO_LARGE, f"{what}: {len(der)} bytes, at most {MAX_CRL} expected"
        )
    check_crl_shape(der, what)
    try:
        crl = x509.load_der_x509_crl(der)
        extensions = crl.extensions
        for read in _EAGER:
            read(crl)
        entries = [extension for entry in crl for extension in entry.extensions]
    except LIBRARY_ERRORS as error:
        raise VerifierError(Reason.CRL_INVALID, f"{what}: not a CRL: {error}") from error
    if crl.next_update_utc is None:
        raise VerifierError(Reason.CRL_INVALID, f"{what}: a CRL with nextUpdate expected")
    check_extensions(extensions, _CRITICAL, Reason.CRL_INVALID, what)
    check_extensions(entries, frozenset(), Reason.CRL_INVALID, f"{what}: entry")
    return crl


def crl_window(crl: x509.CertificateRevocationList) -> tuple[int, int]:
    """Return thisUpdate and nextUpdate in unix seconds.

    Raises:
        VerifierError: `crl_invalid` if there is no nextUpdate.
    """
    if crl.next_update_utc is None:
        raise VerifierError(Reason.CRL_INVALID, "CRL: no nextUpdate")
    return unix(crl.last_update_utc), unix(crl.next_update_utc)


def check_crl_signature(
    crl: x509.CertificateRevocationList, issuer: x509.Certificate, what: str
) -> None:
    """Check that `issuer` signed the CRL: its name, its right to, its signature (RFC 5280 §6.3.3).

    Raises:
        VerifierError: `crl_invalid`.
    """
    if crl.issuer != issuer.subject:
        raise VerifierError(
            Reason.CRL_INVALID,
            f"{what}: issuer {issuer.subject.rfc4514_string()} expected, "
            f"{crl.issuer.rfc4514_string()} seen",
        )
    usage = key_usage(issuer)
    if usage is None or not usage.crl_sign:
        raise VerifierError(Reason.CRL_INVALID, f"{what}: its issuer may not sign CRLs")
    try:
        check_algorithm(crl, issuer)
        good = crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # check_algorithm leaves EC and RSA keys only
    except LIBRARY_ERRORS as error:
        raise VerifierError(Reason.CRL_INVALID, f"{what}: {error}") from error
    if not good:
        raise VerifierError(Reason.CRL_INVALID, f"{what}: not signed by its issuer")


def check_crl_window(crl: x509.CertificateRevocationList, now: int, what: str) -> None:
    """Check thisUpdate <= now <= nextUpdate (unix seconds), with no grace.

    Raises:
        VerifierError: `crl_expired` after it, `crl_invalid` before it.
    """
    start, end = crl_window(crl)
    if now < start:
        raise VerifierError(
            Reason.CRL_INVALID, f"{what}: issued {rfc3339(start)}, at {rfc3339(now)}"
        )
    if now > end:
        raise VerifierError(
            Reason.CRL_EXPIRED, f"{what}: next update {rfc3339(end)}, at {rfc3339(now)}"
        )


def check_crl(
    crl: x509.CertificateRevocationList, issuer: x509.Certificate, now: int, what: str
) -> None:
    """Check that `issuer` signed the CRL and that it is current at `now` (unix seconds).

    Raises:
        VerifierError: `crl_invalid` or `crl_expired`.
    """
    check_crl_signature(crl, issuer, what)
    check_crl_window(crl, now, what)


def check_not_revoked(
    certificate: x509.Certificate, crl: x509.CertificateRevocationList, what: str
) -> None:
    """Check that the certificate is not listed. The CRL must be its issuer's, checked before.

    Raises:
        VerifierError: `certificate_revoked`, or `crl_invalid` for another issuer's list.
    """
    if certificate.issuer != crl.issuer:
        raise VerifierError(
            Reason.CRL_INVALID,
            f"{what}: CRL of {certificate.issuer.rfc4514_string()} expected, "
            f"{crl.issuer.rfc4514_string()} seen",
        )
    serial = serial_number(certificate)
    if crl.get_revoked_certificate_by_serial_number(serial) is not None:
        raise VerifierError(Reason.CERTIFICATE_REVOKED, f"{what}: serial {serial:x} is revoked")
