"""EAR tokens: ES256 signatures around claims (RFC 7515, RFC 7518 §3.4).

Guarantees: `verify` returns only for a token that one of the given keys signed, made for this
audience and nonce by this issuer, and current; the algorithm is ES256 whatever the token says.
Holds no private key: `signed_part` is what a signer signs, `assemble` puts the signature to it.
Does not say that the result is good: read its status.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from verifier import jose
from verifier.ear import claims
from verifier.ear.claims import Ear
from verifier.errors import Reason, VerifierError
from verifier.wire.canonical import b64encode

MAX_TOKEN: Final = 512 * 1024
ALGORITHM: Final = "ES256"
_HALF: Final = 32


def signed_part(ear: Ear, kid: str) -> bytes:
    """Return header and payload of a token: what ES256 signs.

    Raises:
        VerifierError: `malformed`, or `too_large` for more than any token may be.
    """
    header = json.dumps(
        {"alg": ALGORITHM, "kid": kid, "typ": "JWT"}, separators=(",", ":"), sort_keys=True
    )
    part = f"{b64encode(header.encode())}.{b64encode(claims.encode(ear))}".encode()
    if len(part) > MAX_TOKEN - 128:
        raise VerifierError(Reason.TOO_LARGE, f"EAR: a token of {len(part)} bytes")
    return part


def assemble(part: bytes, signature: bytes) -> bytes:
    """Return the token; `signature` is r and s, 32 bytes each."""
    return part + b"." + b64encode(signature).encode()


def verify(
    token: bytes,
    keys: Mapping[str, ec.EllipticCurvePublicKey],
    *,
    issuer: str,
    audience: str,
    nonce: bytes,
    now: int,
) -> Ear:
    """Return what a token says, if it is good.

    Args:
        token: compact JWS.
        keys: by `kid`, as `keys.read_jwks` gives them.
        issuer: the broker's id, lower-case hexadecimal.
        audience: whom it must be made for.
        nonce: what was asked with.
        now: unix seconds; a token counts from its `iat` to before its `exp`.

    Raises:
        VerifierError: `malformed`, `too_large`, `unsupported`, `signature_invalid`,
            `token_key_unknown`, `token_issuer`, `token_audience`, `nonce_mismatch`,
            `token_not_yet_valid` or `token_expired`.
    """
    read = jose.read(token, "EAR", algorithm=ALGORITHM, members=frozenset(), limit=MAX_TOKEN)
    check_signature(read, keys)
    found = claims.decode(read.payload)
    if found.issuer != issuer:
        raise VerifierError(
            Reason.TOKEN_ISSUER, f"EAR: issuer {issuer} expected, {found.issuer!a} seen"
        )
    if found.audience != audience:
        raise VerifierError(
            Reason.TOKEN_AUDIENCE, f"EAR: audience {audience!a} expected, {found.audience!a} seen"
        )
    if not hmac.compare_digest(found.nonce, nonce):
        raise VerifierError(
            Reason.NONCE_MISMATCH, f"EAR: nonce {nonce.hex()} expected, {found.nonce.hex()} seen"
        )
    if now < found.issued:
        raise VerifierError(Reason.TOKEN_NOT_YET_VALID, f"EAR: from {found.issued}, now {now}")
    if now >= found.expires:
        raise VerifierError(Reason.TOKEN_EXPIRED, f"EAR: until {found.expires}, now {now}")
    return found


def check_signature(read: jose.Jws, keys: Mapping[str, ec.EllipticCurvePublicKey]) -> None:
    """Return if the key that the header names signed the token.

    Raises:
        VerifierError: `token_key_unknown` or `signature_invalid`.
    """
    key = keys.get(read.kid)
    if key is None:
        raise VerifierError(
            Reason.TOKEN_KEY_UNKNOWN, f"EAR: no key {read.kid!a:.80} among {len(keys)}"
        )
    if len(read.signature) != 2 * _HALF:
        raise VerifierError(Reason.SIGNATURE_INVALID, "EAR: a signature of 64 bytes expected")
    r, s = (int.from_bytes(read.signature[at : at + _HALF]) for at in (0, _HALF))
    try:
        key.verify(encode_dss_signature(r, s), read.signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise VerifierError(Reason.SIGNATURE_INVALID, "EAR: the signature does not fit") from error
