"""A maker of TPMs for tests: root, intermediates and AK certificates, bent as asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.kit.vendors import NOW
from verifier.anchors import Anchors

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
USAGE = dict.fromkeys(
    (
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


@cache
def key_of(name: str) -> rsa.RSAPrivateKey:
    """Return the session's key of a name."""
    return rsa.generate_private_key(65537, 1024 if name.startswith("weak") else 2048)


@dataclass
class Issued:
    """A certificate and its key."""

    key: Key
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


@dataclass(frozen=True)
class Shape:
    """What a certificate says; the defaults are a good one."""

    subject: str
    ca: bool = False
    path_length: int | None = None
    usage: bool = True
    days: tuple[int, int] = (-10, 10)
    rsa_padding: Any = None
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = field(default=())


def issue(shape: Shape, by: Issued | None, key: Key | None = None, signer: str = "") -> Issued:
    """Return a certificate by an issuer, or by itself."""
    own = key or key_of(shape.subject)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, shape.subject)])
    now = datetime.fromtimestamp(NOW, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(by.certificate.subject if by else name)
        .public_key(own.public_key())
        .serial_number(7)
        .not_valid_before(now + timedelta(days=shape.days[0]))
        .not_valid_after(now + timedelta(days=shape.days[1]))
    )
    constraints = x509.BasicConstraints(shape.ca, shape.path_length)
    builder = builder.add_extension(constraints, critical=True)
    usage = x509.KeyUsage(
        digital_signature=shape.usage and not shape.ca,
        key_cert_sign=shape.usage and shape.ca,
        **USAGE,
    )
    builder = builder.add_extension(usage, critical=True)
    for extension, critical in shape.extensions:
        builder = builder.add_extension(extension, critical=critical)
    private = key_of(signer) if signer else (by.key if by else own)
    used = padding.PKCS1v15() if shape.rsa_padding is None else shape.rsa_padding
    options: dict[str, Any] = (
        {"rsa_padding": used} if isinstance(private, rsa.RSAPrivateKey) else {}
    )
    return Issued(own, builder.sign(private, hashes.SHA256(), **options))


@cache
def root() -> Issued:
    return issue(Shape("TPM root", ca=True), None)


@cache
def intermediate() -> Issued:
    return issue(Shape("TPM issuer", ca=True, path_length=0), root())


def anchors(top: Issued | None = None) -> Anchors:
    """Return anchors that trust this root beside the real ones."""
    certificate = (top or root()).certificate
    return Anchors().with_simulated(tpm=[certificate.fingerprint(hashes.SHA256())])
