"""Intel's certificates, read strictly and at once: the one profile that they all have.

Guarantees: what `load` returns is DER of an X.509 v3 certificate with a P-256 key, signed by ECDSA
with SHA-256 in whole bytes, of bounded size, with no extension twice and none that is critical and
unknown to us; each `check_*` returns only if the property that it names holds. Does not build
chains, choose anchors or judge dates and revocation.

Source: Intel SGX PCK Certificate and CRL Profile Specification; RFC 5280 §4.1, §4.2.

Every byte is read here and nothing is put off, so that a quote and collateral that were never seen
before are judged as fast as by compiled verifiers; `verifier.x509` reads everybody else's.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from verifier.anchors import Anchors
from verifier.der import BIT_STRING, BOOLEAN, SEQUENCE, Der
from verifier.errors import Reason, VerifierError
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
from verifier.x509 import MAX_CERTIFICATE, split_pem

ROOT_NAME: Final = "Intel SGX Root CA"
_P256_SPKI: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
_P256_SPKI_SIZE: Final = 91
_CURVE: Final = ec.SECP256R1()
_ALGORITHM: Final = ec.ECDSA(SHA256())

_VERSION_TAG: Final = 0xA0
_EXTENSIONS_TAG: Final = 0xA3
_V3: Final = b"\x02\x01\x02"
_KEY_USAGE: Final = bytes.fromhex("551d0f")
_BASIC_CONSTRAINTS: Final = bytes.fromhex("551d13")
_HONOURED: Final = frozenset({_KEY_USAGE, _BASIC_CONSTRAINTS})
_DIGITAL_SIGNATURE: Final = 0x80
_KEY_CERT_SIGN: Final = 0x04
_CRL_SIGN: Final = 0x02


@final
@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate. `serial` is the INTEGER's contents, names and `spki` are DER.

    `path_length` is None where there is no limit, or no CA; `usage` is keyUsage's first byte, None
    without that extension. `extensions` are the contents by OID (DER contents).
    """

    what: str
    digest: bytes
    serial: bytes
    issuer: bytes
    subject: bytes
    start: int
    end: int
    spki: bytes
    key: ec.EllipticCurvePublicKey
    ca: bool
    path_length: int | None
    usage: int | None
    extensions: Mapping[bytes, bytes]
    signed: bytes
    signature: bytes

    @property
    def common_name(self) -> str:
        """Return the subject's common name, or "" unless there is exactly one."""
        return common_name(self.subject)

    @property
    def authority(self) -> tuple[bytes, bytes]:
        """Return what makes two certificates the same authority: subject and public key."""
        return self.subject, self.spki

    @property
    def window(self) -> Window:
        """Return notBefore to notAfter."""
        return Window(
            self.what,
            self.start,
            self.end,
            Reason.CERTIFICATE_INVALID,
            Reason.CERTIFICATE_EXPIRED,
        )


def load(der: bytes, what: str) -> Certificate:
    """Return the certificate in `der`, named `what` in errors.

    Raises:
        VerifierError: `too_large` over 16 KiB, else `certificate_invalid`.
    """
    if len(der) > MAX_CERTIFICATE:
        raise VerifierError(
            Reason.TOO_LARGE, f"{what}: {len(der)} bytes, at most {MAX_CERTIFICATE} expected"
        )
    try:
        return _load(der, what)
    except VerifierError as error:
        raise VerifierError(Reason.CERTIFICATE_INVALID, f"{what}: {error}") from error


def _load(der: bytes, what: str) -> Certificate:
    signed, signature = read_signed(der, what)
    body = Der(signed, what).sequence()
    if not body.next_is(_VERSION_TAG) or body.value(_VERSION_TAG) != _V3:
        raise refusal("X.509 v3 expected")
    serial = read_serial(body)
    if body.element(SEQUENCE) != ECDSA_SHA256:
        raise refusal("the same signature algorithm inside expected")
    issuer = body.element(SEQUENCE)
    validity = body.sequence()
    start, end = read_time(validity), read_time(validity)
    validity.end()
    subject = body.element(SEQUENCE)
    spki = body.element(SEQUENCE)
    key = _p256(spki)
    extensions = read_extensions(body.inside(_EXTENSIONS_TAG), _HONOURED)
    body.end()
    common_name(issuer)  # refuses names that are not well formed
    common_name(subject)
    ca, path_length = _basic_constraints(extensions.get(_BASIC_CONSTRAINTS))
    return Certificate(
        what=what,
        digest=hashlib.sha256(der).digest(),
        serial=serial,
        issuer=issuer,
        subject=subject,
        start=start,
        end=end,
        spki=spki,
        key=key,
        ca=ca,
        path_length=path_length,
        usage=_key_usage(extensions.get(_KEY_USAGE)),
        extensions=extensions,
        signed=signed,
        signature=signature,
    )


def _p256(spki: bytes) -> ec.EllipticCurvePublicKey:
    if len(spki) != _P256_SPKI_SIZE or not spki.startswith(_P256_SPKI):
        raise refusal("a P-256 key expected")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, spki[len(_P256_SPKI) :])
    except ValueError as error:
        raise refusal("its key is no point on the P-256 curve") from error


@functools.lru_cache(maxsize=64)
def _basic_constraints(raw: bytes | None) -> tuple[bool, int | None]:
    """Return whether it is a CA, and how many CAs may stand below it (RFC 5280 §4.2.1.9)."""
    if raw is None:
        return False, None
    outer = Der(raw, "basicConstraints")
    fields = outer.sequence()
    outer.end()
    ca = fields.next_is(BOOLEAN) and fields.boolean()
    length = None if fields.done() else fields.integer(below=256)
    fields.end()
    return ca, length


@functools.lru_cache(maxsize=64)
def _key_usage(raw: bytes | None) -> int | None:
    """Return the first byte of keyUsage, its first bit highest (RFC 5280 §4.2.1.3)."""
    if raw is None:
        return None
    outer = Der(raw, "keyUsage")
    bits = outer.value(BIT_STRING)
    outer.end()
    # Unused bits, then one byte of usages, or two with decipherOnly; unused bits are zero.
    if len(bits) not in (2, 3) or bits[0] > 7 or bits[-1] & ((1 << bits[0]) - 1):  # noqa: PLR2004 - bits of a byte
        raise refusal(f"keyUsage: {bits.hex()} seen")
    return bits[1]


def verifies(issuer: Certificate, signature: bytes, signed: bytes) -> bool:
    """Tell whether the issuer's key made this signature (DER) over these bytes."""
    try:
        issuer.key.verify(signature, signed, _ALGORITHM)
    except InvalidSignature:
        return False
    return True


def check_issued_by(certificate: Certificate, issuer: Certificate) -> None:
    """Check that `issuer` issued the certificate: its name, and its signature (RFC 5280 §6.1.3).

    Raises:
        VerifierError: `chain_invalid`.
    """
    what = certificate.what
    if certificate.issuer != issuer.subject:
        raise VerifierError(
            Reason.CHAIN_INVALID,
            f"{what}: issuer {issuer.common_name} expected, {common_name(certificate.issuer)} seen",
        )
    if not verifies(issuer, certificate.signature, certificate.signed):
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: not signed by its issuer")


def check_name(certificate: Certificate, *names: str) -> None:
    """Check the common name.

    Raises:
        VerifierError: `chain_invalid`.
    """
    seen = certificate.common_name
    if seen not in names:
        raise VerifierError(
            Reason.CHAIN_INVALID,
            f"{certificate.what}: common name {' or '.join(names)} expected, {seen} seen",
        )


def check_ca(certificate: Certificate, *, path_length: int) -> None:
    """Check that the certificate may issue certificates and lists (RFC 5280 §4.2.1.3, §4.2.1.9).

    Args:
        certificate: the issuer.
        path_length: how many CA certificates stand below it in this chain.

    Raises:
        VerifierError: `chain_invalid`.
    """
    what = certificate.what
    if not certificate.ca:
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: not a CA certificate")
    if certificate.path_length is not None and certificate.path_length < path_length:
        raise VerifierError(
            Reason.CHAIN_INVALID,
            f"{what}: path length {path_length} needed, {certificate.path_length} allowed",
        )
    if not (certificate.usage or 0) & _KEY_CERT_SIGN:
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: may not sign certificates")


def may_sign_crls(certificate: Certificate) -> bool:
    """Tell whether keyUsage allows the certificate's key to sign revocation lists."""
    return bool((certificate.usage or 0) & _CRL_SIGN)


def check_end_entity(certificate: Certificate) -> None:
    """Check that the certificate may sign, but not issue certificates.

    Raises:
        VerifierError: `chain_invalid`.
    """
    what = certificate.what
    if certificate.ca:
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: a CA certificate as end entity")
    usage = certificate.usage
    if usage is not None and (usage & _KEY_CERT_SIGN or not usage & _DIGITAL_SIGNATURE):
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: key usage is not that of a signer")


def load_blocks(pem: str | bytes, what: str, *, count: int) -> tuple[bytes, ...]:
    """Return the DER of the `count` certificates of a PEM text, in its order.

    Raises:
        VerifierError: as `split_pem`; `chain_invalid` for any other number.
    """
    blocks = split_pem(pem, what, limit=count)
    if len(blocks) != count:
        raise VerifierError(
            Reason.CHAIN_INVALID, f"{what}: {count} certificates expected, {len(blocks)} seen"
        )
    return blocks


def load_root(der: bytes, anchors: Anchors, what: str) -> Certificate:
    """Return the root in `der`: pinned, self-signed, with its own name, a CA for two below it.

    Which roots are pinned is asked at every call; what a pinned root says is read once per process.

    Raises:
        VerifierError: `root_unknown`, `certificate_invalid` or `chain_invalid`.
    """
    check_pinned(hashlib.sha256(der).digest(), anchors, what)
    return _root(der)


@functools.lru_cache(maxsize=8)
def _root(der: bytes) -> Certificate:
    root = load(der, "Intel root")
    check_name(root, ROOT_NAME)
    check_issued_by(root, root)
    check_ca(root, path_length=1)
    return root


def check_pinned(root: bytes, anchors: Anchors, what: str) -> None:
    """Check that a root (SHA-256 of its DER) is trusted by this process.

    Raises:
        VerifierError: `root_unknown`.
    """
    if root not in anchors.intel:
        raise VerifierError(
            Reason.ROOT_UNKNOWN, f"{what}: SHA-256 {root.hex()} is not a pinned Intel root"
        )
