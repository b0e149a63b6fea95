"""Attestation keys: which key may have signed a quote, and by which scheme.

Guarantees: RSA of 2048 bits or more with e = 65537 (RSASSA), or P-256 and P-384 (ECDSA); scheme and
hash are the key's, never the evidence's; a TPMT_PUBLIC must be a restricted signing key that cannot
leave its TPM. Does not make the key trustworthy: a key that comes with the evidence proves nothing
until a certificate, a hardware report or the caller vouches for it.

Source: TCG TPM 2.0 Library part 2: TPMT_PUBLIC, TPMA_OBJECT, TPMS_RSA_PARMS, TPMS_ECC_PARMS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from verifier import x509
from verifier.errors import Reason, VerifierError
from verifier.tpm import attest
from verifier.tpm.attest import ECDSA, RSASSA
from verifier.tpm.cursor import Cursor

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

MAX_KEY: Final = 16 * 1024
SUBJECT_ALT_NAME: Final = "2.5.29.17"
"""GCE's AK certificates name the TPM in a critical otherName; `load` reads the key only."""

_EXPONENT = 65537
_MIN_RSA = 2048
_MAX_RSA = 4096
_NULL = 0x0010
_OBJECT_RSA = 0x0001
_OBJECT_ECC = 0x0023
_FIXED_TPM = 1 << 1
_FIXED_PARENT = 1 << 4
_RESTRICTED = 1 << 16
_DECRYPT = 1 << 17
_SIGN = 1 << 18
_CURVES: dict[int, ec.EllipticCurve] = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1()}
_CURVE_HASHES = {"secp256r1": "sha256", "secp384r1": "sha384"}
_CURVE_ORDERS = {
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,  # noqa: E501 - one number
}
_ALGORITHMS: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


@final
@dataclass(frozen=True, slots=True)
class AttestationKey:
    """A key that may sign quotes; `hash` is its scheme's, which also makes the PCR digest."""

    key: PublicKey
    hash: str
    form: Literal["key", "certificate", "tpmt_public"]

    def describe(self) -> str:
        """Return kind and SHA-256 of the SubjectPublicKeyInfo, for people."""
        kind = "RSA" if isinstance(self.key, rsa.RSAPublicKey) else self.key.curve.name
        return f"{kind} {self.key.key_size}, SPKI {spki_sha256(self.key).hex()}"


def spki_sha256(key: PublicKey) -> bytes:
    """Return the SHA-256 of the key's SubjectPublicKeyInfo (DER)."""
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki)
    return digest.finalize()


def same_key(one: PublicKey, other: PublicKey) -> bool:
    """Tell whether two keys are the same in every part: n and e, or curve and point."""
    return type(one) is type(other) and one == other


def from_public_key(
    key: object, *, form: Literal["key", "certificate", "tpmt_public"] = "key", hash_: str = ""
) -> AttestationKey:
    """Return the attestation key in a public key of `cryptography`.

    Args:
        key: RSA or EC public key; anything else is refused.
        form: what it was read from.
        hash_: the scheme's hash where the key fixes it (TPMT_PUBLIC); else SHA-256 for RSA and
            P-256, SHA-384 for P-384.

    Raises:
        VerifierError: `ak_refused`.
    """
    if isinstance(key, rsa.RSAPublicKey):
        exponent = key.public_numbers().e
        if not _MIN_RSA <= key.key_size <= _MAX_RSA or exponent != _EXPONENT:
            raise VerifierError(
                Reason.AK_REFUSED,
                f"AK: RSA of 2048 to 4096 bits with e = 65537 expected, "
                f"{key.key_size} bits with e = {exponent} seen",
            )
        return AttestationKey(key, hash_ or "sha256", form)
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVE_HASHES:
        return AttestationKey(key, hash_ or _CURVE_HASHES[key.curve.name], form)
    raise VerifierError(Reason.AK_REFUSED, "AK: an RSA, P-256 or P-384 key expected")


def load(raw: bytes) -> AttestationKey:
    """Return the key in a public key or certificate (DER or PEM), TPMT_PUBLIC or TPM2B_PUBLIC.

    Of a certificate only the key is read: `chain.verify_ak_chain` says whether to believe it.

    Raises:
        VerifierError: `malformed`, `too_large`, `trailing_data`, `certificate_invalid`,
            `unsupported`, or `ak_refused` for a key that may not sign quotes.
    """
    if len(raw) > MAX_KEY:
        raise VerifierError(Reason.TOO_LARGE, f"AK of {len(raw)} bytes, limit {MAX_KEY}")
    if raw[:2] in (b"\x00\x01", b"\x00\x23"):
        return _tpmt_public(raw)
    if len(raw) > 4 and int.from_bytes(raw[:2], "big") == len(raw) - 2:  # noqa: PLR2004 - a TPM2B
        return _tpmt_public(raw[2:])
    if b"-----BEGIN CERTIFICATE-----" in raw:
        (der,) = x509.split_pem(raw, "AK certificate", limit=1) or (b"",)
        return _certificate(der)
    try:
        if raw.lstrip().startswith(b"-----BEGIN PUBLIC KEY-----"):
            return from_public_key(serialization.load_pem_public_key(raw))
        return from_public_key(serialization.load_der_public_key(raw))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if raw[:1] == b"\x30":
            return _certificate(raw)
        raise VerifierError(Reason.MALFORMED, "AK: neither key nor certificate") from error


def _certificate(der: bytes) -> AttestationKey:
    certificate = x509.load_der(der, "AK certificate", honoured=frozenset({SUBJECT_ALT_NAME}))
    return from_public_key(certificate.public_key(), form="certificate")


def _tpmt_public(raw: bytes) -> AttestationKey:
    cursor = Cursor(raw, "AK TPMT_PUBLIC")
    kind = cursor.number(2)
    attest.hash_name(cursor)
    attributes = cursor.number(4)
    wanted = _FIXED_TPM | _FIXED_PARENT | _RESTRICTED | _SIGN
    if attributes & wanted != wanted or attributes & _DECRYPT:
        raise cursor.error(
            f"fixedTPM, fixedParent, restricted and sign set, decrypt clear expected, "
            f"attributes {attributes:#010x} seen",
            Reason.AK_REFUSED,
        )
    cursor.sized(64)  # authPolicy
    if kind == _OBJECT_RSA:
        key, name = _rsa(cursor)
    elif kind == _OBJECT_ECC:
        key, name = _ecc(cursor)
    else:
        raise cursor.error(f"an RSA or ECC key expected, type {kind:#06x} seen")
    cursor.end()
    return from_public_key(key, form="tpmt_public", hash_=name)


def _scheme(cursor: Cursor, wanted: int) -> str:
    """Read symmetric algorithm (none) and signing scheme; return the scheme's hash."""
    symmetric, scheme = cursor.number(2), cursor.number(2)
    if symmetric != _NULL or scheme != wanted:
        raise cursor.error(
            f"scheme {wanted:#06x} and no symmetric algorithm expected, "
            f"{scheme:#06x} and {symmetric:#06x} seen",
            Reason.AK_REFUSED,
        )
    name = attest.hash_name(cursor)
    if name not in _ALGORITHMS:
        raise cursor.error(f"{name} signs nothing any more", Reason.AK_REFUSED)
    return name


def _rsa(cursor: Cursor) -> tuple[PublicKey, str]:
    name = _scheme(cursor, RSASSA)
    bits, exponent = cursor.number(2), cursor.number(4)
    modulus = cursor.sized(_MAX_RSA // 8)
    number = int.from_bytes(modulus, "big")
    if 8 * len(modulus) != bits or number.bit_length() != bits:
        raise cursor.error(f"a modulus of {bits} bits expected, {number.bit_length()} seen")
    try:
        return rsa.RSAPublicNumbers(exponent or _EXPONENT, number).public_key(), name
    except ValueError as error:
        raise cursor.error(f"not an RSA key: {error}") from error


def _ecc(cursor: Cursor) -> tuple[PublicKey, str]:
    name = _scheme(cursor, ECDSA)
    curve, kdf = cursor.number(2), cursor.number(2)
    if curve not in _CURVES or kdf != _NULL:
        raise cursor.error(
            f"P-256 or P-384 without KDF expected, curve {curve:#06x} and KDF {kdf:#06x} seen",
            Reason.AK_REFUSED,
        )
    size = _CURVES[curve].key_size // 8
    x, y = (int.from_bytes(cursor.sized(size), "big") for _ in range(2))
    try:
        return ec.EllipticCurvePublicNumbers(x, y, _CURVES[curve]).public_key(), name
    except ValueError as error:
        raise cursor.error(f"not a point of the curve: {error}") from error


def check_signature(key: AttestationKey, signature: bytes, signed: bytes) -> None:
    """Check that the key signed these bytes (TCG TPM 2.0 Library part 1, §B.5 and §C.4).

    `signature` is a TPMT_SIGNATURE whose scheme and hash must be the key's, or a bare RSASSA
    signature of exactly the modulus' length, as Azure's tools store it.

    Raises:
        VerifierError: `signature_invalid`, or as `attest.parse_signature`.
    """
    public = key.key
    algorithm = _ALGORITHMS[key.hash]
    rsa_size = public.key_size // 8 if isinstance(public, rsa.RSAPublicKey) else 0
    if rsa_size and len(signature) == rsa_size:
        parsed = attest.Signature(RSASSA, key.hash, (signature,))
    else:
        parsed = attest.parse_signature(signature)
    if parsed.scheme != (RSASSA if rsa_size else ECDSA) or parsed.hash != key.hash:
        raise VerifierError(
            Reason.SIGNATURE_INVALID,
            f"signature: the AK's scheme with {key.hash} expected, "
            f"scheme {parsed.scheme:#06x} with {parsed.hash} seen",
        )
    try:
        if isinstance(public, rsa.RSAPublicKey):
            public.verify(parsed.parts[0], signed, padding.PKCS1v15(), algorithm)
            return
        r, s = (int.from_bytes(part, "big") for part in parsed.parts)
        order = _CURVE_ORDERS[public.curve.name]
        if not (0 < r < order and 0 < s < order):
            raise VerifierError(Reason.SIGNATURE_INVALID, "signature: r and s from 1 to n - 1")
        public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(algorithm))
    except InvalidSignature as error:
        raise VerifierError(
            Reason.SIGNATURE_INVALID, "signature: the AK did not sign this quote"
        ) from error
