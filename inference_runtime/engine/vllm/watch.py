"""Watches the processes of an engine, and ends them all.

Guarantees: if the server or a rank ends, the watch ends within the kernel's notice of it (pidfds,
no polling); `kill_group` returns when no process of the engine's session runs any more.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from inference_runtime.engine.vllm.peers import Peer

_POLL_SECONDS: Final = 0.02


@final
@dataclass(frozen=True, slots=True)
class Death:
    """Which process ended first, and whether the kernel killed one for memory meanwhile."""

    who: str
    out_of_memory: bool


@final
class Watchman:
    """Follows the server and its ranks. One event loop only."""

    def __init__(self) -> None:
        self.death: Death | None = None
        self._killed_before = kernel_kills()
        self._ranks: dict[int, Peer] = {}

    def follow(self, ranks: Mapping[int, Peer]) -> None:
        """Watch the ranks' processes too; their pidfds are closed with the watch."""
        self._ranks = dict(ranks)

    async def wait(self, process: asyncio.subprocess.Process) -> Death:
        """Return when the server or a rank has ended."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str] = loop.create_future()

        def tell(who: str) -> None:
            if not ended.done():
                ended.set_result(who)

        for rank, peer in self._ranks.items():
            loop.add_reader(peer.pidfd, tell, f"rank {rank}")
        server = asyncio.create_task(process.wait())
        server.add_done_callback(lambda _: tell("server"))
        try:
            who = await ended
        finally:
            server.cancel()
            for peer in self._ranks.values():
                loop.remove_reader(peer.pidfd)
        if self.death is None:
            self.death = Death(who, self.memory_was_short())
        return self.death

    def memory_was_short(self) -> bool:
        """Tell whether the kernel has killed a process for memory since the engine was started."""
        return kernel_kills() > self._killed_before

    def close(self) -> None:
        """Let go of the ranks."""
        while self._ranks:
            self._ranks.popitem()[1].close()


def kernel_kills() -> int:
    """Return how many processes the kernel has killed for memory since boot (`oom_kill`)."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


async def kill_group(process: asyncio.subprocess.Process, seconds: float) -> None:
    """Kill `process`, the leader of its session, and every process of that session.

    Returns when none runs any more, or after `seconds`: one that hangs in the kernel cannot be
    waited for.
    """
    # Until it was waited for, its number and its group's are its own.
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while left := session(process.pid):
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(_POLL_SECONDS)


def session(leader: int) -> list[int]:
    """Return the running processes of the session that `leader`, which has ended, began.

    The kernel gives the number to nobody else while one of them runs; if it is a process again,
    none does.
    """
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended
            continue
        state, _, _, owner = line.rpartition(")")[2].split()[:4]
        if int(owner) == leader and state not in {"Z", "X"}:
            found.append(int(entry.name))
    return [] if leader in found else found
