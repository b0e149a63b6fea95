"""The load: clients in a process of their own, whose evidence is made before anything is timed.

Each release needs evidence bound to its own challenge, so a round first fetches challenges, then
makes every quote and request, and only then starts the clock: a client holds one connection, sends
a finished body and reads the answer. The first answer of a round is opened as a runtime would, with
every check; any answer but 200 ends the benchmark. What it costs this process is measured too: the
machine's cores are shared with the broker.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final, final

from benchmarks.common import BenchmarkError
from benchmarks.release_house import MODEL, TENANT, House
from inference_runtime import exchange
from inference_runtime.attester import Evidence, LaunchConfig
from inference_runtime.exchange import Anchor, Bound, Identity
from ostiary.simulator.intel import FakeIntel
from ostiary.simulator.machine import LaunchRequest, launch_td
from ostiary.simulator.machines import TdxMachine
from verifier.wire import binding, canonical
from verifier.wire.canonical import Hex
from verifier.wire.messages import ChallengeAnswer, ChallengeRequest

IDENTITIES: Final = 8
"""Instances that take turns: an RSA-3072 pair takes long to make, and is not what is measured."""


@final
@dataclass(frozen=True, slots=True)
class Round:
    """What one round saw. `latencies` are seconds, `wall` and `cpu` those of the whole round.

    `challenges` is how many challenges were issued in a second before it.
    """

    latencies: tuple[float, ...]
    wall: float
    cpu: float
    challenges: float

    @property
    def rate(self) -> float:
        """Releases per second."""
        return len(self.latencies) / self.wall

    def quantile(self, share: float) -> float:
        """Return the latency in milliseconds that `share` of the releases did not exceed."""
        ordered = sorted(self.latencies)
        return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@final
class Load:
    """The load generator, from outside. Make one with `generator`."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def round(self, clients: int, releases: int) -> Round:
        """Run a round and wait for it.

        Raises:
            BenchmarkError: a release was refused.
        """
        self._pipe.send((clients, releases))
        found = self._pipe.recv()
        if not isinstance(found, Round):
            raise BenchmarkError(f"load generator: {found}")
        return found


@contextmanager
def generator(house: House) -> Iterator[Load]:
    """Give a load generator in a process of its own, and end it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(house, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Load(ours)
    finally:
        ours.close()
        process.join(10)
        process.kill()


def _serve(house: House, pipe: Connection) -> None:
    visitors = Visitors.of(house)
    while True:
        try:
            clients, releases = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(asyncio.run(_round(house, visitors, clients, releases)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side raises it
            pipe.send(f"{type(error).__name__}: {error}")


@final
@dataclass(frozen=True, slots=True)
class Device:
    """A simulated TD without a socket before it."""

    machine: TdxMachine
    kind: Final = "tdx"
    ak: Final = b""

    def report(self, report_data: bytes) -> Evidence:
        """Return a quote over 64 bytes."""
        cpu, event_log, aux = self.machine.report(report_data)
        return Evidence(cpu, event_log, aux)

    def launch_config(self) -> LaunchConfig:
        """Return MRCONFIGID."""
        return LaunchConfig(self.machine.body.mr_config_id)


@final
@dataclass(frozen=True, slots=True)
class Visitors:
    """Runtimes that ask for the key."""

    device: Device
    anchor: Anchor
    identities: tuple[Identity, ...]

    @classmethod
    def of(cls, house: House) -> Visitors:
        """Return visitors to a house, all on one simulated machine."""
        tenant = house.tenant
        config = binding.anchor(bytes(tenant.genesis.broker), tenant.digest)
        platform = FakeIntel.load(house.simulator).platform()
        device = Device(TdxMachine(platform, launch_td(LaunchRequest(config=config))))
        anchor = exchange.read_anchor(house.document, config, simulated_allowed=True)
        return cls(device, anchor, tuple(Identity.generate() for _ in range(IDENTITIES)))

    def ask(self, number: int) -> bytes:
        """Return the request for a challenge."""
        caller = Hex(self.identities[number % IDENTITIES].caller)
        return canonical.encode(
            ChallengeRequest(v=1, tenant=TENANT, purpose="release", kind="tdx", caller=caller)
        )

    def answer(self, number: int, challenge: bytes) -> tuple[Bound, bytes]:
        """Return evidence bound to a challenge, and the request that carries it."""
        identity = self.identities[number % IDENTITIES]
        bound = exchange.attest(
            self.device,
            identity,
            self.anchor,
            challenge=challenge,
            purpose="release",
            keys=(MODEL,),
            lease="",
            claims=b"{}",
        )
        return bound, exchange.release_request(bound, identity)

    def check(self, number: int, bound: Bound, envelope: bytes) -> None:
        """Open an answer with every check that a runtime makes; raises `RuntimeFault`."""
        identity = self.identities[number % IDENTITIES]
        for dek in exchange.open_release(envelope, bound, identity, self.anchor).deks.values():
            dek.wipe()


async def _round(house: House, visitors: Visitors, clients: int, releases: int) -> Round:
    asked = [visitors.ask(number) for number in range(releases)]
    began = time.perf_counter()
    challenges, _ = await _post_all(house.port, "/v1/challenges", asked, clients)
    issued = releases / (time.perf_counter() - began)
    prepared = [
        visitors.answer(number, bytes(canonical.decode(raw, ChallengeAnswer).challenge))
        for number, raw in enumerate(challenges)
    ]
    bodies = [body for _, body in prepared]
    cpu, began = time.process_time(), time.perf_counter()
    answers, latencies = await _post_all(house.port, "/v1/releases", bodies, clients)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    visitors.check(0, prepared[0][0], answers[0])
    return Round(tuple(latencies), wall, cpu, issued)


async def _post_all(
    port: int, path: str, bodies: Sequence[bytes], clients: int
) -> tuple[list[bytes], list[float]]:
    """Send every body, `clients` at a time, each client on one connection; in the bodies' order."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    answers, latencies = [b""] * len(bodies), [0.0] * len(bodies)
    waiting = iter(range(len(bodies)))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in waiting:
            body = bodies[number]
            sent = time.perf_counter()
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            answers[number] = await _answer(reader)
            latencies[number] = time.perf_counter() - sent
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers, latencies


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """Read one answer: HTTP/1.1 with a length, as our broker sends it; nothing else will do."""
    status, *fields = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    length = next(int(f.partition(b":")[2]) for f in fields if f.startswith(b"content-length:"))
    body = await reader.readexactly(length)
    if status.split()[1] != b"200":
        raise BenchmarkError(f"{status.decode()}: {body[:300]!r}")
    return body
