"""The same door behind its real server: sizes, lengths and paths as they come off a socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec

from tests.kit.broker import problem
from tests.kit.broker_home import RELEASES, TENANT
from tests.kit.broker_outside import Outside
from verifier.wire.canonical import MAX_MESSAGE


def raw(outside: Outside, request: bytes) -> bytes:
    """Send bytes to the broker's port and return what comes back until it closes."""
    url = outside.http.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=10) as peer:
        peer.sendall(request)
        pieces = []
        while piece := peer.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """Return an HTTP/1.1 request."""
    lines = (line, "Host: broker", "Connection: close", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_off_the_socket(outside: Outside) -> None:
    """Large, chunked, short, lying and odd requests are refused, and the broker goes on serving."""
    problem(outside.send(RELEASES, b"x" * (MAX_MESSAGE + 1)), "too_large", 413)
    problem(outside.send(RELEASES, pieces(40)), "too_large", 413)
    problem(outside.send(RELEASES, pieces(2)), "malformed", 400)

    post = f"POST {RELEASES} HTTP/1.1"
    json = "Content-Type: application/json"
    for case, status in (
        (request("GET /v1/tenants/%ff%fe/state HTTP/1.1"), b"401"),
        (request("GET /v1/tenants/acme%2fstate HTTP/1.1"), b"401"),
        (request("GET //v1//tenants HTTP/1.1"), b"404"),
        (request("GET /health?%00 HTTP/1.1"), b"200"),
        (request("GET http://other/health HTTP/1.1"), b"200"),
        (request("OPTIONS * HTTP/1.1"), b"4"),
        (request("TRACE /health HTTP/1.1"), b"4"),
        (request("BREW /health HTTP/1.1"), b"4"),
        (request(post, json, "Content-Length: -1"), b"400"),
        (request(post, json, "Content-Length: 2", "Content-Length: 3", body=b"{}"), b"400"),
        (request(post, json, "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), b"4"),
        (request(post, json, "Transfer-Encoding: chunked", body=b"zz\r\n"), b"400"),
        (request(post, json, "Content-Length: 2", body=b"{}"), b"400"),
        (request(post, json, "Content-Encoding: gzip", "Content-Length: 2", body=b"{}"), b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), b"400"),
        (request("GET /" + "a" * 70_000 + " HTTP/1.1"), b"4"),
    ):
        answer = raw(outside, case)
        assert answer.startswith(b"HTTP/1.1 " + status), (case[:80], answer[:200])
        assert b"Traceback" not in answer
        assert b"uvicorn" not in answer.lower()
    assert outside.http.get("/health").json()["status"] == "serving"
    asked = outside.ask()
    assert asked.open(outside.send(RELEASES, asked.body()).content).lease.id
    log = outside.log
    assert b"Traceback" not in log, log[log.index(b"Traceback") - 500 :][:3000].decode()


def pieces(count: int) -> Iterator[bytes]:
    """Give so many pieces of 64 KiB."""
    for _ in range(count):
        yield bytes(65536)


def test_openapi(outside: Outside) -> None:
    """The OpenAPI page names every route, and shows nothing of this broker's tenants."""
    page = outside.http.get("/schema/openapi.json")
    paths = msgspec.json.decode(page.content)["paths"]

    assert {RELEASES, "/v1/challenges", "/v1/renewals", "/health"} <= set(paths)
    assert TENANT.encode() not in page.content
    assert str(outside.prepared.home).encode() not in page.content
