"""A bucket for tests: a real HTTP server over a folder that answers ranges, and misbehaves."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Web:
    """What a bucket serves, and how. `drop` bytes of each next body are sent, then the line dies.

    `answer` gives another answer than the folder's, where a test wants it; `down` refuses
    connections; `asked` is method, target and range of every request.
    """

    folder: Path
    port: int = 0
    drop: list[int] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    sent: int = 0
    answer: Callable[[str, str, str], Answer | None] = lambda _method, _target, _span: None
    ranges: bool = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/models/one"

    def found(self, method: str, target: str, span: str) -> Answer:
        """Return status, headers and body for a request."""
        self.asked.append((method, target, span))
        if (other := self.answer(method, target, span)) is not None:
            return other
        path = self.folder / unquote(urlsplit(target).path).removeprefix("/models/one/")
        if not path.is_file():
            return 404, {}, b""
        raw = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", span)
        if match is None or not self.ranges:
            return 200, {}, raw
        first, last = int(match[1]), min(int(match[2]), len(raw) - 1)
        if first >= len(raw):
            return 416, {"content-range": f"bytes */{len(raw)}"}, b""
        return 206, {"content-range": f"bytes {first}-{last}/{len(raw)}"}, raw[first : last + 1]


@contextmanager
def web(folder: Path, port: int = 0, found: Web | None = None) -> Iterator[Web]:
    """Serve a folder until the block ends; the same port and `found` again is a restart."""
    told = found or Web(folder)
    lines: set[socket.socket] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            lines.add(self.connection)
            status, headers, body = told.found(
                self.command, self.path, self.headers.get("range", "")
            )
            self.send_response(status)
            for name, value in ({"content-length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if told.drop and body:
                self.wfile.write(body[: told.drop.pop(0)])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.wfile.write(body)
            told.sent += len(body)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True

        def handle_error(self, *_: object) -> None:
            return  # a client that went away is part of the tests

    server = Server(("127.0.0.1", port), Handler)
    told.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        for line in lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
