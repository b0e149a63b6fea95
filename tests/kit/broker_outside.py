"""A broker in a process of its own, as `ostiary broker serve` runs it, at the time of the tests.

`python -m tests.kit.broker_outside HOME PORT NOW`: the simulated vendors of a test session live at
one moment (`tests.kit.vendors.NOW`), so the real clock would not do.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from broker import settings
from broker.app import make_app
from broker.services import open_services
from ostiary.processes import Program
from tests.kit.broker_guest import Asked, identity
from tests.kit.broker_home import TENANT, Prepared
from tests.kit.vendors import NOW
from verifier.wire import canonical, messages
from verifier.wire.canonical import Hex


@dataclass
class Outside:
    """A broker in a process of its own, and what its clients heard."""

    prepared: Prepared
    http: httpx.Client
    program: Program
    said: list[bytes] = field(default_factory=list)

    def send(self, target: str, body: Any, **headers: str) -> httpx.Response:
        """Send a message."""
        headers["content-type"] = "application/json"
        answer = self.http.post(target, content=body, headers=headers)
        self.said.append(repr(answer.headers).encode() + answer.content)
        return answer

    def ask(
        self, purpose: messages.Purpose = "release", lease: str = "", *, claims: bytes = b"{}"
    ) -> Asked:
        """Ask for a challenge."""
        request = messages.ChallengeRequest(
            v=1, tenant=TENANT, purpose=purpose, kind="tdx", caller=Hex(identity().caller)
        )
        answer = self.send("/v1/challenges", canonical.encode(request))
        found = canonical.decode(answer.content, messages.ChallengeAnswer)
        return Asked(
            identity(),
            self.prepared.tenants[TENANT],
            bytes(found.challenge),
            purpose,
            claims=claims,
            lease=lease,
        )

    @property
    def log(self) -> bytes:
        """What broker and worker printed."""
        return self.program.log.read_bytes()


@pytest.fixture
def outside(fresh: Prepared, tmp_path: Path) -> Iterator[Outside]:
    """Start a broker as `ostiary broker serve` does, with a clock that the evidence fits."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ("tests.kit.broker_outside", str(fresh.home), str(port), str(NOW))
    with (
        Program.start(arguments[0], arguments, tmp_path / "logs" / "broker.txt") as program,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        program.until(lambda: _answers(client), 20)
        yield Outside(fresh, client, program)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.HTTPError:
        return False


def main(home: Path, port: int, now: int) -> None:
    """Serve until SIGTERM."""
    found = settings.load(home)
    logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s %(message)s")
    config = uvicorn.Config(
        make_app(lambda: open_services(home, found, now=lambda: now)),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
    )
    uvicorn.Server(config).run(sockets=[socket.create_server(("127.0.0.1", port))])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
