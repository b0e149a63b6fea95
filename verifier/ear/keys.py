"""Keys of EAR tokens: P-256, named by their thumbprint.

Guarantees: a key that is read is a point of the curve, stands there as ES256 for signatures alone,
and its `kid` is its own SHA-256 thumbprint (RFC 7638), so that no two keys share a name and no name
can be put on another key. Does not say whose key it is: whoever gives the set does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Final, Literal, final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from verifier import jose
from verifier.errors import Reason, VerifierError
from verifier.wire.canonical import b64decode, b64encode

MAX_JWKS: Final = 64 * 1024
_MOST: Final = 64
_COORDINATE: Final = 32


@final
class _Jwk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kty: Literal["EC"]
    crv: Literal["P-256"]
    x: str
    y: str
    kid: str
    alg: Literal["ES256"]
    use: Literal["sig"]


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """Return a key's SHA-256 thumbprint (RFC 7638 §3)."""
    x, y = _coordinates(key)
    members = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
    raw = json.dumps(members, separators=(",", ":"), sort_keys=True).encode()
    return b64encode(hashlib.sha256(raw).digest())


def from_spki(spki: bytes) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key in an SPKI (DER).

    Raises:
        VerifierError: `malformed`.
    """
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise VerifierError(Reason.MALFORMED, f"EAR key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise VerifierError(Reason.MALFORMED, "EAR key: P-256 expected")
    return key


def to_jwks(keys: Iterable[ec.EllipticCurvePublicKey]) -> bytes:
    """Return the JWK set of keys."""
    written = []
    for key in keys:
        x, y = _coordinates(key)
        written.append(_Jwk("EC", "P-256", x, y, key_id(key), "ES256", "sig"))
    return msgspec.json.encode({"keys": written})


def read_jwks(raw: bytes) -> Mapping[str, ec.EllipticCurvePublicKey]:
    """Return the keys of a JWK set, by `kid`.

    Raises:
        VerifierError: `too_large`, `collateral_malformed`.
    """
    found = {}
    for kid, told in jose.key_set(raw, "EAR keys", limit=MAX_JWKS, most=_MOST).items():
        try:
            jwk = msgspec.convert(told, _Jwk, strict=True)
            x, y = (int.from_bytes(_coordinate(text)) for text in (jwk.x, jwk.y))
            key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        except (msgspec.ValidationError, ValueError, VerifierError) as error:
            raise _refused(kid, str(error)) from error
        if key_id(key) != kid:
            raise _refused(kid, "not its thumbprint")
        found[kid] = key
    return found


def _refused(kid: str, why: str) -> VerifierError:
    return VerifierError(Reason.COLLATERAL_MALFORMED, f"EAR keys: {kid!a:.80}: {why}")


def _coordinate(text: str) -> bytes:
    raw = b64decode(text)
    if len(raw) != _COORDINATE:
        raise ValueError("coordinates of 32 bytes expected")
    return raw


def _coordinates(key: ec.EllipticCurvePublicKey) -> tuple[str, str]:
    numbers = key.public_numbers()
    return b64encode(numbers.x.to_bytes(_COORDINATE)), b64encode(numbers.y.to_bytes(_COORDINATE))
