"""Segments worked on by several threads, taken in order, in a bounded number of reused buffers.

Guarantees: at most `Buffers.limit` segments are alive at once; results arrive in order; when
`in_order` returns or raises, no thread touches a buffer any more. Fresh buffers would cost more
than AES does, in page faults; that is why they are reused.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar, final

from inference_runtime.sealed.layout import SEGMENT

J = TypeVar("J")
R = TypeVar("R")

MAX_THREADS = 16
INLINE = 4 * SEGMENT
"""Files up to this many bytes are worked on by one thread each, many files at a time."""


def default_threads() -> int:
    """Return how many threads to use where nobody says: one per processor, at most 16."""
    return min(os.cpu_count() or 1, MAX_THREADS)


@final
@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one segment, sealed and open."""

    sealed: memoryview
    plain: memoryview


@final
@dataclass(slots=True)
class Buffers:
    """Slots that are lent and given back; the one used last is lent first, while it is warm."""

    limit: int
    _free: list[Slot] = field(default_factory=list)
    _all: list[Slot] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def take(self) -> Slot:
        """Lend a slot; a new one is made only when all others are lent."""
        with self._lock:
            if self._free:
                return self._free.pop()
            slot = Slot(memoryview(bytearray(SEGMENT)), memoryview(bytearray(SEGMENT)))
            self._all.append(slot)
            return slot

    def give(self, slot: Slot) -> None:
        """Take a slot back."""
        with self._lock:
            self._free.append(slot)

    def wipe(self) -> None:
        """Zero the plaintext half of every slot; call it when no thread works any more."""
        for slot in self._all:
            slot.plain[:] = bytes(SEGMENT)


@final
class Progress:
    """Tells a callback how many more plaintext bytes are done, from one thread at a time."""

    def __init__(self, callback: Callable[[int], None] | None) -> None:
        self._callback = callback
        self._lock = Lock()

    def add(self, count: int) -> None:
        """Report `count` more bytes."""
        if self._callback is not None and count:
            with self._lock:
                self._callback(count)


def in_order(
    pool: ThreadPoolExecutor | None,
    buffers: Buffers,
    jobs: Iterable[J],
    work: Callable[[J, Slot], R],
    then: Callable[[J, R], None],
) -> None:
    """Run `work` on every job, in parallel, and `then` on every result, in order, in this thread.

    Args:
        pool: where to work; None works here and now.
        buffers: each job has one slot from the start of `work` to the end of `then`.
        jobs: what is handed to `work`.
        work: must not keep the slot.
        then: may use views of the slot that `work` returned.

    Raises:
        Exception: the first one, by the order of jobs, that `work` or `then` raised.
    """
    pending: deque[tuple[J, Future[R], Slot]] = deque()

    def finish() -> None:
        job, future, slot = pending[0]
        then(job, future.result())
        pending.popleft()
        buffers.give(slot)

    try:
        for job in jobs:
            slot = buffers.take()
            if pool is None:
                try:
                    then(job, work(job, slot))
                finally:
                    buffers.give(slot)
                continue
            pending.append((job, pool.submit(work, job, slot), slot))
            if len(pending) >= buffers.limit:
                finish()
        while pending:
            finish()
    finally:
        for _, future, _ in pending:
            future.cancel()
        wait([future for _, future, _ in pending])
        for _, _, slot in pending:
            buffers.give(slot)
