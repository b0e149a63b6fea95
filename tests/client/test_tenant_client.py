"""The vendor's client: the token of each request, the pin, and what it does with odd answers."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ostiary.client import ClientError, Tenant, TenantClient, wrap_dek
from tests.kit.runtime import SoftBroker
from verifier import dsse
from verifier.errors import VerifierError
from verifier.wire import canonical

DEK = bytes(range(32))
Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(scope="module")
def broker() -> SoftBroker:
    """Give a tenant and its signer."""
    return SoftBroker()


@pytest.fixture(scope="module")
def import_key() -> rsa.RSAPrivateKey:
    """Give an import key as an HSM has it."""
    return rsa.generate_private_key(65537, 4096)


def spki(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """Return the public half in DER."""
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def client(broker: SoftBroker, answer: Answer) -> TenantClient:
    """Return the client of the broker's tenant, with answers of the test's own."""

    def streamed(request: httpx.Request) -> httpx.Response:
        given = answer(request)
        stream = httpx.ByteStream(given.content)
        return httpx.Response(given.status_code, headers=given.headers, stream=stream)

    return TenantClient(
        "http://broker",
        Tenant.read(broker.document),
        broker.vendor,
        transport=httpx.MockTransport(streamed),
    )


def refused(call: Callable[[], object], code: str, *words: str) -> str:
    """Check that something is refused with this code."""
    with pytest.raises(ClientError) as caught:
        call()
    assert caught.value.code == code, caught.value
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


# The pin.


def test_wrapped(import_key: rsa.RSAPrivateKey) -> None:
    """The DEK is wrapped to the key whose digest was pinned."""
    public = spki(import_key)
    wrapped = wrap_dek(public, hashlib.sha256(public).digest(), memoryview(DEK))
    digest = hashes.SHA1()  # noqa: S303 - what SoftHSM has
    scheme = padding.OAEP(mgf=padding.MGF1(digest), algorithm=digest, label=None)
    assert import_key.decrypt(wrapped, scheme) == DEK


def test_another_import_key(import_key: rsa.RSAPrivateKey) -> None:
    """Another key than the pinned one gets nothing, and both digests are shown."""
    public = spki(import_key)
    for pin in (bytes(32), b"", hashlib.sha256(public).digest()[:31]):
        said = refused(
            lambda pinned=pin: wrap_dek(public, pinned, memoryview(DEK)),
            "import_key_unpinned",
            hashlib.sha256(public).hexdigest(),
            pin.hex(),
        )
        assert DEK.hex() not in said


def test_pinned_but_no_import_key() -> None:
    """What was pinned is RSA-4096 all the same: a smaller key or another kind is refused."""
    small = spki(rsa.generate_private_key(65537, 2048))
    other = spki(ed25519.Ed25519PrivateKey.generate())
    for public in (small, other, b"garbage", b""):
        pin = hashlib.sha256(public).digest()
        refused(
            lambda key=public, pinned=pin: wrap_dek(key, pinned, memoryview(DEK)),
            "import_key_unpinned",
        )


# Tokens.


def test_token(broker: SoftBroker, tmp_path: Path) -> None:
    """Each request carries a token for its method, path, query and body, used once, for minutes."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        request.read()
        seen.append(request)
        return httpx.Response(200, content=b"[]")

    file = tmp_path / "file"
    file.write_bytes(bytes(3_000_000))
    moved: list[int] = []
    with client(broker, answer) as found:
        found.leaves(3, 7)
        found.leaves(3, 7)
        found.order_key(b"an order")
        found.push_file("m", 1, "a b/ü", file, moved.append)
    assert sum(moved) == 3_000_000
    assert seen[3].headers["content-type"] == "application/octet-stream"
    assert seen[3].headers["content-length"] == "3000000"
    used = set()
    for request in seen:
        token = request.headers["authorization"].removeprefix("Bearer ")
        assert jwt.get_unverified_header(token)["kid"] == dsse.key_id(spki(broker.vendor))
        claims = jwt.decode(
            token,
            broker.vendor.public_key(),
            algorithms=["EdDSA"],
            audience=broker.genesis.broker.hex(),
        )
        assert claims["iss"] == "acme"
        assert (claims["htm"], claims["htu"].encode()) == (request.method, request.url.raw_path)
        assert claims["bsha"] == hashlib.sha256(request.content).hexdigest()
        assert 0 < claims["exp"] - claims["iat"] <= 300
        used.add(claims["jti"])
    assert len(used) == len(seen)
    assert seen[0].url.raw_path == b"/v1/tenants/acme/log/leaves?start=3&limit=7"
    assert seen[3].url.raw_path == b"/v1/tenants/acme/models/m/1/files/a%20b/%C3%BC"


# Answers.


def test_refusal(broker: SoftBroker) -> None:
    """A problem document gives its code and sentence; the request is named."""
    document = {"type": "/problems/denied", "title": "No.", "status": 403, "code": "denied"}
    with client(broker, lambda _: httpx.Response(403, json=document)) as found:
        refused(found.state, "denied", "GET /v1/tenants/acme/state", "403", "No.")


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "no document": ({"status_code": 502, "content": b"<html>"}, "http"),
    "another document": ({"status_code": 400, "content": b"[1]"}, "http"),
    "code that is none": ({"status_code": 400, "json": {"code": 7}}, "http"),
    "nesting": ({"status_code": 400, "content": b"[" * 100_000}, "http"),
    "redirect": ({"status_code": 302, "headers": {"location": "http://elsewhere/"}}, "http"),
    "not JSON": ({"status_code": 200, "content": b"<html>"}, "answer_invalid"),
    "nothing": ({"status_code": 200, "content": b""}, "answer_invalid"),
    "a list": ({"status_code": 200, "content": b"[]"}, "answer_invalid"),
    "no epoch": ({"status_code": 200, "json": {"epoch": "3"}}, "answer_invalid"),
    "deep": ({"status_code": 200, "content": b"[" * 100_000}, "answer_invalid"),
    "compressed": (
        {
            "status_code": 200,
            "content": gzip.compress(b'{"epoch":1}'),
            "headers": {"content-encoding": "gzip"},
        },
        "answer_invalid",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_answer(broker: SoftBroker, name: str) -> None:
    """Whatever a broker, or what stands before it, answers is an error of ours."""
    answer, code = ODD[name]
    with client(broker, lambda _: httpx.Response(**answer)) as found:
        refused(found.epoch, code)


def test_control_characters(broker: SoftBroker) -> None:
    """What a stranger writes into a refusal does not reach the terminal as commands."""
    document = {"code": "x\x1b[2J", "title": "red\x1b[31m\nline" + "y" * 5000}
    with client(broker, lambda _: httpx.Response(400, json=document)) as found:
        said = refused(found.state, "x[2J")
    assert said.isprintable()
    assert len(said) < 1000


def test_leaves_that_are_none(broker: SoftBroker) -> None:
    """Leaves that are not base64url are refused."""
    with (
        client(broker, lambda _: httpx.Response(200, json=["*"])) as found,
        pytest.raises(VerifierError),
    ):
        found.leaves()
    with client(broker, lambda _: httpx.Response(200, json=["eA"])) as found:
        assert found.leaves() == [b"x"]


def test_unreachable(broker: SoftBroker) -> None:
    """A broker that cannot be reached is told apart, with the likeliest cause."""

    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with client(broker, answer) as found:
        refused(found.state, "unreachable", "is the broker running?")


def test_missing_file(broker: SoftBroker, tmp_path: Path) -> None:
    """A file that cannot be read is named before anything is sent."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200)

    with client(broker, answer) as found:
        for path in (tmp_path / "none", tmp_path):
            refused(lambda p=path: found.push_file("m", 1, "x", p), "file", str(path))
    assert asked == []


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(status=st.sampled_from((200, 400, 500)), body=st.binary(max_size=60))
def test_any_answer(broker: SoftBroker, status: int, body: bytes) -> None:
    """No bytes make anything but a value or an error of ours."""
    with client(broker, lambda _: httpx.Response(status, content=body)) as found:
        for call in (found.epoch, found.state, found.leases, found.create_import_key, found.leaves):
            with suppress(ClientError, VerifierError):
                call()


# The tenant.


def test_tenant(broker: SoftBroker) -> None:
    """A tenant is read from a genesis that its own signers signed."""
    tenant = Tenant.read(broker.document)
    assert (tenant.genesis, tenant.digest) == (broker.genesis, broker.digest)
    assert tenant.origin == broker.log.origin
    forged = dsse.sign(
        "application/vnd.ostiary.genesis.v1+json",
        canonical.encode(broker.genesis),
        ed25519.Ed25519PrivateKey.generate(),
    )
    for document in (forged, b"", json.dumps({}).encode()):
        with pytest.raises(VerifierError):
            Tenant.read(document)
