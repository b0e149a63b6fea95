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
from typing import Final, Literal, final

import msgspec

from inference_runtime import clock, exchange
from inference_runtime.attester import DeviceFault, ReportDevice
from inference_runtime.attester.gpus import Gpus
from inference_runtime.client import BrokerClient, Held
from inference_runtime.engine.protocol import Engine, EngineAddress, Stage, Watch
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.front.app import Front
from inference_runtime.front.server import FrontServer, serve_front
from inference_runtime.front.state import NotServing, ServingState
from inference_runtime.origin import Origin, origin
from inference_runtime.ready import ReadyState
from inference_runtime.registry import Registry
from inference_runtime.sealed import manifest as manifests
from inference_runtime.sealed.stream_model import StreamedModel
from inference_runtime.term import Term, first_of, until_over
from verifier.wire import messages
from verifier.wire.messages import KeyRef

__all__ = ["Config", "RuntimeClaims", "Stage", "Supervisor", "Term", "Watch"]

RETRY_SECONDS: Final = 2.0
WATCH_SECONDS: Final = 5.0
"""Between looks at how the lease stands: what was revoked is acted on that soon."""
MIN_WAIT_SECONDS: Final = 1.0
"""Least time between renewals, whatever a lease says."""
DRAIN_SECONDS: Final = 1.0
_GPU: Final = 1  # `kind` of a GPU in evidence
_MAY_PASS: Final = frozenset(
    {Fault.BROKER_UNAVAILABLE, Fault.BROKER_ASK_AGAIN, DeviceFault.FAILED, DeviceFault.RACED}
)
"""What keeps a renewal waiting, and does not end the lease before its time."""
Fetching = Callable[[int, int], None]
"""Told how many sealed bytes have come, of how many; from any thread, never twice at once."""


@final
@dataclass(frozen=True, slots=True)
class Config:
    """What to run.

    `sealed` is where the sealed files are: a local folder, or the http(s) address of a bucket; None
    is the broker's registry.
    """

    tenant: str
    model: KeyRef
    host: str = "127.0.0.1"
    port: int = 0
    sealed: Path | str | None = None
    simulated_allowed: bool = False


@final
class RuntimeClaims(msgspec.Struct, frozen=True):
    """What the runtime says of itself; counts only from a measured image.

    `gpus` is how many GPUs will hold the model; 0 for an engine on the processor.
    """

    v: Literal[1]
    engine: str
    model: str
    version: int
    tensor_parallel_size: int
    gpus: int


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
        *,
        gpus: Gpus | None = None,
        fetching: Fetching = lambda _done, _total: None,
    ) -> None:
        self.state = ServingState()
        self.port = 0
        self._config = config
        self._device = device
        self._client = client
        self._engine = engine
        self._watch = watch
        self._gpus = gpus
        self._ready = ReadyState(gpus, watch)
        self._held: Held | None = None
        self._fetching = fetching
        self._origin: Origin | None = None
        self._claims = msgspec.json.encode(
            RuntimeClaims(
                v=1,
                engine=type(engine).__name__,
                model=config.model.id,
                version=config.model.version,
                tensor_parallel_size=engine.ranks,
                gpus=engine.gpus,
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
        await self._give_back()
        await self._ready.off()

    async def _run(self, ready: Callable[[exchange.Released], None] | None) -> NotServing:
        identity = await asyncio.to_thread(exchange.Identity.generate)
        # 2-4. Challenge, evidence, release: nothing is decrypted before the answer is checked.
        anchor, released, term = await self._release(identity)
        # 5-6. The engine opens the model and starts; the lease is kept meanwhile, as that may take
        # longer than a lease lasts, and nothing is loaded any further once it is over.
        loading = asyncio.create_task(self._load(identity, anchor, released))
        kept = asyncio.create_task(self._keep(identity, anchor, term))
        try:
            await asyncio.wait({loading, kept}, return_when=asyncio.FIRST_COMPLETED)
            if kept.done():
                return self._end(kept.result())
            address, digest = loading.result()
            # 7. Serve until something ends it.
            self.state.begin(model=self._config.model.id, model_digest=digest, engine=address)
            self._watch(Stage("serving", f"http://{self._config.host}:{self.port}/v1", 0.0))
            if ready is not None:
                ready(released)
            return self._end(await self._until_end(kept))
        finally:
            for task in (loading, kept):
                task.cancel()
            if self._origin is not None:
                # A server that hangs must not keep the key alive: the load ends when its reads do.
                self._origin.call_off()
            await asyncio.wait({loading, kept})

    def _end(self, reason: NotServing) -> NotServing:
        self.state.cut(reason)
        if reason in {NotServing.LEASE_ENDED, NotServing.LEASE_REVOKED}:
            self._held = None
        return reason

    async def _give_back(self) -> None:
        """End the lease at the broker too, now that nothing of the model is left here."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            async with self._stage("lease returned") as note:
                await asyncio.to_thread(self._client.give_back, held)
                note.append(held.lease)
        except RuntimeFault as fault:
            # It runs out by itself.
            self._watch(Stage("lease not returned", str(fault), 0.0))

    async def _release(
        self, identity: exchange.Identity
    ) -> tuple[exchange.Anchor, exchange.Released, Term]:
        await self._ready.require_off()
        async with self._stage("evidence") as note:
            anchor, bound = await asyncio.to_thread(self._attest, identity, "release", "")
            self._require_gpus(bound)
            note.append(f"{self._device.kind}, {len(bound.evidence.cpu)} bytes{_counted(bound)}")
        for sentence in bound.missing:
            self._watch(Stage("evidence lacks", sentence, 0.0))
        async with self._stage("release") as note:
            body = exchange.release_request(bound, identity)
            envelope = await asyncio.to_thread(self._client.release, body)
            released = exchange.open_release(envelope, bound, identity, anchor)
            term = Term.of(released.lease, released.epoch)
            broker = bytes(anchor.genesis.broker)
            self._held = Held(identity, broker, anchor.genesis.tenant, released.lease.id)
            self.state.released()
            note.append(f"lease {released.lease.id}")
        try:
            await self._ready.on()
        except BaseException:
            for dek in released.deks.values():
                dek.wipe()
            raise
        return anchor, released, term

    def _require_gpus(self, bound: exchange.Bound) -> None:
        """Refuse to put weights into a GPU that nobody attested; before a lease is spent."""
        attested = sum(device.kind == _GPU for device in bound.evidence.gpus)
        if self._engine.gpus > attested:
            raise RuntimeFault(
                Fault.GPUS_UNATTESTED,
                f"a tensor parallel size of {self._engine.gpus} needs as many attested GPUs; "
                f"there is evidence of {attested}",
            )

    def _attest(
        self, identity: exchange.Identity, purpose: messages.Purpose, lease: str
    ) -> tuple[exchange.Anchor, exchange.Bound]:
        device, config = self._device, self._config
        answer = self._client.challenge(config.tenant, purpose, device.kind, identity)
        launch = device.launch_config()
        anchor = exchange.read_anchor(
            answer.document,
            launch.value,
            simulated_allowed=config.simulated_allowed,
            extended=launch.extended,
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
            gpus=self._gpus,
        )
        return anchor, bound

    async def _load(
        self, identity: exchange.Identity, anchor: exchange.Anchor, released: exchange.Released
    ) -> tuple[EngineAddress, str]:
        """Return where the engine serves, and the model digest; the key is gone by then."""
        with released.deks[self._config.model]:
            registry = Registry(
                self._client, identity, anchor, released.lease.id, self._config.model
            )
            source = self._origin = origin(self._config.sealed, lambda: registry)
            try:
                model = await asyncio.to_thread(self._sealed_model, source, anchor, released)
                try:
                    address = await self._engine.load(
                        model, alias=self._config.model.id, watch=self._watch
                    )
                finally:
                    source.call_off()
                    model.close()
            finally:
                source.close()
            return address, model.digest.hex()

    def _sealed_model(
        self, source: Origin, anchor: exchange.Anchor, released: exchange.Released
    ) -> StreamedModel:
        """Return the model of the manifest that policy and release name; nothing is open yet."""
        model = self._config.model
        trusted = manifests.verify(
            source.manifest(),
            anchor.genesis.signers,
            anchor.genesis.threshold,
            expected_digest=released.manifests[model],
            expected_genesis=anchor.digest,
        )
        total = sum(entry.sealed_size for entry in trusted.manifest.files)
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            # The start of a file may be read twice: its head comes before the whole.
            done = min(total, done + count)
            self._fetching(done, total)

        source.tell = tell
        return StreamedModel(trusted, source, released.deks[model])

    async def _until_end(self, kept: asyncio.Task[NotServing]) -> NotServing:
        """Return when the engine has died or the lease is over."""
        begun = clock.monotonic()
        died = asyncio.create_task(self._engine.wait_exit())
        if await first_of(died, kept):
            self._watch(Stage("engine ended", self._engine.last_words, clock.monotonic() - begun))
            return NotServing.ENGINE_EXITED
        return kept.result()

    async def _keep(
        self, identity: exchange.Identity, anchor: exchange.Anchor, term: Term
    ) -> NotServing:
        """Renew the lease for as long as the broker lets us; return why it ended."""
        while True:
            # A renewal that hangs does not prolong anything: the lease ends beside it.
            over = asyncio.create_task(until_over(term))
            renewed = asyncio.create_task(self._renewed(identity, anchor, term))
            if not await first_of(renewed, over):
                return NotServing.LEASE_ENDED
            outcome = renewed.result()
            if isinstance(outcome, NotServing):
                return outcome
            term = outcome

    async def _renewed(
        self, identity: exchange.Identity, anchor: exchange.Anchor, term: Term
    ) -> Term | NotServing:
        """Renew once it is time, again where that may help; return the new term or the end."""
        wait = max(MIN_WAIT_SECONDS, term.lease.renew_after - clock.now())
        while True:
            await self._due(term, wait)
            try:
                return await self._renew(identity, anchor, term.lease)
            except RuntimeFault as fault:
                if fault.code is Fault.BROKER_REFUSED:
                    self._watch(Stage("renewal refused", str(fault), 0.0))
                    return NotServing.LEASE_REVOKED
                if fault.code not in _MAY_PASS:
                    self._watch(Stage("renewal failed", str(fault), 0.0))
                    return NotServing.RENEWAL_FAILED
                # Broker and device may come back before the lease is over; nothing else is tried.
                self._watch(Stage("renewal waits", str(fault), 0.0))
                wait = RETRY_SECONDS

    async def _due(self, term: Term, wait: float) -> None:
        """Return after `wait` seconds, or sooner: once something was revoked or changed."""
        end = clock.monotonic() + wait
        while (left := end - clock.monotonic()) > 0:
            await asyncio.sleep(min(left, WATCH_SECONDS))
            if clock.monotonic() < end and await self._moved(term):
                return

    async def _moved(self, term: Term) -> bool:
        """Tell whether a renewal would be decided otherwise than the one before, as it seems.

        Nobody signs this: who lies here has a renewal made too early, or not before its time, and a
        broker that is not reached says nothing at all. The lease ends when it ends.
        """
        if self._held is None:
            return False
        try:
            epoch = await asyncio.to_thread(self._client.standing, self._held)
        except RuntimeFault as fault:
            return fault.code is not Fault.BROKER_UNAVAILABLE
        return epoch != term.epoch

    async def _renew(
        self, identity: exchange.Identity, anchor: exchange.Anchor, lease: messages.Lease
    ) -> Term:
        async with self._stage("renewal") as note:
            seen, bound = await asyncio.to_thread(self._attest, identity, "renew", lease.id)
            if seen != anchor:
                raise RuntimeFault(Fault.ANCHOR_MISMATCH, "the broker changed its genesis")
            body = exchange.renew_request(bound, identity)
            envelope = await asyncio.to_thread(self._client.renew, body)
            renewed, epoch = exchange.open_renewed(envelope, bound, identity, anchor)
            note.append(f"until {renewed.not_after}")
        return Term.of(renewed, epoch)

    @contextlib.asynccontextmanager
    async def _stage(self, name: str) -> AsyncIterator[list[str]]:
        """Time a stage and tell the watcher once it is done."""
        started, note = clock.monotonic(), list[str]()
        yield note
        self._watch(Stage(name, " ".join(note), clock.monotonic() - started))


def _counted(bound: exchange.Bound) -> str:
    devices = bound.evidence.gpus
    gpus = sum(device.kind == _GPU for device in devices)
    return f", {gpus} GPUs, {len(devices) - gpus} switches" if devices else ""
