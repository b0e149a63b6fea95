"""A night of the runtime for tests: a supervisor in a simulated machine, and what was seen of it.

The engine, its front and HTTP are real; the broker is `tests.kit.runtime`'s. Leases are of seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from inference_runtime.attester.socket_device import SocketDevice
from inference_runtime.client import BrokerClient
from inference_runtime.engine.llama import LlamaEngine, LlamaSettings
from inference_runtime.exchange import Released
from inference_runtime.front.state import NotServing
from inference_runtime.supervisor import Config, Fetching, Stage, Supervisor
from ostiary.simulator.device import serving
from tests.kit.runtime import MODEL, TENANT, Served

LONG = LlamaSettings(context=8192, answer=8000)
RENEWALS = ("POST", "/v1/renewals")


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
    broker: Served,
    tmp_path: Path,
    *,
    machine: Any = None,
    fetching: Fetching = lambda _done, _total: None,
    **config: Any,
) -> AsyncIterator[Night]:
    """Start a runtime in a machine and give it before it serves; it ends with the block."""
    path = tmp_path / "machine.sock"
    fields: dict[str, Any] = {"tenant": TENANT, "model": MODEL, "simulated_allowed": True} | config
    with serving(path, machine or broker.broker.td()), BrokerClient(broker.url) as client:
        engine, stages, kept = LlamaEngine(LONG), list[Stage](), list[Released]()
        started = Supervisor(
            Config(**fields), SocketDevice(path), client, engine, stages.append, fetching=fetching
        )
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
