"""Segments worked on by several threads, taken in order, in a bounded number of reused buffers.

Guarantees: at most `Buffers.limit` segments are alive at once; results arrive in order; when
`in_order` returns or raises, no thread touches a buffer any more. Fresh buffers would cost more
than AES does, in page faults; that is why they are reused. Each thread does all of a segment, so
that its bytes stay in one processor's cache and nobody is woken for them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Condition, Lock
from typing import Generic, TypeVar, final

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
    """Run `work` on every job, in parallel, and `then` on every result, one at a time, in order.

    Args:
        pool: where to work, at most `buffers.limit` jobs at once; None works here and now.
        buffers: each job has one slot from the start of `work` to the end of `then`.
        jobs: what is handed to `work`.
        work: must not keep the slot.
        then: may use views of the slot that `work` returned; called in the thread of its `work`.

    Raises:
        Exception: the first one, by the order of jobs, that `work` or `then` raised.
    """
    line = _Line(buffers, jobs, work, then)
    if pool is None:
        line.run(0)
        return
    workers = [pool.submit(line.run, worker) for worker in range(buffers.limit)]
    try:
        wait(workers)
    finally:
        line.call_off()
        wait(workers)
    failed = [worker for worker, future in enumerate(workers) if future.exception() is not None]
    if failed:
        workers[min(failed, key=line.place)].result()


@final
class _Line(Generic[J, R]):
    """Jobs that several workers take one after the other, and whose turn it is to end one."""

    def __init__(
        self,
        buffers: Buffers,
        jobs: Iterable[J],
        work: Callable[[J, Slot], R],
        then: Callable[[J, R], None],
    ) -> None:
        self._buffers = buffers
        self._jobs = enumerate(jobs)
        self._work = work
        self._then = then
        self._changed = Condition()
        self._turn = 0
        self._end = sys.maxsize  # jobs from this place on are given up
        self._places: dict[int, int] = {}

    def run(self, worker: int) -> None:
        """Take jobs until there are none, or one fails; raises what the own one raised."""
        taken = self._take(worker)
        if taken is None:
            return
        slot = self._buffers.take()
        try:
            while taken is not None:
                self._do(*taken, slot)
                taken = self._take(worker)
        finally:
            self._buffers.give(slot)

    def call_off(self) -> None:
        """Begin no other job, and end none whose turn has not come."""
        with self._changed:
            self._end = 0
            self._changed.notify_all()

    def place(self, worker: int) -> int:
        """Return the place in the line of the job that `worker` had last."""
        return self._places[worker]

    def _take(self, worker: int) -> tuple[int, J] | None:
        with self._changed:
            taken = next(self._jobs, None) if self._end == sys.maxsize else None
            if taken is not None:
                self._places[worker] = taken[0]
            return taken

    def _do(self, place: int, job: J, slot: Slot) -> None:
        failed = True
        try:
            result = self._work(job, slot)
            if self._is_my_turn(place):
                self._then(job, result)
                self._pass_on(place)
            failed = False
        finally:
            if failed:
                self._give_up(place)

    def _pass_on(self, place: int) -> None:
        with self._changed:
            self._turn = place + 1
            self._changed.notify_all()

    def _give_up(self, place: int) -> None:
        with self._changed:
            # Those before it still end: one of them may have failed as well.
            self._end = min(self._end, place)
            self._changed.notify_all()

    def _is_my_turn(self, place: int) -> bool:
        """Wait for all jobs before this one; False if one of them has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn == place or self._end <= place)
            return self._end > place
