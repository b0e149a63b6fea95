"""What comes through the door: one media type, one size, one encoding; never a 500, never a reason.

The bodies are the ones that Litestar and msgspec were found to take when one lets them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.broker import House, problem
from tests.kit.broker_home import RIVAL, TENANT
from verifier.wire.canonical import B64, MAX_MESSAGE

OPEN = ("/v1/challenges", "/v1/releases", "/v1/renewals")
SIGNED = (("POST", "/keys"), ("POST", "/key-orders"), ("PUT", "/policies"))


def good_challenge() -> dict[str, Any]:
    """Return a challenge request as Python sees it, in wire order."""
    return {"v": 1, "tenant": TENANT, "purpose": "release", "kind": "tdx", "caller": "ab" * 32}


def compact(value: Any) -> bytes:
    """Return JSON without white space."""
    return json.dumps(value, separators=(",", ":")).encode()


def changed(**changes: Any) -> bytes:
    """Return a challenge request with other members."""
    return compact(good_challenge() | changes)


def test_good(house: House) -> None:
    """The message that all others here differ from in one thing is taken."""
    assert house.send("POST", "/v1/challenges", compact(good_challenge())).status_code == 200


GOOD = compact(good_challenge())
NOT_CANONICAL = {
    "empty": b"",
    "white space in front": b" " + GOOD,
    "new line behind": GOOD + b"\n",
    "spaces between": json.dumps(good_challenge()).encode(),
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "utf-16": GOOD.decode().encode("utf-16"),
    "nul behind": GOOD + b"\0",
    "twice": GOOD + GOOD,
    "duplicate key": GOOD.replace(b'"v":1', b'"v":1,"v":1'),
    "duplicate key, last one good": GOOD.replace(b'"v":1', b'"v":2,"v":1'),
    "unknown field": GOOD[:-1] + b',"x":1}',
    "unknown field in front": b'{"type":"tdx",' + GOOD[1:],
    "another order": compact(dict(reversed(good_challenge().items()))),
    "missing field": GOOD.replace(b'"kind":"tdx",', b""),
    "null": changed(kind=None),
    "integer as text": GOOD.replace(b'"v":1', b'"v":"1"'),
    "integer as a fraction": GOOD.replace(b'"v":1', b'"v":1.0'),
    "integer with an exponent": GOOD.replace(b'"v":1', b'"v":1e0'),
    "integer with a leading zero": GOOD.replace(b'"v":1', b'"v":01'),
    "integer with a sign": GOOD.replace(b'"v":1', b'"v":+1'),
    "minus nothing": GOOD.replace(b'"v":1', b'"v":-0'),
    "truth for an integer": GOOD.replace(b'"v":1', b'"v":true'),
    "another version": changed(v=2),
    "escaped letter": GOOD.replace(b"acme", b"\\u0061cme"),
    "escaped solidus": GOOD.replace(b"acme", b"ac\\/me"),
    "lone surrogate": GOOD.replace(b"acme", b"\\ud800"),
    "invalid utf-8": GOOD.replace(b"acme", b"\xff\xfe"),
    "upper-case hexadecimal": changed(caller="AB" * 32),
    "odd hexadecimal": changed(caller="a" * 63),
    "spaced hexadecimal": changed(caller="ab " * 21 + "a"),
    "other digits": changed(caller="\uff11" * 64),
    "short digest": changed(caller="ab" * 31),
    "other purpose": changed(purpose="steal"),
    "other kind": changed(kind="sample"),
    "tenant in capitals": changed(tenant="ACME"),
    "tenant with a path": changed(tenant="../acme"),
    "long tenant": changed(tenant="a" * 64),
    "list": b"[" + GOOD + b"]",
    "deep": b"[" * 100_000,
    "deep member": GOOD.replace(b'"acme"', b"[" * 5000 + b"]" * 5000),
    "huge number": GOOD.replace(b'"v":1', b'"v":' + b"9" * 5000),
    "not a number": GOOD.replace(b'"v":1', b'"v":NaN'),
    "comment": GOOD.replace(b'"v"', b'/**/"v"'),
    "trailing comma": GOOD[:-1] + b",}",
}


@pytest.mark.parametrize("name", NOT_CANONICAL)
def test_not_canonical(house: House, name: str) -> None:
    """Whatever is not the one encoding of the message is refused as malformed."""
    problem(house.send("POST", "/v1/challenges", NOT_CANONICAL[name]), "malformed", 400)


BASE64 = ("Zg==", "Zh", "Z g", "Zg\n", "_-+/", "Zg=", "\u00e4")


@pytest.mark.parametrize("text", BASE64)
def test_loose_base64(house: House, text: str) -> None:
    """Padding, other alphabets and loose trailing bits are not base64url."""
    good = house.ask().body()
    at = good.index(b'"claims":"') + len(b'"claims":"')
    bad = good[:at] + json.dumps(text)[1:-1].encode() + good[good.rindex(b'"') :]
    assert base64.urlsafe_b64decode("Zg==") == b"f"

    problem(house.release(bad), "malformed", 400)


MEDIA = (
    "text/plain",
    "application/json; charset=utf-8",
    "Application/JSON",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/msgpack",
    "",
)


@pytest.mark.parametrize("media", MEDIA)
def test_media_type(house: House, media: str) -> None:
    """A message comes as application/json and as nothing else, on every route that takes one."""
    for target in OPEN:
        problem(house.send("POST", target, GOOD, content_type=media), "malformed", 400)
    for method, path in SIGNED:
        target = f"/v1/tenants/{TENANT}{path}"
        problem(house.call(method, target, GOOD, content_type=media), "malformed", 400)


def test_too_large(house: House) -> None:
    """More than a MiB is refused by its length, on every route that takes a message."""
    large = b"x" * (MAX_MESSAGE + 1)
    for target in OPEN:
        problem(house.send("POST", target, large), "too_large", 413)
    for method, path in SIGNED:
        problem(house.call(method, f"/v1/tenants/{TENANT}{path}", large), "too_large", 413)


def test_just_not_too_large(house: House) -> None:
    """Exactly a MiB is read, and found to be malformed."""
    problem(house.send("POST", "/v1/challenges", b"x" * MAX_MESSAGE), "malformed", 400)


async def pieces(count: int) -> AsyncIterator[bytes]:
    """Give so many pieces of 64 KiB without saying how many there will be."""
    for _ in range(count):
        yield bytes(65536)


def test_too_large_in_pieces(house: House) -> None:
    """A chunked body that never says its length is cut off at the same size."""
    for target in OPEN:
        problem(house.send("POST", target, pieces(64)), "too_large", 413)


def test_length_that_lies(house: House) -> None:
    """A content-length that is small, large, negative or no number makes nothing worse."""
    for length in ("1", "99999999999999999999999", "-1", "x", "1, 2"):
        answer = house.send("POST", "/v1/challenges", pieces(64), content_length=length)
        assert answer.status_code in {400, 413}, length
        assert answer.headers["content-type"] == "application/problem+json"


GARBAGE: dict[str, Callable[[], bytes]] = {
    "zeros": lambda: bytes(1000),
    "json of another message": lambda: GOOD,
    "dsse that is none": lambda: compact({"payload": "", "payloadType": "", "signatures": []}),
    "text": lambda: b'"hello"',
    "number": lambda: b"1",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage(house: House, name: str) -> None:
    """Garbage gives a refusal of ours on every route, and never a 500."""
    body = GARBAGE[name]()
    for target in OPEN[1:]:
        problem(house.send("POST", target, body), "malformed", 400)
    for method, path in (*SIGNED, ("PUT", "/models/m/1/manifest")):
        answer = house.call(method, f"/v1/tenants/{TENANT}{path}", body)
        problem(answer, answer.json()["code"])
        assert answer.status_code in {400, 403}, (path, answer.text)


@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=300), target=st.sampled_from(OPEN))
def test_any_bytes(house: House, body: bytes, target: str) -> None:
    """No bytes whatever make anything but a refusal."""
    problem(house.send("POST", target, body), "malformed", 400)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_bit_of_a_release(house: House, data: st.DataObject) -> None:
    """A release request with a byte changed is refused, whichever byte it is."""
    good = house.ask().body()
    at = data.draw(st.integers(0, len(good) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda value: value != good[at]))
    answer = house.release(good[:at] + bytes((other,)) + good[at + 1 :])

    assert 400 <= answer.status_code < 500, (at, other, answer.text)
    problem(answer, answer.json()["code"])


@pytest.mark.parametrize(
    "path",
    [
        "/log/leaves?start=-1",
        "/log/leaves?start=99999999999999999999999999",
        "/log/leaves?start=9223372036854775808",
        "/log/leaves?limit=abc",
        "/log/leaves?start=",
        "/log/proof",
        "/log/proof?index=99999999999999999999999",
        "/log/proof?index=-1",
        "/log/proof?index=1000000",
        "/log/consistency?old=2&new=1",
        "/log/consistency?old=1&new=99999999999999999999999",
        "/audit?limit=-5",
        "/audit?limit=99999999999999999999999",
        "/leases?live=maybe",
        "/models/m/0/manifest",
        "/models/m/-1/manifest",
        "/models/m/99999999999999999999999/manifest",
        "/models/m/4294967296/files/x",
        "/models/%00/1/manifest",
        "/models/m/1/files/..%2f..%2fbroker.toml",
        "/models/m/1/files/%ff%fe",
    ],
)
def test_odd_numbers_and_names(house: House, path: str) -> None:
    """Numbers out of bounds and names that are none are refused, none reaches the database raw."""
    target = f"/v1/tenants/{TENANT}{path}"
    answer = house.call("GET", target)

    assert 400 <= answer.status_code < 500
    problem(answer, answer.json()["code"])


def test_no_reasons(house: House) -> None:
    """Why evidence was refused is on record, and the caller learns a code and a fixed sentence."""
    asked = house.ask()
    answer = house.release(asked.body(claims=B64(b"other claims, sent")))
    problem(answer, "evidence_refused", 403)

    assert "report_data" in house.reasons()
    for word in ("report_data", "expected", "seen", "Traceback", str(house.prepared.home)):
        assert word not in answer.text


def test_unknown_tenant(house: House) -> None:
    """A challenge for a tenant that is not there is refused; another one's is another challenge."""
    problem(house.send("POST", "/v1/challenges", changed(tenant="nobody")), "not_found", 404)
    first, second = (
        house.send("POST", "/v1/challenges", changed(tenant=name)).json()["challenge"]
        for name in (TENANT, RIVAL)
    )
    assert first != second


def test_challenges_never_repeat(house: House) -> None:
    """Two challenges are never equal, also when the same caller asks in the same second."""
    seen = {house.send("POST", "/v1/challenges", GOOD).json()["challenge"] for _ in range(50)}

    assert len(seen) == 50


def test_nothing_is_cached(house: House) -> None:
    """Challenges are not kept by anybody on the way."""
    assert house.send("POST", "/v1/challenges", GOOD).headers["cache-control"] == "no-store"
