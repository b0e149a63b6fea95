"""ECDSA P-256 with SHA-256, the only signature in quotes and in Intel's signed documents.

Guarantees: r and s are in 1..n-1 and a key is a point on the curve. (r, n - s) verifies as well as
(r, s), so a signature, or a digest over one, never names anything (no replay key).
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from verifier.errors import Reason, VerifierError

SIGNATURE_SIZE: Final = 64
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_CURVE: Final = ec.SECP256R1()
_ALGORITHM: Final = ec.ECDSA(SHA256())


def load_point(raw: bytes, what: str) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key whose coordinates x || y (32 bytes each, big endian) are `raw`.

    Raises:
        VerifierError: `signature_invalid` if that is no point on the curve.
    """
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, b"\x04" + raw)
    except ValueError as error:
        raise VerifierError(
            Reason.SIGNATURE_INVALID, f"{what}: not a point on the P-256 curve"
        ) from error


def p256_key(certificate: x509.Certificate, what: str) -> ec.EllipticCurvePublicKey:
    """Return the certificate's key, which must be P-256.

    Raises:
        VerifierError: `certificate_invalid`.
    """
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != _CURVE.name:
        raise VerifierError(Reason.CERTIFICATE_INVALID, f"{what}: a P-256 key expected")
    return key


def verifies(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Tell whether `signature` (r || s, 32 bytes each, big endian) by `key` is over `data`."""
    r = int.from_bytes(signature[:32])
    s = int.from_bytes(signature[32:])
    if len(signature) != SIGNATURE_SIZE or not (0 < r < _ORDER and 0 < s < _ORDER):
        return False
    try:
        key.verify(encode_dss_signature(r, s), data, _ALGORITHM)
    except InvalidSignature:
        return False
    return True
