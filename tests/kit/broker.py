"""A whole broker in this process, on a copy of a prepared home: real HSM worker, SQLite, routes.

A home with two tenants and keys in every state is made once a session, by the services that an
operator and a vendor use, and copied for each test that spoils something. The clock is the test's;
`tests/kit/vendors.py` is the hardware. Nothing is patched: what a test wants to break it breaks in
files, rows, messages or processes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar, final

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from litestar import Litestar

from broker.app import make_app
from broker.services import Services, open_services
from inference_runtime import exchange
from ostiary import vendor
from ostiary.client import Tenant
from tests.kit import vendors
from tests.kit.broker_guest import Asked, identity
from tests.kit.broker_home import RELEASES, RENEWALS, TENANT, Clock, Prepared, prepare
from verifier import dsse
from verifier.wire import canonical, messages
from verifier.wire.canonical import Hex
from verifier.wire.leaf import KeyState
from verifier.wire.messages import KeyRef

T = TypeVar("T")


def encoded(header: Any, claims: Any) -> str:
    """Return the part of a token that is signed; bytes stand as they are."""
    parts = (
        part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)
    )
    return ".".join(canonical.b64encode(part) for part in parts)


def token(
    key: Ed25519PrivateKey | EllipticCurvePrivateKey | bytes,
    claims: Any,
    *,
    header: Mapping[str, Any] | None = None,
) -> str:
    """Return a token with just these claims, signed as the kind of key does it.

    Made by hand, since no library writes what must be refused. `header` adds to it or changes it.
    """
    names = {True: "HS256", False: "EdDSA" if isinstance(key, Ed25519PrivateKey) else "ES256"}
    first = {"alg": names[isinstance(key, bytes)], "typ": "JWT"} | dict(header or {})
    message = encoded(first, claims)
    if isinstance(key, bytes):
        signature = hmac.digest(key, message.encode(), "sha256")
    elif isinstance(key, Ed25519PrivateKey):
        signature = key.sign(message.encode())
    else:
        r, s = decode_dss_signature(key.sign(message.encode(), ECDSA(SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return f"{message}.{canonical.b64encode(signature)}"


@final
@dataclass
class House:
    """A broker that runs in a thread of this process, and what one can do to it."""

    prepared: Prepared
    clock: Clock
    loop: asyncio.AbstractEventLoop
    services: Services
    app: Litestar
    http: httpx.AsyncClient
    said: list[bytes] = field(default_factory=list)
    """Bodies and headers of every answer so far."""

    @property
    def tenant(self) -> Tenant:
        """The tenant whose keys are there."""
        return self.prepared.tenants[TENANT]

    @property
    def key(self) -> Ed25519PrivateKey:
        """Its signer."""
        return self.prepared.signers[TENANT]

    @property
    def database(self) -> Path:
        """The broker's database."""
        return self.prepared.home / "ostiary.db"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the broker's loop."""
        return self.start(work).result(60)

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine in the broker's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def together(self, *work: Awaitable[T]) -> list[T]:
        """Run several at once."""

        async def all_of_it() -> list[T]:
            return list(await asyncio.gather(*work))

        return self.run(all_of_it())

    async def sending(
        self, method: str, target: str, body: Any = None, **headers: str | None
    ) -> httpx.Response:
        """Send a request; header names with `_` for `-`."""
        sent = {k.replace("_", "-"): v for k, v in headers.items() if v is not None}
        if body is not None:
            sent.setdefault("content-type", "application/json")
        answer = await self.http.request(method, target, content=body, headers=sent)
        self.said.append(repr(answer.headers).encode() + answer.content)
        return answer

    def send(
        self, method: str, target: str, body: Any = None, **headers: str | None
    ) -> httpx.Response:
        """Send a request and wait for the answer."""
        return self.run(self.sending(method, target, body, **headers))

    def claims(
        self, method: str, target: str, body: bytes = b"", *, issuer: str = TENANT
    ) -> dict[str, Any]:
        """Return the claims of a good token for a request."""
        return {
            "iss": issuer,
            "aud": self.services.broker.hex(),
            "iat": self.clock.now,
            "exp": self.clock.now + 240,
            "jti": secrets.token_hex(16),
            "htm": method,
            "htu": target,
            "bsha": hashlib.sha256(body).hexdigest(),
        }

    def token(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        key: Ed25519PrivateKey | None = None,
        issuer: str = TENANT,
    ) -> str:
        """Return a good token, by the tenant's signer unless told otherwise."""
        signer = key or self.key
        kid = dsse.key_id(dsse.spki(signer.public_key()))
        claims = self.claims(method, target, body, issuer=issuer)
        return token(signer, claims, header={"kid": kid})

    def call(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        key: Ed25519PrivateKey | None = None,
        issuer: str = TENANT,
        **headers: str | None,
    ) -> httpx.Response:
        """Send a request as the tenant's signer, or as another issuer with another key."""
        bearer = self.token(method, target, body or b"", key=key, issuer=issuer)
        return self.send(method, target, body, authorization=f"Bearer {bearer}", **headers)

    def vendor(self, method: str, path: str, body: bytes | None = None) -> httpx.Response:
        """Send a request about the tenant as its signer, which must be granted."""
        answer = self.call(method, f"/v1/tenants/{TENANT}{path}", body)
        assert answer.is_success, answer.text
        return answer

    def ask(
        self,
        purpose: messages.Purpose = "release",
        kind: messages.Kind = "tdx",
        *,
        name: str = "guest",
        tenant: str = TENANT,
        **fields: Any,
    ) -> Asked:
        """Ask for a challenge, as one of the guests."""
        who = identity(name)
        request = messages.ChallengeRequest(
            v=1, tenant=tenant, purpose=purpose, kind=kind, caller=Hex(who.caller)
        )
        raw = self.send("POST", "/v1/challenges", canonical.encode(request))
        assert raw.status_code == 200, raw.text
        answer = canonical.decode(raw.content, messages.ChallengeAnswer)
        fields.setdefault("ak", AKS[kind.partition("-")[0]]())
        return Asked(
            who, self.prepared.tenants[tenant], bytes(answer.challenge), purpose, kind, **fields
        )

    def release(self, body: bytes) -> httpx.Response:
        """Send a release request."""
        return self.send("POST", RELEASES, body)

    def renew(self, body: bytes) -> httpx.Response:
        """Send a renewal request."""
        return self.send("POST", RENEWALS, body)

    def released(self, asked: Asked | None = None) -> exchange.Released:
        """Have a key released, as it should be."""
        asked = asked or self.ask()
        answer = self.release(asked.body())
        assert answer.status_code == 200, (answer.text, self.reasons())
        return asked.open(answer.content)

    def refused(
        self, body: bytes, code: str, *, to: str = RELEASES, leaves: int = 0, why: str = ""
    ) -> str:
        """Check a refusal and return its reasons from the audit table.

        Args:
            body: what must be refused.
            code: the one thing that the caller learns.
            to: where it is sent.
            leaves: how many leaves it may add to the log, nothing being released on them.
            why: what must stand in the reasons.
        """
        before, rows = self.size(), self.audited()
        answer = self.send("POST", to, body)
        problem(answer, code)
        assert self.size() == before + leaves
        assert self.audited() == rows + 1
        reasons = self.reasons()
        assert why in reasons, reasons
        return reasons

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Do what whoever holds the database file can do, on a connection of one's own."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def size(self) -> int:
        """Number of leaves in the tenant's tree."""
        return int(self.sql("SELECT size FROM trees WHERE g = ?", self.tenant.digest)[0][0])

    def audited(self) -> int:
        """Number of refusals on record."""
        return int(self.sql("SELECT count(*) FROM audit")[0][0])

    def reasons(self) -> str:
        """Code and reasons of the newest refusal on record."""
        rows = self.sql("SELECT code, reasons FROM audit ORDER BY id DESC LIMIT 1")
        return " ".join(str(part) for row in rows for part in row)

    def order(self, ref: KeyRef, state: KeyState, *, key: Ed25519PrivateKey | None = None) -> None:
        """Have a key's state changed by signed order."""
        epoch = self.vendor("GET", "/state").json()["epoch"]
        signed = vendor.sign_order(self.tenant, key or self.key, ref, state, epoch=epoch)
        self.vendor("POST", "/key-orders", signed)

    def worker(self) -> int:
        """Return the process id of the broker's HSM worker."""
        wanted = str(self.prepared.home).encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    command = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"broker.hsm.worker" in command and wanted in command:
                    return int(entry.name)
        raise AssertionError("no worker runs")


AKS: Final[Mapping[str, Callable[[], bytes]]] = {
    "tdx": lambda: b"",
    "snp": lambda: b"",
    "azure": lambda: vendors.tpm().ak,
    "gcp": lambda: vendors.tpm("host").ak,
}
"""The AK that a machine of the session quotes with, by its cloud."""
PROBLEM: Final = frozenset({"type", "title", "status", "code"})


def problem(answer: httpx.Response, code: str, status: int | None = None) -> None:
    """Check that an answer is a problem document with this code, and tells nothing else."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    document = msgspec.json.decode(answer.content)
    assert set(document) == PROBLEM
    assert document["code"] == code, answer.text
    assert document["status"] == answer.status_code
    assert document["type"] == f"/problems/{code}"
    assert status is None or answer.status_code == status
    assert answer.status_code != 500, answer.text


@contextmanager
def running(prepared: Prepared, clock: Clock | None = None) -> Iterator[House]:
    """Run the broker of a home while the block lasts; what its start refuses is raised."""
    ticking = clock or Clock()
    started: concurrent.futures.Future[House] = concurrent.futures.Future()
    stop = asyncio.Event()

    async def main() -> None:
        opening = open_services(prepared.home, prepared.settings, now=ticking)
        async with opening as opened:
            app = make_app(functools.partial(_opened, opened))
            transport = httpx.ASGITransport(app)  # type: ignore[arg-type]  # Litestar's own types
            client = httpx.AsyncClient(transport=transport, base_url="http://broker")
            async with app.lifespan(), client:
                loop = asyncio.get_running_loop()
                started.set_result(House(prepared, ticking, loop, opened, app, client))
                await stop.wait()

    def thread() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    runner = threading.Thread(target=thread)
    runner.start()
    try:
        house = started.result(60)
        yield house
    finally:
        if started.done() and started.exception() is None:
            started.result().loop.call_soon_threadsafe(stop.set)
        runner.join(30)


@asynccontextmanager
async def _opened(services: Services) -> AsyncIterator[Services]:
    yield services


_MADE: dict[bool, Prepared] = {}


def prepared_once(factory: pytest.TempPathFactory, *, simulated: bool = True) -> Prepared:
    """Return the session's prepared home; copy it before you use it."""
    if simulated not in _MADE:
        _MADE[simulated] = prepare(factory.mktemp("broker") / "home", simulated=simulated)
    return _MADE[simulated]


@pytest.fixture(scope="session")
def prepared_broker(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Give the prepared home; copy it."""
    return prepared_once(tmp_path_factory)


@pytest.fixture(scope="session")
def house(prepared_broker: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a broker that a suite shares: for what changes nothing but leaves and leases."""
    with running(prepared_broker.copied(tmp_path_factory.mktemp("shared") / "home")) as found:
        yield found


@pytest.fixture
def fresh(prepared_broker: Prepared, tmp_path: Path) -> Prepared:
    """Give a home of the test's own, not running."""
    return prepared_broker.copied(tmp_path / "home")


@pytest.fixture
def own(fresh: Prepared) -> Iterator[House]:
    """Give a broker of the test's own, to spoil."""
    with running(fresh) as found:
        yield found
