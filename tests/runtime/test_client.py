"""How the runtime speaks to a broker: what it retries, what it bounds, what it believes."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from itertools import count

import jwt
import pytest

from inference_runtime import clock
from inference_runtime.client import BrokerClient, lease_token
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.exchange import Anchor, Identity
from inference_runtime.registry import Registry
from tests.kit.runtime import MODEL, TENANT, Scripted, Served, SoftBroker, problem, served

ROOT = f"/v1/tenants/{TENANT}/models/{MODEL.id}/{MODEL.version}"


@pytest.fixture
def house(broker: SoftBroker) -> Iterator[Served]:
    """Give a served broker."""
    with served(broker) as found:
        yield found


def always(scripted: Scripted) -> object:
    """Return a script of one answer."""
    return lambda _method, _target: scripted


def fault(house: Served, scripted: Scripted) -> RuntimeFault:
    """Return what a release makes of an answer; it must have been asked for once."""
    house.asked.clear()
    house.script = always(scripted)  # type: ignore[assignment]  # see above
    with BrokerClient(house.url) as client, pytest.raises(RuntimeFault) as caught:
        client.release(b"{}")
    assert house.asked == [("POST", "/v1/releases")]
    return caught.value


ANSWERS = {
    (403, "denied"): Fault.BROKER_REFUSED,
    (403, "lease_ended"): Fault.BROKER_REFUSED,
    (401, "unauthenticated"): Fault.BROKER_REFUSED,
    (404, "not_found"): Fault.BROKER_REFUSED,
    (409, "state_moved"): Fault.BROKER_ASK_AGAIN,
    (409, "permit_spent"): Fault.BROKER_ASK_AGAIN,
    (403, "challenge_unknown"): Fault.BROKER_ASK_AGAIN,
    (403, "challenge_expired"): Fault.BROKER_ASK_AGAIN,
    (403, "challenge_spent"): Fault.BROKER_ASK_AGAIN,
    (429, "http"): Fault.BROKER_UNAVAILABLE,
    (500, "internal"): Fault.BROKER_UNAVAILABLE,
    (503, "log_unavailable"): Fault.BROKER_UNAVAILABLE,
    (502, "state_moved"): Fault.BROKER_UNAVAILABLE,
}


@pytest.mark.parametrize(("status", "code"), ANSWERS)
def test_what_a_refusal_means(house: Served, status: int, code: str) -> None:
    """A refusal, a broken broker and a void exchange are three things; a release is sent once."""
    found = fault(house, problem(status, code))

    assert found.code is ANSWERS[(status, code)]
    assert str(status) in str(found)
    assert code in str(found)


BODIES = (b"", b"<html>", b"[]", b'{"code":1}', b"\xff\xfe", b"[" * 5000, b'"state_moved"')


@pytest.mark.parametrize("body", BODIES)
def test_refusal_without_words(house: Served, body: bytes) -> None:
    """What is no problem document is a refusal all the same, whatever it looks like."""
    assert fault(house, (403, {}, body)).code is Fault.BROKER_REFUSED


@pytest.mark.parametrize("status", [204, 301, 307, 302])
def test_neither_yes_nor_no(house: Served, status: int) -> None:
    """Redirects are not followed and emptiness is no answer."""
    found = fault(house, (status, {"location": "http://127.0.0.1:1/"}, b""))
    assert found.code is Fault.BROKER_REFUSED


def test_too_long(house: Served) -> None:
    """An answer is read to its limit and no further, also one that is a refusal."""
    large = bytes(5 << 20)
    assert fault(house, (200, {}, large)).code is Fault.ANSWER_INVALID
    assert fault(house, (403, {}, large)).code is Fault.ANSWER_INVALID


def test_compressed(house: Served) -> None:
    """A compressed answer, which could be any size when opened, is refused unread."""
    found = fault(house, (200, {"content-encoding": "gzip"}, b"\x1f\x8b" + bytes(100)))
    assert found.code is Fault.ANSWER_INVALID


def test_too_slow(house: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that drips is given up, though no single wait is too long."""
    ticks = count(0, 1000)
    monkeypatch.setattr(clock, "monotonic", lambda: float(next(ticks)))

    assert fault(house, (200, {}, b"x")).code is Fault.BROKER_UNAVAILABLE


def test_challenge_is_retried(house: Served, guest: Identity) -> None:
    """A challenge, which costs nothing, is asked for again when the broker is down for a moment."""
    left = [problem(503, "hsm_unavailable"), problem(500, "internal")]
    house.script = lambda _method, _target: left.pop() if left else None
    with BrokerClient(house.url) as client:
        answer = client.challenge(TENANT, "release", "tdx", guest)

    assert bytes(answer.document) == house.broker.document
    assert house.count("POST", "/v1/challenges") == 3


def test_challenge_is_refused(house: Served, guest: Identity) -> None:
    """A refused challenge is not asked for again."""
    house.script = lambda _method, _target: problem(404, "not_found")
    with BrokerClient(house.url) as client, pytest.raises(RuntimeFault) as caught:
        client.challenge(TENANT, "release", "tdx", guest)

    assert caught.value.code is Fault.BROKER_REFUSED
    assert house.count("POST", "/v1/challenges") == 1


@pytest.mark.parametrize("body", [b"", b"{}", b'{"v":1}', b"\xff", b"null"])
def test_challenge_of_nonsense(house: Served, guest: Identity, body: bytes) -> None:
    """Bytes that are no challenge are refused."""
    house.script = lambda _method, _target: (200, {}, body)
    with BrokerClient(house.url) as client, pytest.raises(RuntimeFault) as caught:
        client.challenge(TENANT, "release", "tdx", guest)

    assert caught.value.code is Fault.ANSWER_INVALID


def test_nobody_there(guest: Identity) -> None:
    """A broker that cannot be reached is tried for a while, and named."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    started = time.monotonic()
    with BrokerClient(f"http://127.0.0.1:{port}") as client, pytest.raises(RuntimeFault) as caught:
        client.challenge(TENANT, "release", "tdx", guest)

    assert caught.value.code is Fault.BROKER_UNAVAILABLE
    assert "/v1/challenges" in str(caught.value)
    assert 0.5 < time.monotonic() - started < 10


@pytest.mark.parametrize(
    "url",
    [
        "http://[",
        "http://h:port",
        "http://h:99999",
        "h:8420",
        "ftp://h",
        "",
        "http://",
        "http://a b",
    ],
)
def test_no_address(url: str) -> None:
    """What is no address is refused as such."""
    with pytest.raises(RuntimeFault) as caught:
        BrokerClient(url)
    assert caught.value.code is Fault.BROKER_UNAVAILABLE
    assert url in str(caught.value)


def registry(house: Served, who: Identity, client: BrokerClient) -> Registry:
    """Return the broker's registry as a runtime reads it."""
    anchor = Anchor(house.broker.genesis, house.broker.digest)
    return Registry(client, who, anchor, "a-lease", MODEL)


def test_registry(house: Served, guest: Identity) -> None:
    """Files are read by ranges, an empty one without asking, and sizes by HEAD."""
    seen: list[tuple[str, str]] = []

    def script(method: str, target: str) -> Scripted:
        seen.append((method, target))
        return (200, {"content-length": "12"}, b"") if method == "HEAD" else (206, {}, b"abc")

    house.script = script
    with BrokerClient(house.url) as client:
        found = registry(house, guest, client)
        assert found.read("files/a b/ü.bin", 5, 3) == b"abc"
        assert found.read("files/x", 5, 0) == b""
        assert found.size("files/x") == 12
        assert found.manifest() == b"abc"
    assert seen == [
        ("GET", f"{ROOT}/files/a%20b/%C3%BC.bin"),
        ("HEAD", f"{ROOT}/files/x"),
        ("GET", f"{ROOT}/manifest"),
    ]


def test_more_than_asked_for(house: Served, guest: Identity) -> None:
    """A registry that ignores a range is refused, not read to the end of a large file."""
    house.script = lambda _method, _target: (200, {}, bytes(4))
    with BrokerClient(house.url) as client, pytest.raises(RuntimeFault) as caught:
        registry(house, guest, client).read("files/x", 0, 3)
    assert caught.value.code is Fault.ANSWER_INVALID


def test_size_of_what_is_missing(house: Served, guest: Identity) -> None:
    """A file that is not there is refused once; a broker that is down is asked again."""
    with BrokerClient(house.url) as client:
        found = registry(house, guest, client)
        with pytest.raises(RuntimeFault) as caught:
            found.size("files/x")
        assert caught.value.code is Fault.BROKER_REFUSED
        assert len(house.asked) == 1
        left = [(503, {}, b""), (200, {"content-length": "3"}, b"")]
        house.script = lambda _method, _target: left.pop(0)
        assert found.size("files/x") == 3


def test_lease_token(broker: SoftBroker, guest: Identity) -> None:
    """A registry read carries a token for that one request, by the instance key, minutes long."""
    identifier = bytes(broker.genesis.broker)
    tokens = [lease_token(guest, "l-1", identifier, "GET", "/a?b") for _ in range(2)]
    claims = [
        jwt.decode(
            token,
            guest.instance.public_key(),
            algorithms=["EdDSA"],
            audience=identifier.hex(),
        )
        for token in tokens
    ]
    first = claims[0]
    assert first["jti"] != claims[1]["jti"]
    assert (first["iss"], first["htm"], first["htu"]) == ("lease:l-1", "GET", "/a?b")
    assert first["bsha"] == hashlib.sha256(b"").hexdigest()
    assert 0 < first["exp"] - first["iat"] <= 300
    header = jwt.get_unverified_header(tokens[0])
    assert header["alg"] == "EdDSA"
    assert header["kid"] == hashlib.sha256(guest.instance_spki).hexdigest()
