"""Revocation lists of NVIDIA's CA levels, where no OCSP answer is at hand.

Guarantees: a list counts only for a certificate whose issuer says in it that there is one
(cRLDistributionPoints), only if this very issuer signed the list, and an entry is a hold or a
revocation. Device certificates (BROM) have no list: only OCSP speaks of them. Judges no date.

Source: RFC 5280 §4.2.1.13, §5.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import final

from cryptography import x509 as c_x509

from verifier import x509
from verifier.cache import Cache
from verifier.nvgpu.ocsp import Status


@final
@dataclass(frozen=True, slots=True)
class Listed:
    """What a list says of one certificate, and its dates (unix seconds)."""

    status: Status
    this_update: int
    next_update: int


def is_published_for(subject: c_x509.Certificate) -> bool:
    """Tell whether the issuer of a certificate says where its list is."""
    try:
        subject.extensions.get_extension_for_class(c_x509.CRLDistributionPoints)
    except c_x509.ExtensionNotFound:
        return False
    return True


def listed(
    raw: bytes,
    subject: c_x509.Certificate,
    issuer: c_x509.Certificate,
    cache: Cache | None = None,
) -> Listed | None:
    """Return what a list says of a certificate, or None if it has none or this is another CA's.

    Raises:
        VerifierError: `crl_invalid`, `too_large`.
    """
    if not is_published_for(subject):
        return None
    raw_digest = hashlib.sha256(raw).digest()
    read = _read(raw) if cache is None else cache.recall(_Read, raw_digest, lambda: _read(raw))
    crl = read.crl
    if read.issuer != issuer.subject:
        return None
    if cache is None:
        x509.check_crl_signature(crl, issuer, "CRL")
    else:
        digest = hashlib.sha256(raw_digest + x509.fingerprint(issuer)).digest()
        cache.recall(_Signed, digest, lambda: _signed(crl, issuer))
    entry = crl.get_revoked_certificate_by_serial_number(x509.serial_number(subject))
    return Listed(Status.GOOD if entry is None else _status(entry), *read.window)


@final
@dataclass(frozen=True, slots=True)
class _Read:
    """A list that nobody has checked; reading issuer and dates takes longer than comparing them."""

    crl: c_x509.CertificateRevocationList
    issuer: c_x509.Name
    window: tuple[int, int]


def _read(raw: bytes) -> _Read:
    crl = x509.load_crl(raw, "CRL")
    return _Read(crl, crl.issuer, x509.crl_window(crl))


@final
@dataclass(frozen=True, slots=True)
class _Signed:
    """That a list's signature holds, under an issuer."""


def _signed(crl: c_x509.CertificateRevocationList, issuer: c_x509.Certificate) -> _Signed:
    x509.check_crl_signature(crl, issuer, "CRL")
    return _Signed()


def _status(entry: c_x509.RevokedCertificate) -> Status:
    try:
        reason = entry.extensions.get_extension_for_class(c_x509.CRLReason).value.reason
    except c_x509.ExtensionNotFound:
        return Status.REVOKED
    return Status.HOLD if reason is c_x509.ReasonFlags.certificate_hold else Status.REVOKED
