"""HTTP to the vendors: bounded in time and bytes, whatever the server does."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from ostiary.simulator.services import Reply, Vendors, VendorServer
from tests.kit.collateral import LIMITS, Site
from verifier.collateral.web import Answer, Budget, Limits, Web, check_base
from verifier.errors import Reason, VerifierError

JSON = {"Content-Type": "application/json"}
PATH = "/anything"


def get(url: str, limits: Limits = LIMITS, budget: Budget | None = None) -> Answer:
    """Return what one GET gives."""

    async def within() -> Answer:
        web = Web(limits)
        try:
            types = frozenset({"application/json"})
            return await web.get(url, types=types, limit=1000, budget=budget)
        finally:
            await web.aclose()

    return asyncio.run(within())


def refused(place: Site, reason: Reason, limits: Limits = LIMITS) -> int:
    """Check that the GET is refused so; return how often the server was asked."""
    with pytest.raises(VerifierError) as caught:
        get(place.server.url + PATH, limits)

    assert caught.value.reason is reason, caught.value
    return place.server.asked[PATH]


def test_an_answer_comes_with_its_headers(place: Site) -> None:
    """The body is the bytes that were sent."""
    place.server.fail(PATH, Reply(200, b'{"a":1}', {**JSON, "X-Chain": "c"}))

    answer = get(place.server.url + PATH)

    assert (answer.body, answer.headers["x-chain"]) == (b'{"a":1}', "c")


def test_a_slow_server_does_not_hold_us(place: Site) -> None:
    """One byte at a time never adds up to more than the total time."""
    place.server.fail(PATH, Reply(200, b"x" * 500, JSON, drip_s=0.05))
    begun = time.monotonic()

    asked = refused(place, Reason.COLLATERAL_UNAVAILABLE, replace(LIMITS, total_s=0.3, attempts=2))

    assert time.monotonic() - begun < 2
    assert asked == 2


def test_more_bytes_than_the_limit(place: Site) -> None:
    """A body is cut off where it exceeds the limit, and not asked for again."""
    place.server.fail(PATH, Reply(200, b"x" * 1001, JSON))

    assert refused(place, Reason.TOO_LARGE) == 1


@pytest.mark.parametrize("kind", ["text/html", "", "application/jsonp", "application/json2"])
def test_another_media_type(place: Site, kind: str) -> None:
    """A login page is not collateral."""
    place.server.fail(PATH, Reply(200, b"{}", {"Content-Type": kind}))

    assert refused(place, Reason.COLLATERAL_MALFORMED) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(place: Site, status: int) -> None:
    """Hosts come from settings, never from an answer."""
    elsewhere = {"Location": f"{place.server.url}/elsewhere"}
    place.server.fail(PATH, Reply(status, b"", elsewhere))

    assert refused(place, Reason.COLLATERAL_UNAVAILABLE) == 1
    assert place.server.asked["/elsewhere"] == 0


def test_a_compressed_body(place: Site) -> None:
    """What could grow while it is read is refused before."""
    packed = gzip.compress(b"{}" + b" " * 100_000)
    place.server.fail(PATH, Reply(200, packed, {**JSON, "Content-Encoding": "gzip"}))

    assert refused(place, Reason.COLLATERAL_MALFORMED) == 1


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, Reason.COLLATERAL_MISSING),
        (400, Reason.COLLATERAL_UNAVAILABLE),
        (401, Reason.COLLATERAL_UNAVAILABLE),
        (206, Reason.COLLATERAL_UNAVAILABLE),
        (204, Reason.COLLATERAL_UNAVAILABLE),
    ],
)
def test_what_will_not_pass_is_asked_once(place: Site, status: int, reason: Reason) -> None:
    """Only what may be better next time is tried again."""
    place.server.fail(PATH, Reply(status, b"", JSON))

    assert refused(place, reason) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(place: Site, status: int) -> None:
    """Two bad answers and a good one make a good one."""
    place.server.fail(PATH, Reply(status), times=2)
    place.server.fail(PATH, Reply(200, b"{}", JSON))

    assert get(place.server.url + PATH).body == b"{}"
    assert place.server.asked[PATH] == 3


def test_it_gives_up(place: Site) -> None:
    """There are as many attempts as the limits say."""
    place.server.fail(PATH, Reply(503))

    assert refused(place, Reason.COLLATERAL_UNAVAILABLE) == LIMITS.attempts


def test_retry_after_is_obeyed(place: Site) -> None:
    """The server says when to come back."""
    place.server.fail(PATH, Reply(429, b"", {"Retry-After": "1"}), times=1)
    place.server.fail(PATH, Reply(200, b"{}", JSON))
    begun = time.monotonic()

    get(place.server.url + PATH)

    assert time.monotonic() - begun >= 1


def test_a_long_retry_after_is_not_waited_for(place: Site) -> None:
    """A guest is not kept waiting: it hears at once that it must come back."""
    place.server.fail(PATH, Reply(429, b"", {"Retry-After": "3600"}))

    assert refused(place, Reason.COLLATERAL_UNAVAILABLE) == 1


def test_nobody_there() -> None:
    """A closed port is an error of ours."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    with pytest.raises(VerifierError) as caught:
        get(f"http://127.0.0.1:{port}/")

    assert caught.value.reason is Reason.COLLATERAL_UNAVAILABLE


def test_a_body_that_ends_early(place: Site) -> None:
    """A body shorter than announced is no answer."""
    place.server.fail(
        PATH, Reply(200, b"{", {**JSON, "Content-Length": "5", "Connection": "close"})
    )

    assert refused(place, Reason.COLLATERAL_UNAVAILABLE, replace(LIMITS, total_s=0.5)) == 3


def test_every_attempt_costs(place: Site) -> None:
    """A budget bounds requests, not calls."""
    place.server.fail(PATH, Reply(503))
    with pytest.raises(VerifierError, match="budget") as caught:
        get(place.server.url + PATH, budget=Budget(2, 0.001))

    assert caught.value.reason is Reason.COLLATERAL_UNAVAILABLE
    assert place.server.asked[PATH] == 2


def test_a_budget_fills_again() -> None:
    """After a burst, requests come at the rate that was set, and never above the burst."""

    async def spend() -> None:
        budget = Budget(2, 60 * 50)
        for _ in range(2):
            budget.spend("x")
        with pytest.raises(VerifierError):
            budget.spend("x")
        await asyncio.sleep(0.1)
        for _ in range(2):
            budget.spend("x")
        with pytest.raises(VerifierError):
            budget.spend("x")

    asyncio.run(spend())


@pytest.mark.parametrize(
    "url",
    [
        "https://pccs.example:8081",
        "https://pccs.example/behind/a/path/",
        "http://127.0.0.1:8081",
        "http://[::1]:8081",
        "http://localhost:8081",
        "http://169.254.169.254",
    ],
)
def test_bases_that_an_operator_may_set(url: str) -> None:
    """HTTPS anywhere, HTTP only so near that nobody is between."""
    assert check_base(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "pccs.example",
        "ftp://pccs.example",
        "http://pccs.example",
        "http://10.0.0.1",
        "https://user@pccs.example",
        "https://user:word@pccs.example",
        "https://pccs.example/?a=b",
        "https://pccs.example/#a",
        "https://",
        "https://[::1",
        "https://pccs.example:99999",
        "https://pccs.example/\n",
        "https://pccs.exämple",
        "file:///etc/passwd",
    ],
)
def test_bases_that_are_refused(url: str) -> None:
    """A setting that is no service is found at the start, not at the first release."""
    with pytest.raises(VerifierError):
        check_base(url)


@given(st.text(max_size=60))
def test_any_text_is_a_base_or_our_error(text: str) -> None:
    """Nothing but our error comes out."""
    for url in (text, f"https://{text}", f"http://{text}"):
        try:
            check_base(url)
        except VerifierError:
            continue


def test_an_authority_of_one_s_own(tmp_path: Path) -> None:
    """A PCCS with a certificate of its own is asked under that authority, and under no other."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pccs")])
    today = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - timedelta(1))
        .not_valid_after(today + timedelta(1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, SHA256())
    )
    pem = tmp_path / "pccs.pem"
    authority = certificate.public_bytes(Encoding.PEM)
    pem.write_bytes(
        authority + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (tmp_path / "authority.pem").write_bytes(authority)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(pem)
    server = VendorServer(Vendors(lambda: 0))
    server.fail(PATH, Reply(200, b"{}", JSON))
    server.socket = served.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    url = server.url.replace("http:", "https:") + PATH

    async def ask(tls: ssl.SSLContext | None) -> bytes:
        web = Web(LIMITS, tls)
        try:
            return (await web.get(url, types=frozenset({"application/json"}), limit=9)).body
        finally:
            await web.aclose()

    try:
        own = ssl.create_default_context(cafile=tmp_path / "authority.pem")
        assert asyncio.run(ask(own)) == b"{}"
        with pytest.raises(VerifierError) as caught:
            asyncio.run(ask(None))
        assert caught.value.reason is Reason.COLLATERAL_UNAVAILABLE
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
