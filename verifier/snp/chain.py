"""The chain ARK -> ASK or ASVK -> VEK and its CRL, remembered once their signatures held.

Guarantees: `Chain.check_signatures` returns only for three certificates that issued one another as
AMD's do (RSA-4096 with PSS and SHA-384, an EC P-384 key at the end). Only what verified is ever put
into the cache, under the SHA-256 of the exact bytes, and nothing that time can change: pins, dates
and revocation are checked again on every call. Does not decide which root to trust.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.snp.endorsements import SnpEndorsements, VekExtensions, parse_vek
from verifier.x509 import (
    check_ca,
    check_crl_signature,
    check_end_entity,
    check_issued_by,
    check_window,
    fingerprint,
    load_crl,
    load_der,
    not_after,
)

_RSA_BITS: Final = 4096


def _check_rsa(certificate: x509.Certificate, what: str) -> None:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _RSA_BITS:
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: an RSA-{_RSA_BITS} key expected")


def _p384(certificate: x509.Certificate, what: str) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: an EC P-384 key expected")
    return key


def _check_spelling(der: bytes, signature: bytes, what: str, reason: Reason) -> None:
    """Refuse a certificate or CRL whose signature does not use all bits of its BIT STRING.

    The signature covers everything but itself, and the library lets its unused-bits byte (X.690
    §8.6.2) vary where the last bits are zero: then one certificate would have several digests.
    """
    if not der.endswith(b"\0" + signature):
        raise VerifierError(reason, f"{what}: a signature of whole bytes expected")


@final
@dataclass(frozen=True, slots=True)
class SignedCrl:
    """A CRL whose signature holds under the ARK that its cache key names."""

    crl: x509.CertificateRevocationList


@final
@dataclass(frozen=True, slots=True)
class Chain:
    """The three certificates of a report, read but not yet believed."""

    ark: x509.Certificate
    ask: x509.Certificate
    vek: x509.Certificate
    extensions: VekExtensions
    key: ec.EllipticCurvePublicKey
    root_sha256: bytes

    @classmethod
    def load(cls, endorsements: SnpEndorsements) -> Chain:
        """Return the chain in the endorsements, parsed strictly.

        Raises:
            VerifierError: `too_large`, `certificate_invalid`, `chain_invalid` or
                `product_mismatch`.
        """
        ark = load_der(endorsements.ark, "ARK")
        ask = load_der(endorsements.ask, "ASK")
        vek = load_der(endorsements.vek, "VEK")
        invalid = Reason.CERTIFICATE_INVALID
        _check_spelling(endorsements.ark, ark.signature, "ARK", invalid)
        _check_spelling(endorsements.ask, ask.signature, "ASK", invalid)
        _check_spelling(endorsements.vek, vek.signature, "VEK", invalid)
        return cls(ark, ask, vek, parse_vek(vek), _p384(vek, "VEK"), fingerprint(ark))

    def check_signatures(self) -> None:
        """Check who issued whom, down from the ARK, which must still be pinned by the caller.

        Raises:
            VerifierError: `chain_invalid`.
        """
        _check_rsa(self.ark, "ARK")
        check_ca(self.ark, path_length=1, what="ARK")
        check_issued_by(self.ark, self.ark, "ARK")
        _check_rsa(self.ask, "ASK")
        check_ca(self.ask, path_length=0, what="ASK")
        check_issued_by(self.ask, self.ark, "ASK")
        check_end_entity(self.vek, "VEK")
        check_issued_by(self.vek, self.ask, "VEK")

    def check_dates(self, now: int) -> int:
        """Check that all three are valid at `now` (unix seconds); return when the first one ends.

        Raises:
            VerifierError: `certificate_expired` or `certificate_invalid`.
        """
        for certificate, what in ((self.ark, "ARK"), (self.ask, "ASK"), (self.vek, "VEK")):
            check_window(certificate, now, what)
        return min(not_after(certificate) for certificate in (self.ark, self.ask, self.vek))


def _digest(*parts: bytes) -> bytes:
    """Return one digest of several byte strings, none of which can pass for another's part."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def _absent() -> Chain:
    raise LookupError


def remembered_chain(endorsements: SnpEndorsements, cache: Cache | None) -> Chain | None:
    """Return the chain in the endorsements if its signatures were checked before."""
    if cache is None:
        return None
    digest = _digest(endorsements.ark, endorsements.ask, endorsements.vek)
    try:
        return cache.recall(Chain, digest, _absent)
    except LookupError:
        return None


def remember_chain(endorsements: SnpEndorsements, chain: Chain, cache: Cache | None) -> None:
    """Remember the chain in the endorsements, whose signatures hold."""
    if cache is not None:
        digest = _digest(endorsements.ark, endorsements.ask, endorsements.vek)
        cache.recall(Chain, digest, lambda: chain)


def signed_crl(
    der: bytes, ark: x509.Certificate, root_sha256: bytes, cache: Cache | None
) -> x509.CertificateRevocationList:
    """Return the CRL in `der`, signed by this ARK (whose DER has that SHA-256); dates unchecked.

    Raises:
        VerifierError: `too_large` or `crl_invalid`.
    """

    def load() -> SignedCrl:
        crl = load_crl(der, "AMD CRL")
        _check_spelling(der, crl.signature, "AMD CRL", Reason.CRL_INVALID)
        check_crl_signature(crl, ark, "AMD CRL")
        return SignedCrl(crl)

    signed = load() if cache is None else cache.recall(SignedCrl, _digest(root_sha256, der), load)
    return signed.crl
