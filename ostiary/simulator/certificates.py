"""Issues X.509 certificates and CRLs exactly as told (RFC 5280), right or wrong.

Guarantees: the DER is what the arguments say, signed over those bytes. Checks nothing: negative
tests need certificates that no certification authority would issue.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol, final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ostiary.simulator import der

_ECDSA_SHA256: Final = der.sequence(der.oid("1.2.840.10045.4.3.2"))
_ECDSA_SHA384: Final = der.sequence(der.oid("1.2.840.10045.4.3.3"))
_SHA384: Final = der.sequence(der.oid("2.16.840.1.101.3.4.2.2"), der.null())
_PSS_SALT: Final = 48
_RSA_PSS: Final = der.oid("1.2.840.113549.1.1.10")
_RSA_PSS_SHA384: Final = (
    der.explicit(0, _SHA384),
    der.explicit(1, der.sequence(der.oid("1.2.840.113549.1.1.8"), _SHA384)),
    der.explicit(2, der.integer(_PSS_SALT)),
)

DIGITAL_SIGNATURE: Final = 0
NON_REPUDIATION: Final = 1
KEY_CERT_SIGN: Final = 5
CRL_SIGN: Final = 6

_NAME_OIDS: Final = {
    "CN": "2.5.4.3",
    "serialNumber": "2.5.4.5",
    "C": "2.5.4.6",
    "L": "2.5.4.7",
    "ST": "2.5.4.8",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
}
_PRINTABLE: Final = frozenset({"C", "serialNumber"})


class Signer(Protocol):
    """A key that signs certificates, with the algorithm identifier it signs under."""

    @property
    def algorithm(self) -> bytes:
        """AlgorithmIdentifier (DER)."""
        ...

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo (DER)."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature as it stands in a certificate."""
        ...


def spki_of(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    """Return the SubjectPublicKeyInfo (DER) of a public key."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@final
@dataclass(frozen=True, slots=True, repr=False)
class EcdsaSigner:
    """ECDSA with SHA-256, as all of Intel's certificates use (on P-256)."""

    key: ec.EllipticCurvePrivateKey

    @property
    def algorithm(self) -> bytes:
        """Return ecdsa-with-SHA256."""
        return _ECDSA_SHA256

    @property
    def spki(self) -> bytes:
        """Return the public key."""
        return spki_of(self.key.public_key())

    def sign(self, message: bytes) -> bytes:
        """Return a DER signature."""
        return self.key.sign(message, ec.ECDSA(hashes.SHA256()))


@final
@dataclass(frozen=True, slots=True, repr=False)
class EcdsaSha384Signer:
    """ECDSA with SHA-384, as all of NVIDIA's certificates use (on P-384)."""

    key: ec.EllipticCurvePrivateKey

    @property
    def algorithm(self) -> bytes:
        """Return ecdsa-with-SHA384."""
        return _ECDSA_SHA384

    @property
    def spki(self) -> bytes:
        """Return the public key."""
        return spki_of(self.key.public_key())

    def sign(self, message: bytes) -> bytes:
        """Return a DER signature."""
        return self.key.sign(message, ec.ECDSA(hashes.SHA384()))


@final
@dataclass(frozen=True, slots=True, repr=False)
class RsaPssSigner:
    """RSASSA-PSS with SHA-384, MGF1 with SHA-384 and a 48-byte salt, as all of AMD's use.

    `trailer_field` writes the default trailerField out, as AMD's CA certificates do (and its CRLs
    and newer chip certificates do not).
    """

    key: rsa.RSAPrivateKey
    trailer_field: bool = False

    @property
    def algorithm(self) -> bytes:
        """Return rsassaPss with its parameters (RFC 4055 §3.1)."""
        trailer = der.explicit(3, der.integer(1)) if self.trailer_field else b""
        return der.sequence(_RSA_PSS, der.sequence(*_RSA_PSS_SHA384, trailer))

    @property
    def spki(self) -> bytes:
        """Return the public key (rsaEncryption, as in AMD's certificates)."""
        return spki_of(self.key.public_key())

    def sign(self, message: bytes) -> bytes:
        """Return the signature."""
        scheme = padding.PSS(padding.MGF1(hashes.SHA384()), _PSS_SALT)
        return self.key.sign(message, scheme, hashes.SHA384())


@final
@dataclass(frozen=True, slots=True)
class Extension:
    """One extension: dotted OID, DER value, criticality."""

    oid: str
    value: bytes
    critical: bool = False

    def encode(self) -> bytes:
        """Return the Extension (RFC 5280 §4.1)."""
        critical = der.boolean(True) if self.critical else b""
        return der.sequence(der.oid(self.oid), critical, der.octets(self.value))


@final
@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says, before it is signed. Times are unix seconds; names are DER.

    `generalized` writes times as GeneralizedTime before 2050 too, as some of NVIDIA's have them.
    """

    subject: bytes
    issuer: bytes
    serial: int
    not_before: int
    not_after: int
    spki: bytes
    extensions: tuple[Extension, ...]
    version: int = 3
    generalized: bool = False

    def issue(self, signer: Signer) -> bytes:
        """Return the certificate (DER), signed."""
        write_time = der.generalized_time if self.generalized else der.time
        body = der.sequence(
            der.explicit(0, der.integer(self.version - 1)),
            der.integer(self.serial),
            signer.algorithm,
            self.issuer,
            der.sequence(write_time(self.not_before), write_time(self.not_after)),
            self.subject,
            self.spki,
            der.explicit(3, der.sequence(*(e.encode() for e in self.extensions))),
        )
        return _signed(body, signer)


@final
@dataclass(frozen=True, slots=True)
class Revoked:
    """One entry of a CRL. `reason` as in RFC 5280 §5.3.1; 1 is keyCompromise."""

    serial: int
    at: int
    reason: int = 1

    def encode(self) -> bytes:
        """Return the entry."""
        reason = Extension("2.5.29.21", der.enumerated(self.reason))
        return der.sequence(
            der.integer(self.serial), der.time(self.at), der.sequence(reason.encode())
        )


def issue_crl(  # noqa: D417 - the rest is RFC 5280's own
    *,
    issuer: bytes,
    this_update: int,
    next_update: int | None,
    revoked: Iterable[Revoked],
    extensions: Iterable[Extension],
    signer: Signer,
) -> bytes:
    """Return a CRL (DER, RFC 5280 §5.1).

    Args:
        next_update: unix seconds; None leaves it out, which RFC 5280 forbids.
    """
    entries = [entry.encode() for entry in revoked]
    body = der.sequence(
        der.integer(1),
        signer.algorithm,
        issuer,
        der.time(this_update),
        b"" if next_update is None else der.time(next_update),
        der.sequence(*entries) if entries else b"",
        der.explicit(0, der.sequence(*(e.encode() for e in extensions))),
    )
    return _signed(body, signer)


def _signed(body: bytes, signer: Signer) -> bytes:
    return der.sequence(body, signer.algorithm, der.bits(signer.sign(body)))


def name(*parts: tuple[str, str]) -> bytes:
    """Return a Name from (short type, value) pairs, in order.

    Countries and serial numbers are PrintableString, everything else UTF8String.
    """
    return der.sequence(
        *(
            der.set_of(
                der.sequence(
                    der.oid(_NAME_OIDS[kind]),
                    der.printable(text) if kind in _PRINTABLE else der.utf8(text),
                )
            )
            for kind, text in parts
        )
    )


def key_id(spki: bytes) -> bytes:
    """Return RFC 5280 §4.2.1.2 method 1: SHA-1 of the public key's bits (a name, not a proof)."""
    key = serialization.load_der_public_key(spki)
    if isinstance(key, ec.EllipticCurvePublicKey):
        raw = key.public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
    elif isinstance(key, rsa.RSAPublicKey):
        raw = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    else:
        raise TypeError("the simulated vendors have EC and RSA keys only")
    return hashlib.sha1(raw, usedforsecurity=False).digest()


def subject_key_id(spki: bytes) -> Extension:
    """Return subjectKeyIdentifier."""
    return Extension("2.5.29.14", der.octets(key_id(spki)))


def authority_key_id(spki: bytes) -> Extension:
    """Return authorityKeyIdentifier with the key id alone."""
    return Extension("2.5.29.35", der.sequence(der.implicit(0, key_id(spki))))


def key_usage(*positions: int) -> Extension:
    """Return a critical keyUsage with these bits (RFC 5280 §4.2.1.3), as a minimal BIT STRING."""
    value = sum(0x80 >> position for position in positions)
    return Extension("2.5.29.15", der.bits(bytes([value]), 7 - max(positions)), critical=True)


def basic_constraints(*, ca: bool, path_length: int | None = None) -> Extension:
    """Return a critical basicConstraints."""
    limit = b"" if path_length is None else der.integer(path_length)
    return Extension(
        "2.5.29.19", der.sequence(der.boolean(True) if ca else b"", limit), critical=True
    )


def crl_distribution_point(uri: str) -> Extension:
    """Return cRLDistributionPoints with one URI."""
    point = der.explicit(0, der.explicit(0, der.implicit(6, uri.encode("ascii"))))
    return Extension("2.5.29.31", der.sequence(der.sequence(point)))


def crl_number(number: int) -> Extension:
    """Return cRLNumber."""
    return Extension("2.5.29.20", der.integer(number))


def pem(*certificates: bytes) -> str:
    """Return certificates as PEM (RFC 7468), in order, one newline after each."""
    blocks = []
    for certificate in certificates:
        text = base64.b64encode(certificate).decode()
        lines = [text[i : i + 64] for i in range(0, len(text), 64)]
        blocks.append(
            "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""))
        )
    return "".join(blocks)
