"""From a proven machine to a served model, and back to nothing when the lease ends.

Guarantees: the DEK lives in this process only, from the release until every file is open, and is
wiped then; the engine gets sealed memfds and never a key; when the lease ends, is revoked or cannot
be renewed in time, requests are cut and the engine is stopped, also while a renewal hangs. The
lease is kept by measured code, and by wall clock and monotonic clock, whichever ends it first; the
host may move both: it is advisory by as much as they lie.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

import msgspec

from inference_runtime import clock, exchange
from inference_runtime.attester import ReportDevice
from inference_runtime.client import BrokerClient
from inference_runtime.engine.protocol import Engine, ModelFile
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.front.app import Front
from inference_runtime.front.server import FrontServer, serve_front
from inference_runtime.front.state import NotServing, ServingState
from inference_runtime.registry import Registry
from inference_runtime.sealed.open import OpenedModel, open_model
from inference_runtime.sealed.secret import SecretKey
from inference_runtime.sealed.source import LocalFolder
from verifier.wire import messages
from verifier.wire.messages import KeyRef

RETRY_SECONDS: Final = 2.0
MIN_WAIT_SECONDS: Final = 1.0
"""Least time between renewals, whatever a lease says."""
DRAIN_SECONDS: Final = 1.0
_MANIFEST_FILE: Final = "manifest.json"


@final
@dataclass(frozen=True, slots=True)
class Config:
    """What to run. `sealed` is a local folder of sealed files; None fetches from the broker."""

    tenant: str
    model: KeyRef
    host: str = "127.0.0.1"
    port: int = 0
    sealed: Path | None = None
    simulated_allowed: bool = False


@final
class RuntimeClaims(msgspec.Struct, frozen=True):
    """What the runtime says of itself; counts only from a measured image."""

    v: Literal[1]
    engine: str
    model: str
    version: int
    tensor_parallel_size: int


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """One step that is done, for whoever watches: what, with what detail, in how many seconds."""

    name: str
    detail: str
    seconds: float


Watch = Callable[[Stage], None]


@final
@dataclass(frozen=True, slots=True)
class Term:
    """A lease as it is kept: `ends` is when it is over by the monotonic clock."""

    lease: messages.Lease
    ends: float

    @classmethod
    def of(cls, lease: messages.Lease) -> Term:
        """Return the term of a lease that came in now."""
        return cls(lease, clock.monotonic() + lease.not_after - clock.now())

    @property
    def over(self) -> bool:
        """Whether one of the clocks says that the lease has ended."""
        return clock.now() >= self.lease.not_after or clock.monotonic() >= self.ends


@final
class Supervisor:
    """Runs one model version on one machine, once."""

    def __init__(
        self,
        config: Config,
        device: ReportDevice,
        client: BrokerClient,
        engine: Engine,
        watch: Watch = lambda _: None,
    ) -> None:
        self.state = ServingState()
        self.port = 0
        self._config = config
        self._device = device
        self._client = client
        self._engine = engine
        self._watch = watch
        self._claims = msgspec.json.encode(
            RuntimeClaims(
                v=1,
                engine=type(engine).__name__,
                model=config.model.id,
                version=config.model.version,
                tensor_parallel_size=1,
            )
        )

    async def run(self, ready: Callable[[exchange.Released], None] | None = None) -> NotServing:
        """Attest, open, serve and renew until the end; return why it ended.

        Raises:
            RuntimeFault: it never came to serve.
            EngineError: the engine did not start.
        """
        # 1. The door, which says "starting" to everybody; no lease is spent if it cannot be had.
        front = Front(self.state)
        config = self._config
        try:
            server = await serve_front(front, host=config.host, port=config.port)
        except OSError as error:
            raise RuntimeFault(
                Fault.ADDRESS_UNAVAILABLE,
                f"{config.host}:{config.port} cannot be bound ({error.strerror}); is something "
                "else serving there?",
            ) from error
        self.port = server.port
        try:
            return await self._run(ready)
        finally:
            self.state.cut(NotServing.STOPPING)
            # However often this is cancelled meanwhile, nothing is left behind.
            closing = asyncio.create_task(self._close(front, server))
            while not closing.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(closing)
            closing.result()

    async def _close(self, front: Front, server: FrontServer) -> None:
        await front.drained(DRAIN_SECONDS)
        await self._engine.stop()
        await server.stop()

    async def _run(self, ready: Callable[[exchange.Released], None] | None) -> NotServing:
        identity = await asyncio.to_thread(exchange.Identity.generate)
        # 2-4. Challenge, evidence, release: nothing is decrypted before the answer is checked.
        anchor, released, term = await self._release(identity)
        # 5. Open every file into memory, then the key is gone.
        with await self._open(identity, anchor, released) as opened:
            # 6. The engine gets descriptors.
            files = [ModelFile(name, file.fileno()) for name, file in opened.files.items()]
            async with self._stage("engine") as note:
                address = await self._engine.start(files, alias=self._config.model.id)
                note.append(f"pid {self._engine.pid}")
            digest = opened.trusted.digest.hex()
        # 7. Serve until something ends it, which may have happened while it was loaded.
        if term.over:
            self.state.cut(NotServing.LEASE_ENDED)
            return NotServing.LEASE_ENDED
        self.state.begin(model=self._config.model.id, model_digest=digest, engine=address)
        self._watch(Stage("serving", f"http://{self._config.host}:{self.port}/v1", 0.0))
        if ready is not None:
            ready(released)
        reason = await self._until_end(identity, anchor, term)
        self.state.cut(reason)
        return reason

    async def _release(
        self, identity: exchange.Identity
    ) -> tuple[exchange.Anchor, exchange.Released, Term]:
        async with self._stage("evidence") as note:
            anchor, bound = await asyncio.to_thread(self._attest, identity, "release", "")
            note.append(f"{self._device.kind}, {len(bound.evidence.cpu)} bytes")
        async with self._stage("release") as note:
            body = exchange.release_request(bound, identity)
            envelope = await asyncio.to_thread(self._client.release, body)
            released = exchange.open_release(envelope, bound, identity, anchor)
            term = Term.of(released.lease)
            note.append(f"lease {released.lease.id}")
        return anchor, released, term

    def _attest(
        self, identity: exchange.Identity, purpose: messages.Purpose, lease: str
    ) -> tuple[exchange.Anchor, exchange.Bound]:
        device, config = self._device, self._config
        answer = self._client.challenge(config.tenant, purpose, device.kind, identity)
        anchor = exchange.read_anchor(
            answer.document,
            device.launch_config().value,
            simulated_allowed=config.simulated_allowed,
        )
        bound = exchange.attest(
            device,
            identity,
            anchor,
            challenge=answer.challenge,
            purpose=purpose,
            keys=(config.model,),
            lease=lease,
            claims=self._claims,
        )
        return anchor, bound

    async def _open(
        self, identity: exchange.Identity, anchor: exchange.Anchor, released: exchange.Released
    ) -> OpenedModel:
        model = self._config.model
        async with self._stage("weights") as note:
            with released.deks[model] as dek:
                opened = await asyncio.to_thread(self._open_files, identity, anchor, released, dek)
            size = sum(entry.size for entry in opened.trusted.manifest.files)
            note.append(f"{len(opened.files)} files, {size} bytes, in memory only")
        return opened

    def _open_files(
        self,
        identity: exchange.Identity,
        anchor: exchange.Anchor,
        released: exchange.Released,
        dek: SecretKey,
    ) -> OpenedModel:
        model, folder = self._config.model, self._config.sealed
        registry = Registry(self._client, identity, anchor, released.lease.id, model)
        if folder is None:
            envelope = registry.manifest()
        else:
            try:
                envelope = (folder / _MANIFEST_FILE).read_bytes()
            except OSError as error:
                raise RuntimeFault(
                    Fault.SEALED_MISSING, f"{folder}: {_MANIFEST_FILE} cannot be read"
                ) from error
        return open_model(
            envelope,
            registry if folder is None else LocalFolder(folder),
            dek,
            anchor.genesis.signers,
            anchor.genesis.threshold,
            expected_digest=released.manifests[model],
            expected_genesis=anchor.digest,
        )

    async def _until_end(
        self, identity: exchange.Identity, anchor: exchange.Anchor, term: Term
    ) -> NotServing:
        """Return when the engine has died or the lease is over."""
        died = asyncio.create_task(self._engine.wait_exit())
        kept = asyncio.create_task(self._keep(identity, anchor, term))
        if await _first(died, kept):
            return NotServing.ENGINE_EXITED
        return kept.result()

    async def _keep(
        self, identity: exchange.Identity, anchor: exchange.Anchor, term: Term
    ) -> NotServing:
        """Renew the lease for as long as the broker lets us; return why it ended."""
        while True:
            # A renewal that hangs does not prolong anything: the lease ends beside it.
            over = asyncio.create_task(_until_over(term))
            renewed = asyncio.create_task(self._renewed(identity, anchor, term.lease))
            if not await _first(renewed, over):
                return NotServing.LEASE_ENDED
            outcome = renewed.result()
            if isinstance(outcome, NotServing):
                return outcome
            term = outcome

    async def _renewed(
        self, identity: exchange.Identity, anchor: exchange.Anchor, lease: messages.Lease
    ) -> Term | NotServing:
        """Renew once it is time, again where that may help; return the new term or the end."""
        wait = max(MIN_WAIT_SECONDS, lease.renew_after - clock.now())
        while True:
            await asyncio.sleep(wait)
            try:
                return Term.of(await self._renew(identity, anchor, lease))
            except RuntimeFault as fault:
                if fault.code is Fault.BROKER_REFUSED:
                    self._watch(Stage("renewal refused", str(fault), 0.0))
                    return NotServing.LEASE_REVOKED
                if fault.code not in {Fault.BROKER_UNAVAILABLE, Fault.BROKER_ASK_AGAIN}:
                    self._watch(Stage("renewal failed", str(fault), 0.0))
                    return NotServing.RENEWAL_FAILED
                # The broker may come back before the lease is over; nothing else is tried.
                self._watch(Stage("renewal waits", str(fault), 0.0))
                wait = RETRY_SECONDS

    async def _renew(
        self, identity: exchange.Identity, anchor: exchange.Anchor, lease: messages.Lease
    ) -> messages.Lease:
        async with self._stage("renewal") as note:
            seen, bound = await asyncio.to_thread(self._attest, identity, "renew", lease.id)
            if seen != anchor:
                raise RuntimeFault(Fault.ANCHOR_MISMATCH, "the broker changed its genesis")
            body = exchange.renew_request(bound, identity)
            envelope = await asyncio.to_thread(self._client.renew, body)
            renewed = exchange.open_renewal(envelope, bound, identity, anchor)
            note.append(f"until {renewed.not_after}")
        return renewed

    @contextlib.asynccontextmanager
    async def _stage(self, name: str) -> AsyncIterator[list[str]]:
        """Time a stage and tell the watcher once it is done."""
        started, note = clock.monotonic(), list[str]()
        yield note
        self._watch(Stage(name, " ".join(note), clock.monotonic() - started))


async def _until_over(term: Term) -> None:
    # Woken every second: the wall clock may be stepped, and a lease ends by it too.
    while not term.over:
        left = min(term.lease.not_after - clock.now(), term.ends - clock.monotonic())
        await asyncio.sleep(max(0.0, min(1.0, left)))


async def _first(one: asyncio.Task[Any], other: asyncio.Task[Any]) -> bool:
    """Wait for the first of two and end the other; tell whether `one` is done."""
    try:
        await asyncio.wait({one, other}, return_when=asyncio.FIRST_COMPLETED)
        return one.done()
    finally:
        for task in (one, other):
            task.cancel()
        # Waited for, but not collected: a result that counts is asked for by whoever called.
        await asyncio.wait({one, other})
