"""A runtime from its first challenge to its end: real engine, real HTTP, a simulated device.

The broker is `tests.kit.runtime`, which signs and logs as the real one does and ends leases when a
test wants it; the real one plays in the demo and in `tests/e2e`. Leases are of seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from inference_runtime import supervisor
from inference_runtime.attester.socket_device import SocketDevice
from inference_runtime.client import BrokerClient
from inference_runtime.engine.llama import LlamaEngine, LlamaSettings
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.exchange import Released
from inference_runtime.front.state import NotServing
from inference_runtime.supervisor import Config, Stage, Supervisor
from ostiary.simulator.device import serving
from tests.kit.runtime import MODEL, TENANT, Served, SoftBroker, problem, served
from verifier.wire import messages

LONG = LlamaSettings(context=8192, answer=8000)
RENEWALS = ("POST", "/v1/renewals")
Change = Callable[[Served], object]


@dataclass
class Night:
    """One run of a supervisor, and what was seen of it."""

    supervisor: Supervisor
    engine: LlamaEngine
    broker: Served
    http: httpx.AsyncClient
    running: asyncio.Task[NotServing]
    stages: list[Stage] = field(default_factory=list)
    released: Released | None = None

    async def end(self, seconds: float = 20) -> NotServing:
        """Return why it ended."""
        return await asyncio.wait_for(asyncio.shield(self.running), seconds)

    async def until(self, seen: Callable[[], bool], seconds: float = 20) -> None:
        """Wait until something is seen."""
        async with asyncio.timeout(seconds):
            while not seen():
                if self.running.done():
                    raise AssertionError(f"ended: {self.running.result()}: {self.stages}")
                await asyncio.sleep(0.02)

    def said(self, name: str) -> list[str]:
        """Return the details of all stages of a name."""
        return [stage.detail for stage in self.stages if stage.name == name]


@contextlib.asynccontextmanager
async def opening(
    broker: Served, tmp_path: Path, *, machine: Any = None, **config: Any
) -> AsyncIterator[Night]:
    """Start a runtime in a machine and give it before it serves; it ends with the block."""
    path = tmp_path / "machine.sock"
    fields: dict[str, Any] = {"tenant": TENANT, "model": MODEL, "simulated_allowed": True} | config
    with serving(path, machine or broker.broker.td()), BrokerClient(broker.url) as client:
        engine, stages, kept = LlamaEngine(LONG), list[Stage](), list[Released]()
        started = Supervisor(Config(**fields), SocketDevice(path), client, engine, stages.append)
        running = asyncio.create_task(started.run(kept.append))
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            night = Night(started, engine, broker, http, running, stages)
            try:
                yield night
            finally:
                broker.release.set()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                night.released = kept[0] if kept else None


@contextlib.asynccontextmanager
async def serving_night(
    broker: Served, tmp_path: Path, renewed: tuple[int, int] | None = None, **config: Any
) -> AsyncIterator[Night]:
    """Start a runtime and give it once it serves.

    With `renewed`, once its lease was renewed to that many seconds: so the seconds that it took to
    start, on a busy machine, are none of them.
    """
    if renewed is not None:
        short(broker, 600, 1)
    async with opening(broker, tmp_path, **config) as night:
        await night.until(lambda: night.supervisor.state.serving)
        if renewed is not None:
            short(broker, *renewed)
            before = len(night.said("renewal"))
            await night.until(lambda: len(night.said("renewal")) > before)
        night.http.base_url = httpx.URL(f"http://127.0.0.1:{night.supervisor.port}")
        yield night


@pytest.fixture
def house(broker: SoftBroker, model_folder: Path, tmp_path: Path) -> Iterator[Served]:
    """Give a broker that serves the sealed demo model."""
    broker.seal(model_folder, tmp_path / "sealed")
    with served(broker, tmp_path / "sealed") as found:
        yield found


def alive(pid: int) -> bool:
    """Tell whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


CHAT = {"model": MODEL.id, "messages": [{"role": "user", "content": "Who?"}]}


async def stream(night: Night) -> tuple[int, list[bytes], Exception | None]:
    """Ask for a long answer and read it to its end; return status, pieces and what broke it."""
    pieces: list[bytes] = []
    asked = CHAT | {"max_tokens": 7000, "stream": True, "ignore_eos": True}
    try:
        async with night.http.stream("POST", "/v1/chat/completions", json=asked) as answer:
            async for piece in answer.aiter_raw():
                pieces.append(piece)  # noqa: PERF401 - what came before it broke is kept
            return answer.status_code, pieces, None
    except httpx.HTTPError as error:
        return 0, pieces, error


def short(broker: Served, seconds: int, renew: int) -> None:
    """Have the broker grant leases of so many seconds, to be renewed after so many."""
    broker.broker.lease_seconds, broker.broker.renew_seconds = seconds, renew


def test_good(house: Served, tmp_path: Path) -> None:
    """A runtime serves the model, and its DEK is wiped by the time it does."""

    async def play() -> Night:
        async with serving_night(house, tmp_path) as night:
            answer = await night.http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 4})
            assert answer.status_code == 200, answer.text
            ready = (await night.http.get("/ready")).json()
            assert ready["model_digest"] == house.broker.manifests[MODEL].hex()
            pid = night.engine.pid
            assert alive(pid)
        assert not alive(pid)
        return night

    night = asyncio.run(play())
    assert night.released is not None
    assert night.released.deks[MODEL].wiped
    assert [stage.name for stage in night.stages] == [
        "evidence",
        "release",
        "weights",
        "engine",
        "serving",
    ]
    assert house.broker.deks[MODEL].hex() not in repr(night.stages)


def test_snp(house: Served, tmp_path: Path) -> None:
    """An SNP guest is anchored by the 32 bytes of HOST_DATA."""

    async def play() -> None:
        async with serving_night(house, tmp_path, machine=house.broker.snp()) as night:
            assert night.said("evidence")[0].startswith("snp")

    asyncio.run(play())


def test_renewed_until_nobody_answers(house: Served, tmp_path: Path) -> None:
    """Renewed in time, it serves on past the end of a lease; with the broker gone, until it ends.

    Then requests are cut and the engine is stopped.
    """

    async def play() -> None:
        async with serving_night(house, tmp_path, renewed=(3, 1)) as night:
            first = time.time() + 3
            await night.until(lambda: time.time() > first + 0.2)
            assert (await night.http.get("/ready")).status_code == 200
            until = [int(detail.removeprefix("until ")) for detail in night.said("renewal")][1:]
            assert len(until) >= 2
            assert until == sorted(until)
            # Whatever is asked from now on finds nobody who can answer.
            house.script = lambda _method, _target: problem(503, "database_unavailable")
            pid, asked = night.engine.pid, asyncio.create_task(stream(night))
            started = time.time()
            assert await night.end() is NotServing.LEASE_ENDED
            assert time.time() - started < 6
            assert not alive(pid)
            _, pieces, _ = await asked
            assert pieces
            assert b"[DONE]" not in b"".join(pieces)
            assert night.supervisor.state.reason == "lease_ended"
            with pytest.raises(httpx.ConnectError):
                await night.http.get("/ready")

    asyncio.run(play())


def test_renewal_that_hangs(house: Served, tmp_path: Path) -> None:
    """A broker that takes a renewal and never answers does not prolong the lease."""

    async def play() -> None:
        async with serving_night(house, tmp_path, renewed=(3, 1)) as night:
            house.hanging = True
            started, before = time.time(), house.count(*RENEWALS)
            assert await night.end() is NotServing.LEASE_ENDED
            assert time.time() - started < 6
            assert house.count(*RENEWALS) == before + 1

    asyncio.run(play())


def test_ask_again(house: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal that met a change of policies or a restarted broker is tried again."""
    once = [problem(409, "state_moved")]
    monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.1)

    def script(_method: str, target: str) -> Any:
        return once.pop() if target == "/v1/renewals" and once else None

    async def play() -> None:
        short(house, 10, 1)
        house.script = script
        async with serving_night(house, tmp_path) as night:
            await night.until(lambda: bool(night.said("renewal")))
            assert len(night.said("renewal waits")) == 1
            assert (await night.http.get("/ready")).status_code == 200

    asyncio.run(play())


def test_renewal_refused(house: Served, tmp_path: Path) -> None:
    """A refused renewal ends everything at once, however long the lease would have lasted."""

    def script(_method: str, target: str) -> Any:
        return problem(403, "lease_ended") if target == "/v1/renewals" else None

    async def play() -> None:
        short(house, 600, 1)
        house.script = script
        async with serving_night(house, tmp_path) as night:
            pid = night.engine.pid
            asked = asyncio.create_task(stream(night))
            assert await night.end(5) is NotServing.LEASE_REVOKED
            assert not alive(pid)
            assert house.count(*RENEWALS) == 1
            assert "lease_ended" in night.said("renewal refused")[0]
            _, pieces, _ = await asked
            assert b"[DONE]" not in b"".join(pieces)

    asyncio.run(play())


def longer(broker: SoftBroker, request: messages.RenewRequest) -> messages.RenewalAnswer:
    """Return a renewal that grants more than the log says."""
    answer = broker.renewal_answer(request)
    lease = msgspec.structs.replace(answer.lease, not_after=1 << 40)
    return msgspec.structs.replace(answer, lease=lease)


def test_renewal_that_is_not_in_the_log(house: Served, tmp_path: Path) -> None:
    """An answer to a renewal that does not hold ends everything."""

    async def play() -> None:
        short(house, 600, 1)
        house.renewal = lambda request: longer(house.broker, request)
        async with serving_night(house, tmp_path) as night:
            assert await night.end(5) is NotServing.RENEWAL_FAILED

    asyncio.run(play())


def test_genesis_that_changes(house: Served, tmp_path: Path) -> None:
    """A broker that speaks for another tenant at a renewal is not obeyed."""

    async def play() -> None:
        short(house, 600, 1)
        async with serving_night(house, tmp_path) as night:
            house.broker.document = SoftBroker().document
            assert await night.end(5) is NotServing.RENEWAL_FAILED
            assert "launched for" in night.said("renewal failed")[0]

    asyncio.run(play())


def test_engine_killed(house: Served, tmp_path: Path) -> None:
    """A dead engine ends the runtime with its own code."""

    async def play() -> None:
        async with serving_night(house, tmp_path) as night:
            os.kill(night.engine.pid, signal.SIGKILL)
            assert await night.end(5) is NotServing.ENGINE_EXITED

    asyncio.run(play())


def test_cancelled_twice(house: Served, tmp_path: Path) -> None:
    """An impatient second signal does not leave the engine behind."""

    async def play() -> None:
        async with serving_night(house, tmp_path) as night:
            pid = night.engine.pid
            asked = asyncio.create_task(stream(night))
            await asyncio.sleep(0.3)
            for _ in range(3):
                night.running.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await night.running
            await asked
            assert not alive(pid)

    asyncio.run(play())


# What never comes to serve.


def never(
    house: Served, tmp_path: Path, code: Fault, *words: str, machine: Any = None, **config: Any
) -> Night:
    """Check that a runtime ends before it serves, for this cause, and starts no engine."""

    async def play() -> Night:
        async with opening(house, tmp_path, machine=machine, **config) as night:
            with pytest.raises(RuntimeFault) as caught:
                await night.end()
            assert caught.value.code is code, caught.value
            for word in words:
                assert word in str(caught.value), caught.value
            assert not night.said("engine")
            return night

    return asyncio.run(play())


def test_tampered_file(house: Served, tmp_path: Path) -> None:
    """One bit of a sealed file stops the start, and the file is named."""
    assert house.sealed is not None
    path = max((house.sealed / "files").iterdir(), key=lambda entry: entry.stat().st_size)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)

    never(house, tmp_path, Fault.SEALED_SEGMENT, path.name)


def test_tampered_local_file(house: Served, tmp_path: Path) -> None:
    """The same for sealed files that lie in a folder."""
    assert house.sealed is not None
    path = next((house.sealed / "files").iterdir())
    path.write_bytes(path.read_bytes()[:-1])

    never(house, tmp_path, Fault.SEALED_TRUNCATED, path.name, sealed=house.sealed)


def test_local_folder(house: Served, tmp_path: Path) -> None:
    """Sealed files may lie in a folder; then none is fetched."""

    async def play() -> None:
        async with serving_night(house, tmp_path, sealed=house.sealed):
            assert not [target for method, target in house.asked if method != "POST"]

    asyncio.run(play())


def test_no_manifest(house: Served, tmp_path: Path) -> None:
    """A folder without a manifest is refused by name."""
    (tmp_path / "empty").mkdir()

    never(house, tmp_path, Fault.SEALED_MISSING, "manifest.json", sealed=tmp_path / "empty")


def test_another_manifest(house: Served, tmp_path: Path) -> None:
    """A manifest that is not the one of the release is refused."""
    house.broker.manifests[MODEL] = bytes(32)

    never(house, tmp_path, Fault.MANIFEST_DIGEST)


def test_file_that_is_missing(house: Served, tmp_path: Path) -> None:
    """A registry that lacks a file stops the start, and the file is named."""
    assert house.sealed is not None
    path = next((house.sealed / "files").iterdir())
    path.unlink()

    never(house, tmp_path, Fault.BROKER_REFUSED, path.name)


def test_launched_for_somebody_else(house: Served, tmp_path: Path) -> None:
    """A machine that was launched for another tenant asks this broker for no key."""
    never(house, tmp_path, Fault.ANCHOR_MISMATCH, machine=SoftBroker().td())
    assert house.count("POST", "/v1/releases") == 0


def test_simulated_refused(house: Served, tmp_path: Path) -> None:
    """Outside the demo a simulated tenant is refused."""
    never(house, tmp_path, Fault.SIMULATED_REFUSED, simulated_allowed=False)
    assert house.count("POST", "/v1/releases") == 0


def test_refused_release(house: Served, tmp_path: Path) -> None:
    """A refused release is not tried again: its challenge is spent."""
    house.script = lambda _method, target: (
        problem(403, "denied") if target == "/v1/releases" else None
    )

    never(house, tmp_path, Fault.BROKER_REFUSED, "denied")
    assert house.count("POST", "/v1/releases") == 1


def test_port_in_use(house: Served, tmp_path: Path) -> None:
    """Without a port to serve at nothing is asked for at all."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        never(house, tmp_path, Fault.ADDRESS_UNAVAILABLE, str(port), port=port)
    assert house.asked == []


def test_lease_over_before_it_serves(house: Served, tmp_path: Path) -> None:
    """A lease that ended while the model was loaded serves nothing."""

    async def play() -> None:
        short(house, 0, 0)
        async with opening(house, tmp_path) as night:
            assert await night.end() is NotServing.LEASE_ENDED
            assert not night.said("serving")

    asyncio.run(play())


def test_starting(house: Served, tmp_path: Path) -> None:
    """Before it serves, the runtime answers that it is starting."""

    async def play() -> None:
        async with opening(house, tmp_path) as night:
            async with asyncio.timeout(10):
                while not night.supervisor.port:  # noqa: ASYNC110 - as a caller from outside would
                    await asyncio.sleep(0.005)
            base = f"http://127.0.0.1:{night.supervisor.port}"
            answer = await night.http.get(f"{base}/ready")
            assert answer.status_code == 503
            assert json.loads(answer.content)["reason"] == "starting"
            refused = await night.http.post(f"{base}/v1/chat/completions", json=CHAT)
            assert refused.status_code == 503

    asyncio.run(play())
