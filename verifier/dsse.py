"""DSSE envelopes: the one signature format of genesis, policy, manifest, statement and answer.

Guarantees: `verify` returns the payload only if enough distinct, expected signers signed exactly
these bytes under exactly this payload type. Who the signers should be is the caller's to say.
Format: the Dead Simple Signing Envelope v1 (secure-systems-lab/dsse, protocol.md and envelope.md),
JSON with padded standard base64 so that other people's DSSE tools read ours.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from typing import final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from verifier.errors import Reason, VerifierError
from verifier.wire import canonical

MAX_SIGNATURES = 16


@final
class Signature(canonical.Struct, frozen=True):
    """One signature: `keyid` is the hex SHA-256 of the signer's SPKI, `sig` padded base64."""

    keyid: str
    sig: str


@final
class Envelope(canonical.Struct, frozen=True, rename={"payload_type": "payloadType"}):
    """A DSSE envelope as it stands in JSON."""

    payload: str
    payload_type: str
    signatures: tuple[Signature, ...]


PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding, the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def spki(key: PublicKey) -> bytes:
    """Return the DER SubjectPublicKeyInfo of `key`."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def key_id(spki_der: bytes) -> str:
    """Return the key id we use: hex SHA-256 of the SubjectPublicKeyInfo."""
    return hashlib.sha256(spki_der).hexdigest()


def load_signer(spki_der: bytes) -> PublicKey:
    """Return the Ed25519 or ECDSA P-256 key in `spki_der`.

    Raises:
        VerifierError: `malformed` if the DER is not canonical or the key is of another kind.
    """
    try:
        key = serialization.load_der_public_key(spki_der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise VerifierError(Reason.MALFORMED, "not a public key") from error
    if not isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey) or (
        isinstance(key, ec.EllipticCurvePublicKey) and not isinstance(key.curve, ec.SECP256R1)
    ):
        raise VerifierError(Reason.MALFORMED, "a signer is Ed25519 or ECDSA P-256")
    if spki(key) != spki_der:
        raise VerifierError(Reason.MALFORMED, "public key is not in canonical DER")
    return key


def seal(payload_type: str, payload: bytes, signed: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the envelope of `payload` with signatures made elsewhere.

    `signed` holds pairs of the signer's SPKI (DER) and its raw signature over `pae(...)`.
    """
    signatures = tuple(
        Signature(key_id(spki_der), base64.b64encode(signature).decode())
        for spki_der, signature in signed
    )
    return canonical.encode(Envelope(base64.b64encode(payload).decode(), payload_type, signatures))


def sign(payload_type: str, payload: bytes, *keys: PrivateKey) -> bytes:
    """Return the envelope of `payload` signed by each of `keys`. ECDSA signatures are DER."""
    message = pae(payload_type, payload)
    signed = [(spki(key.public_key()), _sign(key, message)) for key in keys]
    return seal(payload_type, payload, signed)


def _sign(key: PrivateKey, message: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def payload_unverified(envelope: bytes) -> bytes:
    """Return the payload without looking at any signature; for showing, never for deciding.

    Raises:
        VerifierError: `malformed` or `too_large`.
    """
    return _base64(canonical.decode(envelope, Envelope).payload)


def verify(
    envelope: bytes,
    payload_type: str,
    signers: Sequence[bytes],
    threshold: int = 1,
    *,
    limit: int = canonical.MAX_MESSAGE,
) -> bytes:
    """Return the payload of `envelope` after checking who signed it.

    Args:
        envelope: canonical JSON of the envelope.
        payload_type: the type that must stand in it.
        signers: DER SPKIs of the keys that may sign.
        threshold: how many distinct ones of them must have.
        limit: most bytes of envelope to read.

    Raises:
        VerifierError: `malformed`, `too_large` or `document_signature`.
    """
    found = canonical.decode(envelope, Envelope, limit=limit)
    if found.payload_type != payload_type:
        raise VerifierError(
            Reason.DOCUMENT_SIGNATURE,
            f"payload type: expected {payload_type!r}, seen {found.payload_type[:80]!r}",
        )
    if threshold < 1 or len(found.signatures) > MAX_SIGNATURES:
        raise VerifierError(Reason.DOCUMENT_SIGNATURE, "threshold below 1 or too many signatures")
    payload = _base64(found.payload)
    message = pae(payload_type, payload)
    known = {key_id(der): der for der in signers}
    good = {s.keyid for s in found.signatures if s.keyid in known and _ok(known, s, message)}
    if len(good) < threshold:
        raise VerifierError(
            Reason.DOCUMENT_SIGNATURE,
            f"{len(good)} valid signatures by expected signers, {threshold} needed",
        )
    return payload


def _ok(known: dict[str, bytes], signature: Signature, message: bytes) -> bool:
    raw = _base64(signature.sig)
    key = load_signer(known[signature.keyid])
    check: Callable[[], None]
    if isinstance(key, ed25519.Ed25519PublicKey):
        check = lambda: key.verify(raw, message)  # noqa: E731 - two shapes of one call
    else:
        check = lambda: key.verify(raw, message, ec.ECDSA(hashes.SHA256()))  # noqa: E731 - same
    try:
        check()
    except InvalidSignature:
        return False
    return True


def _base64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise VerifierError(Reason.MALFORMED, "not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise VerifierError(Reason.MALFORMED, "not canonical base64")
    return raw
