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
    common_name,
    fingerprint,
    load_crl,
    load_der,
    not_after,
    serial_number,
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


@final
@dataclass(frozen=True, slots=True)
class SignedCrl:
    """A CRL whose signature holds under the ARK that its cache key names; dates unchecked."""

    crl: x509.CertificateRevocationList
    revoked: frozenset[int]

    def check(self, certificate: x509.Certificate, what: str) -> None:
        """Check that the certificate, which the same ARK issued, is not listed.

        Raises:
            VerifierError: `certificate_revoked`.
        """
        serial = serial_number(certificate)
        if serial in self.revoked:
            raise VerifierError(Reason.CERTIFICATE_REVOKED, f"{what}: serial {serial:x} is revoked")


@final
@dataclass(frozen=True, slots=True)
class Issuers:
    """ARK and ASK or ASVK, read but not yet believed; `digest` is over the bytes of both.

    Every chip of a product and cloud has the same two, so they are remembered by themselves.
    """

    ark: x509.Certificate
    ask: x509.Certificate
    ark_name: str
    ask_name: str
    root_sha256: bytes
    digest: bytes

    @classmethod
    def load(cls, endorsements: SnpEndorsements, cache: Cache | None) -> Issuers:
        """Return the issuers in the endorsements, parsed strictly or remembered.

        Raises:
            VerifierError: `too_large` or `certificate_invalid`.
        """
        digest = _digest(endorsements.ark, endorsements.ask)
        remembered = None if cache is None else cache.peek(Issuers, digest)
        if remembered is not None:
            return remembered
        ark = load_der(endorsements.ark, "ARK")
        ask = load_der(endorsements.ask, "ASK")
        return cls(ark, ask, common_name(ark), common_name(ask), fingerprint(ark), digest)

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


@final
@dataclass(frozen=True, slots=True)
class Chain:
    """The three certificates of a report, read but not yet believed."""

    issuers: Issuers
    vek: x509.Certificate
    vek_name: str
    extensions: VekExtensions
    key: ec.EllipticCurvePublicKey

    @property
    def ark(self) -> x509.Certificate:
        """The root."""
        return self.issuers.ark

    @property
    def ask(self) -> x509.Certificate:
        """The VEK's issuer: ASK or ASVK."""
        return self.issuers.ask

    @property
    def root_sha256(self) -> bytes:
        """SHA-256 of the root's DER."""
        return self.issuers.root_sha256

    @classmethod
    def load(cls, endorsements: SnpEndorsements, cache: Cache | None = None) -> Chain:
        """Return the chain in the endorsements, parsed strictly.

        Raises:
            VerifierError: `too_large`, `certificate_invalid`, `chain_invalid` or
                `product_mismatch`.
        """
        issuers = Issuers.load(endorsements, cache)
        vek = load_der(endorsements.vek, "VEK")
        return cls(issuers, vek, common_name(vek), parse_vek(vek), _p384(vek, "VEK"))

    def check_signatures(self, cache: Cache | None = None) -> None:
        """Check who issued whom; issuers that `cache` holds were checked before.

        Raises:
            VerifierError: `chain_invalid`.
        """
        if cache is None or cache.peek(Issuers, self.issuers.digest) is None:
            self.issuers.check_signatures()
        if cache is not None:
            cache.keep(Issuers, self.issuers.digest, self.issuers)
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


def remembered_chain(endorsements: SnpEndorsements, cache: Cache | None) -> Chain | None:
    """Return the chain in the endorsements if its signatures were checked before."""
    if cache is None:
        return None
    return cache.peek(Chain, _digest(endorsements.ark, endorsements.ask, endorsements.vek))


def remember_chain(endorsements: SnpEndorsements, chain: Chain, cache: Cache | None) -> None:
    """Remember the chain in the endorsements, whose signatures hold."""
    if cache is not None:
        digest = _digest(endorsements.ark, endorsements.ask, endorsements.vek)
        cache.keep(Chain, digest, chain)


def signed_crl(
    der: bytes, ark: x509.Certificate, root_sha256: bytes, cache: Cache | None
) -> SignedCrl:
    """Return the CRL in `der`, signed by this ARK (whose DER has that SHA-256); dates unchecked.

    Raises:
        VerifierError: `too_large` or `crl_invalid`.
    """

    def load() -> SignedCrl:
        crl = load_crl(der, "AMD CRL")
        check_crl_signature(crl, ark, "AMD CRL")
        return SignedCrl(crl, frozenset(entry.serial_number for entry in crl))

    return load() if cache is None else cache.recall(SignedCrl, _digest(root_sha256, der), load)
