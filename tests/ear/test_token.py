"""Signed tokens: what verifies, and every way not to."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.ear import AUDIENCE, ISSUER, KEY, KEYS, KID, NONCE, NOW, forged, made, sign, verified
from verifier.ear import claims, keys, token
from verifier.errors import Reason, VerifierError
from verifier.wire.canonical import b64decode, b64encode

GOOD = sign(token.signed_part(made(), KID))
PAYLOAD = claims.encode(made())
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def refused(raw: bytes, reason: Reason, **changes: object) -> None:
    """Hold that a token is refused for this reason."""
    with pytest.raises(VerifierError) as caught:
        verified(raw, **changes)
    assert caught.value.reason is reason


@pytest.mark.parametrize("dialect", ["legacy", "ietf"])
def test_a_good_token_verifies(dialect: claims.Dialect) -> None:
    """Issuer, audience, nonce and time as they were asked."""
    ear = made(dialect)

    assert verified(sign(token.signed_part(ear, KID))) == ear


def test_another_library_reads_it() -> None:
    """PyJWT verifies the signature and finds the registered claims where they belong."""
    told = jwt.decode(
        GOOD,
        jwt.PyJWKSet.from_dict(json.loads(keys.to_jwks(KEYS.values())))[KID],
        algorithms=["ES256"],
        audience=AUDIENCE,
        issuer=ISSUER,
        options={"verify_exp": False, "verify_iat": False, "require": ["jti", "iat", "exp"]},
    )

    assert b64decode(told["eat_nonce"]) == NONCE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"issuer": "cd" * 32}, Reason.TOKEN_ISSUER),
        ({"audience": AUDIENCE + "/"}, Reason.TOKEN_AUDIENCE),
        ({"nonce": bytes(32)}, Reason.NONCE_MISMATCH),
        ({"nonce": NONCE[:31]}, Reason.NONCE_MISMATCH),
        ({"now": NOW - 1}, Reason.TOKEN_NOT_YET_VALID),
        ({"now": NOW + 300}, Reason.TOKEN_EXPIRED),
    ],
)
def test_a_token_for_another(changes: dict[str, object], reason: Reason) -> None:
    """Of another issuer, audience, nonce or time: refused by name."""
    refused(GOOD, reason, **changes)


def test_the_last_second_counts() -> None:
    """From `iat` to before `exp`."""
    assert verified(GOOD, now=NOW + 299) == made()


@pytest.mark.parametrize(
    "algorithm", ["none", "HS256", "ES384", "RS256", "es256", None, 1, ["ES256"]]
)
def test_a_token_does_not_choose_its_algorithm(algorithm: object) -> None:
    """ES256, whatever the header says."""
    refused(forged(PAYLOAD, alg=algorithm), Reason.SIGNATURE_INVALID)


def test_alg_none_without_a_signature() -> None:
    """The oldest trick."""
    header = b64encode(json.dumps({"alg": "none", "kid": KID}).encode())
    refused(f"{header}.{b64encode(PAYLOAD)}.".encode(), Reason.SIGNATURE_INVALID)


def test_hs256_with_the_public_key() -> None:
    """The public key is no secret to sign with."""
    header = b64encode(json.dumps({"alg": "HS256", "kid": KID}).encode())
    part = f"{header}.{b64encode(PAYLOAD)}".encode()
    pem = KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    mac = b64encode(hmac.digest(pem, part, "sha256"))
    refused(part + b"." + mac.encode(), Reason.SIGNATURE_INVALID)


@pytest.mark.parametrize("member", ["jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "cty"])
def test_a_header_brings_no_key_and_no_extension(member: str) -> None:
    """Keys and critical extensions in a header are refused, not looked at."""
    refused(forged(PAYLOAD, **{member: ["x"]}), Reason.MALFORMED)


def test_a_key_must_be_known_by_its_id() -> None:
    """No kid, another's, or none that is known."""
    refused(forged(PAYLOAD, kid="other"), Reason.TOKEN_KEY_UNKNOWN)
    refused(forged(PAYLOAD, kid=None), Reason.MALFORMED)
    refused(forged(PAYLOAD, kid=""), Reason.MALFORMED)
    refused(forged(PAYLOAD, kid=7), Reason.MALFORMED)
    refused(forged(PAYLOAD, typ="at+jwt"), Reason.MALFORMED)
    stranger = ec.derive_private_key(8, ec.SECP256R1())
    refused(sign(token.signed_part(made(), KID), stranger), Reason.SIGNATURE_INVALID)


@given(st.integers(0, len(GOOD) * 8 - 1))
@settings(max_examples=150, deadline=None)
def test_no_flipped_bit_verifies(bit: int) -> None:
    """Header, payload, signature or the dots between them."""
    raw = bytearray(GOOD)
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(VerifierError):
        verified(bytes(raw))


@given(st.integers(0, len(GOOD) - 1))
@settings(max_examples=80, deadline=None)
def test_no_cut_token_verifies(length: int) -> None:
    """At whatever length."""
    with pytest.raises(VerifierError):
        verified(GOOD[:length])


@pytest.mark.parametrize(
    "numbers", [(0, 1), (1, 0), (0, 0), (ORDER, 1), (1, ORDER), (ORDER + 1, ORDER + 1)]
)
def test_signatures_out_of_range(numbers: tuple[int, int]) -> None:
    """Neither zero nor the group's order."""
    raw = b"".join(each.to_bytes(32) for each in numbers)
    refused(token.assemble(token.signed_part(made(), KID), raw), Reason.SIGNATURE_INVALID)


@pytest.mark.parametrize("tail", [b"=", b"\n", b" ", b".", b".AAAA", b"A"])
def test_nothing_follows(tail: bytes) -> None:
    """No padding, white space or further part."""
    with pytest.raises(VerifierError):
        verified(GOOD + tail)


@pytest.mark.parametrize("raw", [b"", b"..", b"a.b", "é.é.é".encode(), b"e30.e30.e30", b"W10.e30."])
def test_what_is_no_token(raw: bytes) -> None:
    """Nothing but our own error."""
    with pytest.raises(VerifierError):
        verified(raw)


def test_a_token_is_bounded() -> None:
    """Neither read nor written beyond a size."""
    refused(bytes(token.MAX_TOKEN + 1), Reason.TOO_LARGE)
    refused(b"A" * 5000 + b".e30.e30", Reason.MALFORMED)

    cpu = made().submods["cpu0"]
    huge = replace(made(), submods={"cpu0": replace(cpu, attester={"x": "y" * token.MAX_TOKEN})})
    with pytest.raises(VerifierError) as caught:
        token.signed_part(huge, KID)
    assert caught.value.reason is Reason.TOO_LARGE


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_a_well_signed_anything_is_no_token(payload: bytes) -> None:
    """A good signature over what is no result."""
    with pytest.raises(VerifierError):
        verified(forged(payload))


def test_half_a_surrogate_is_refused() -> None:
    """It could not be written again."""
    refused(forged(PAYLOAD.replace(b'"ostiary"', b'"\\ud800"')), Reason.MALFORMED)


class TestKeys:
    """JWK sets of P-256 keys, named by their thumbprint."""

    def test_round_trip(self) -> None:
        """What is written is read."""
        raw = keys.to_jwks(KEYS.values())

        assert keys.read_jwks(raw) == KEYS

    def test_the_thumbprint_is_rfc_7638s(self) -> None:
        """As PyJWT's own key of the same members computes it, by hand."""

        told = json.loads(keys.to_jwks(KEYS.values()))["keys"][0]
        text = f'{{"crv":"P-256","kty":"EC","x":"{told["x"]}","y":"{told["y"]}"}}'

        assert told["kid"] == b64encode(hashlib.sha256(text.encode()).digest())

    @pytest.mark.parametrize(
        "changes",
        [
            {"kty": "RSA"},
            {"crv": "P-384"},
            {"alg": "RS256"},
            {"use": "enc"},
            {"d": "AA"},
            {"kid": "mine"},
            {"x": "AA"},
            {"x": "A" * 43},
            {"x": "!" * 43},
            {"x": None},
        ],
    )
    def test_any_other_key_is_refused(self, changes: dict[str, object]) -> None:
        """Another kind, a private part, another name, a point that is none."""
        told = json.loads(keys.to_jwks(KEYS.values()))["keys"][0] | changes
        with pytest.raises(VerifierError) as caught:
            keys.read_jwks(json.dumps({"keys": [told]}).encode())
        assert caught.value.reason is Reason.COLLATERAL_MALFORMED

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"{}",
            b'{"keys":{}}',
            b'{"keys":[]}',
            b'{"keys":[1]}',
            b'{"keys":[{}]}',
            b'{"keys":[{"kid":""}]}',
            b'{"keys":[' + b",".join(b'{"kid":"%d"}' % n for n in range(65)) + b"]}",
            b'{"keys":[{"kid":"a"},{"kid":"a"}]}',
        ],
    )
    def test_what_is_no_set(self, raw: bytes) -> None:
        """An empty set verifies nothing and is refused aloud."""
        with pytest.raises(VerifierError) as caught:
            keys.read_jwks(raw)
        assert caught.value.reason is Reason.COLLATERAL_MALFORMED

    def test_a_set_is_bounded(self) -> None:
        """Too large is refused before it is parsed."""
        with pytest.raises(VerifierError) as caught:
            keys.read_jwks(bytes(keys.MAX_JWKS + 1))
        assert caught.value.reason is Reason.TOO_LARGE

    def test_only_p256_spkis(self) -> None:
        """What the worker says of its key is read as strictly."""
        spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        assert keys.from_spki(KEY.public_key().public_bytes(*spki)) == KEY.public_key()
        for bad in (
            b"",
            ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
            .public_key()
            .public_bytes(*spki),
            ec.derive_private_key(7, ec.SECP384R1()).public_key().public_bytes(*spki),
        ):
            with pytest.raises(VerifierError):
                keys.from_spki(bad)
