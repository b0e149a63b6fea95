"""The key set of one instance of Azure Attestation: what it serves at `/certs`.

Guarantees: a key that is found is RSA of 2048 to 8192 bits with e = 65537, under a `kid` of its
own; where it has certificates, the first is the key's own, each following one issued the one
before, and where it has modulus and exponent too, they are the certificate's. Does not chain
anything to a root: the certificates are the instance's own, mostly self-signed, so that whoever
fetched the set over TLS from the pinned instance is trusted with it.

Source: RFC 7517 §4.7 and §5; Azure Attestation REST API, "Signing Certificates - Get".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, final

from cryptography import x509 as certificates
from cryptography.hazmat.primitives.asymmetric import rsa

from verifier import jose, x509
from verifier.errors import Reason, VerifierError
from verifier.wire.canonical import b64decode

MAX_JWKS: Final = 512 * 1024
_MOST: Final = 64
_LONGEST_CHAIN: Final = 5
_BITS: Final = range(2048, 8193)
_F4: Final = 65537


@final
@dataclass(frozen=True, slots=True)
class MaaKeys:
    """Endorsements of a token: the key set as the instance served it, JSON."""

    jwks: bytes


@final
@dataclass(frozen=True, slots=True)
class Key:
    """One key, and the certificates above it (the key's own first), which may be none."""

    public: rsa.RSAPublicKey
    chain: tuple[certificates.Certificate, ...]


def find(raw: bytes, kid: str) -> Key:
    """Return one key of a set; the others are not looked at.

    Raises:
        VerifierError: `too_large`, `collateral_malformed`, or `token_key_unknown` if there is none.
    """
    told = key_ids(raw).get(kid)
    if told is None:
        raise VerifierError(Reason.TOKEN_KEY_UNKNOWN, f"MAA keys: no {kid!a:.100}")
    what = f"MAA keys: {kid!a:.100}"
    try:
        return _key(told, what)
    except VerifierError as error:
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{what}: {error}") from error


def key_ids(raw: bytes) -> Mapping[str, dict[str, Any]]:
    """Return the keys of a set by `kid`, as they stand there.

    Raises:
        VerifierError: `too_large`, `collateral_malformed`.
    """
    return jose.key_set(raw, "MAA keys", limit=MAX_JWKS, most=_MOST)


def rsa_key(told: Mapping[str, Any]) -> rsa.RSAPublicKey:
    """Return the key in the members of a JWK (RFC 7518 §6.3).

    Raises:
        VerifierError: `malformed`.
    """
    n, e = told.get("n"), told.get("e")
    if told.get("kty") != "RSA" or not isinstance(n, str) or not isinstance(e, str):
        raise VerifierError(Reason.MALFORMED, "an RSA key expected")
    exponent, modulus = (int.from_bytes(b64decode(text)) for text in (e, n))
    try:
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as error:
        raise VerifierError(Reason.MALFORMED, f"RSA key: {error}") from error
    return _checked(key)


def _key(told: dict[str, Any], what: str) -> Key:
    if "d" in told or told.get("use", "sig") != "sig" or told.get("alg", "RS256") != "RS256":
        raise VerifierError(Reason.MALFORMED, "a public key for RS256 signatures expected")
    named = rsa_key(told) if {"n", "e"} & told.keys() else None
    chain = _chain(told.get("x5c"), what)
    if not chain:
        if named is None:
            raise VerifierError(Reason.MALFORMED, "neither a key nor a certificate")
        return Key(named, ())
    public = chain[0].public_key()
    if told.get("kty") != "RSA" or not isinstance(public, rsa.RSAPublicKey):
        raise VerifierError(Reason.MALFORMED, "an RSA key expected")
    if named is not None and named.public_numbers() != public.public_numbers():
        raise VerifierError(Reason.MALFORMED, "the certificate is of another key")
    return Key(_checked(public), chain)


def _checked(key: rsa.RSAPublicKey) -> rsa.RSAPublicKey:
    if key.key_size not in _BITS or key.public_numbers().e != _F4:
        raise VerifierError(Reason.MALFORMED, f"RSA of {key.key_size} bits, or not e = {_F4}")
    return key


def _chain(told: object, what: str) -> tuple[certificates.Certificate, ...]:
    """Return the certificates of `x5c`: standard base64 of DER, each issued by the next."""
    if told is None:
        return ()
    if not isinstance(told, list) or not 1 <= len(told) <= _LONGEST_CHAIN:
        raise VerifierError(Reason.MALFORMED, f"x5c: 1 to {_LONGEST_CHAIN} certificates expected")
    chain = tuple(x509.load_der(_base64(text), f"{what}: x5c") for text in told)
    for subject, issuer in pairwise(chain):
        x509.check_issued_by(subject, issuer, f"{what}: x5c", pkcs1v15=True)
    return chain


def _base64(text: object) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError) as error:
        raise VerifierError(Reason.MALFORMED, "x5c: base64 expected") from error
    if not raw or base64.b64encode(raw).decode() != text:
        raise VerifierError(Reason.MALFORMED, "x5c: base64 expected")
    return raw
