"""Tokens: one caller, one broker, one request, once, for at most 300 seconds."""

from __future__ import annotations

import base64
import secrets
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.kit.broker import House, encoded, problem, token
from tests.kit.broker_home import RIVAL, TENANT
from verifier import dsse
from verifier.wire import canonical

TARGET = f"/v1/tenants/{TENANT}/state"


def send(house: House, bearer: str, method: str = "GET", target: str = TARGET) -> int:
    """Return the status of a request with this token; a refusal must be the usual one."""
    answer = house.send(method, target, authorization=f"Bearer {bearer}")
    if not answer.is_success:
        problem(answer, "unauthenticated", 401)
    return answer.status_code


def kid(house: House) -> str:
    """Return the id of the enrolled key."""
    return dsse.key_id(dsse.spki(house.key.public_key()))


def signed(house: House, /, header: dict[str, Any] | None = None, **changes: Any) -> str:
    """Return a token with other claims; None leaves one out."""
    claims = house.claims("GET", TARGET) | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return token(house.key, claims, header={"kid": kid(house)} | (header or {}))


def raw(header: Any, claims: Any, signature: bytes = b"") -> str:
    """Return a token of any JSON with any signature."""
    return f"{encoded(header, claims)}.{canonical.b64encode(signature)}"


def test_good(house: House) -> None:
    """The token that all others here differ from in one thing is taken."""
    assert send(house, signed(house)) == 200


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "nOnE"])
def test_no_algorithm(house: House, algorithm: str) -> None:
    """A token without a signature is nobody's, however it is spelled."""
    header = {"alg": algorithm, "typ": "JWT", "kid": kid(house)}
    claims = house.claims("GET", TARGET)

    assert send(house, raw(header, claims)) == 401
    assert send(house, raw(header, claims, bytes(64))) == 401


def test_public_key_as_a_secret(house: House) -> None:
    """HS256 with the public key, in any of its forms, as the secret is refused."""
    public = house.key.public_key()
    forms = (
        dsse.spki(public),
        public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw),
        base64.b64encode(dsse.spki(public)),
        kid(house).encode(),
    )
    for secret in forms:
        bearer = token(secret, house.claims("GET", TARGET), header={"kid": kid(house)})
        assert send(house, bearer) == 401


@pytest.mark.parametrize("member", ["jwk", "x5c", "jku", "x5u"])
def test_key_in_the_header(house: House, member: str) -> None:
    """A key that the token brings itself counts for nothing."""
    own = Ed25519PrivateKey.generate()
    x = own.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(x).decode().rstrip("=")}
    brought: Any = {"jwk": jwk, "x5c": [base64.b64encode(x).decode()]}.get(member, "http://a/b")
    claims = house.claims("GET", TARGET)

    assert send(house, token(own, claims, header={"kid": kid(house), member: brought})) == 401
    assert send(house, token(own, claims, header={member: brought})) == 401


def test_another_algorithm_and_key(house: House) -> None:
    """ES256 by a key that is not enrolled is refused, also under the enrolled key's id."""
    key = ec.generate_private_key(ec.SECP256R1())
    bearer = token(key, house.claims("GET", TARGET), header={"kid": kid(house)})

    assert send(house, bearer) == 401


@pytest.mark.parametrize("value", ["00" * 32, "", None, 5, ["x"], "\N{LATIN SMALL LETTER SHARP S}"])
def test_key_id(house: House, value: Any) -> None:
    """Only the digest of the key's SPKI names it."""
    header = {"alg": "EdDSA", "kid": value} if value is not None else {"alg": "EdDSA"}

    assert send(house, raw(header, house.claims("GET", TARGET), bytes(64))) == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "00" * 32},
        {"aud": None},
        {"aud": ""},
        {"iss": None},
        {"iss": "nobody"},
        {"iss": RIVAL},
        {"iss": "lease:none"},
        {"iss": "lease:"},
        {"iss": 5},
        {"iss": "ACME"},
        {"iss": " acme"},
        {"iss": "acme\0"},
        {"iss": "\ud800"},
        {"iss": "lease:\udfff"},
        {"jti": None},
        {"jti": ""},
        {"jti": "A" * 32},
        {"jti": 5},
        {"jti": "0" * 31},
        {"jti": "\uff10" * 32},
        {"htm": "POST"},
        {"htm": "get"},
        {"htm": None},
        {"htu": f"{TARGET}?"},
        {"htu": f"/v1/tenants/{RIVAL}/state"},
        {"htu": f"http://broker{TARGET}"},
        {"htu": None},
        {"bsha": None},
        {"bsha": ""},
        {"bsha": "0" * 63},
        {"bsha": "Z" * 64},
        {"iat": None},
        {"exp": None},
        {"iat": "1"},
        {"exp": 1e12},
        {"exp": True},
        {"sub": "acme"},
        {"nbf": 0},
        {"admin": True},
    ],
    ids=repr,
)
def test_claims(house: House, changes: dict[str, Any]) -> None:
    """Every claim must be there, of its type, for this request; none may be there besides."""
    assert send(house, signed(house, **changes)) == 401


def test_several_audiences(house: House) -> None:
    """A token for this broker and another one is for neither."""
    own = house.services.broker.hex()

    assert send(house, signed(house, aud=[own, "00" * 32])) == 401
    assert send(house, signed(house, aud=[own])) == 401


def test_times(house: House) -> None:
    """A token counts from its issue (a clock may be 5 s ahead) to its expiry, at most 300 s."""
    now = house.clock.now
    for issued, expires, status in (
        (now, now + 300, 200),
        (now - 299, now + 1, 200),
        (now + 5, now + 100, 200),
        (now, now + 301, 401),
        (now - 300, now + 1, 401),
        (now - 100, now, 401),
        (now - 100, now - 1, 401),
        (now + 6, now + 100, 401),
        (now + 1000, now + 1100, 401),
        (0, now + 10, 401),
        (-(10**30), now + 10, 401),
        (now, 10**30, 401),
        (now, now - 10, 401),
    ):
        assert send(house, signed(house, iat=issued, exp=expires)) == status, (issued, expires)


def test_reuse(house: House) -> None:
    """A token is used up by its first use, and so is its jti."""
    bearer, jti = signed(house), secrets.token_hex(16)

    assert send(house, bearer) == 200
    assert send(house, bearer) == 401
    assert send(house, signed(house, jti=jti)) == 200
    assert send(house, signed(house, jti=jti, iat=house.clock.now - 1)) == 401


def test_concurrent_reuse(house: House) -> None:
    """Of many uses of one token at once exactly one succeeds."""
    header = f"Bearer {signed(house)}"
    answers = house.together(
        *(house.sending("GET", TARGET, authorization=header) for _ in range(16))
    )

    assert sorted(a.status_code for a in answers) == [200] + [401] * 15


def test_forged_does_not_spend(house: House) -> None:
    """Whoever guesses a jti cannot use it up: only an authentic token is spent."""
    jti = secrets.token_hex(16)
    forged = token(
        Ed25519PrivateKey.generate(),
        house.claims("GET", TARGET) | {"jti": jti},
        header={"kid": kid(house)},
    )

    assert send(house, forged) == 401
    assert send(house, signed(house, jti=jti)) == 200


def test_same_jti_of_two_tenants(house: House) -> None:
    """One tenant's use of a jti takes it from nobody else."""
    jti = secrets.token_hex(16)
    rival = house.prepared.signers[RIVAL]
    target = f"/v1/tenants/{RIVAL}/state"
    claims = house.claims("GET", target, issuer=RIVAL) | {"jti": jti}
    theirs = token(rival, claims, header={"kid": dsse.key_id(dsse.spki(rival.public_key()))})

    assert send(house, theirs, target=target) == 200
    assert send(house, signed(house, jti=jti)) == 200


def test_other_request(house: House) -> None:
    """A token for one path, query or method is nothing at another."""
    other = f"/v1/tenants/{TENANT}/leases"
    assert send(house, signed(house), target=other) == 401
    assert send(house, signed(house, htu=other), target=f"{other}?live=true") == 401
    assert send(house, signed(house, htu=f"{other}?live=true"), target=f"{other}?live=false") == 401
    assert send(house, signed(house, htu=f"{other}?live=true"), target=f"{other}?live=true") == 200


def test_percent_encoding(house: House) -> None:
    """The path is compared as it came: another spelling of it is another request."""
    assert send(house, signed(house), target=TARGET.replace("acme", "%61cme")) == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/keys"), ("POST", "/key-orders"), ("PUT", "/policies"), ("POST", "/import-keys")],
)
def test_other_body(house: House, method: str, path: str) -> None:
    """A token for one body is nothing with another, or with none."""
    target = f"/v1/tenants/{TENANT}{path}"
    for signed_body, sent in ((b"{}", b'{"v":1}'), (b"", b"{}"), (b"{}", b"")):
        bearer = house.token(method, target, signed_body)
        answer = house.send(method, target, sent, authorization=f"Bearer {bearer}")
        problem(answer, "unauthenticated", 401)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "bearer {}",
        "Basic {}",
        "{}",
        "Bearer  {}",
        "Bearer {} {}",
        "Bearer .",
        "Bearer ...",
        "Bearer a.b.c",
        "Bearer " + "A" * 5000,
    ],
)
def test_header(house: House, header: str) -> None:
    """One scheme, one space, one token of bounded size."""
    answer = house.send("GET", TARGET, authorization=header.replace("{}", signed(house)))

    problem(answer, "unauthenticated", 401)


@pytest.mark.parametrize(
    "claims",
    [
        b"",
        b"[]",
        b"1",
        b"null",
        b"{",
        b"\xff\xfe",
        b'{"iss":' + b"[" * 2500,
        b'{"iss":' + b"[" * 1400 + b"]" * 1400 + b"}",
        b'{"exp":' + b"9" * 2800 + b"}",
        b'{"iss":NaN}',
        b'{"iss":"acme","iss":"acme"}',
    ],
    ids=lambda claims: f"{claims[:16]!r}-{len(claims)}",
)
def test_not_claims(house: House, claims: bytes) -> None:
    """Garbage where the claims or the header should be is refused like any other token."""
    header = {"alg": "EdDSA", "kid": kid(house)}

    assert send(house, raw(header, claims, bytes(64))) == 401
    assert send(house, raw(claims, house.claims("GET", TARGET), bytes(64))) == 401


def test_critical_header(house: House) -> None:
    """A header that says that something must be understood is refused, since it is not."""
    assert send(house, signed(house, header={"crit": ["b64"], "b64": False})) == 401
    assert send(house, signed(house, header={"crit": ["exp"]})) == 401


def test_bits_of_the_signature(house: House) -> None:
    """A flipped bit anywhere in the token is noticed, and so is loose base64 at its end."""
    good = signed(house)
    for at in (5, good.index(".") + 5, good.rindex(".") + 5, len(good) - 2):
        other = "A" if good[at] != "A" else "B"
        assert send(house, good[:at] + other + good[at + 1 :]) == 401
    assert send(house, good) == 200
