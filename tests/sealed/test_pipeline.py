"""The pipeline keeps order, bounds its buffers and leaves no thread at work."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from inference_runtime.sealed.pipeline import Buffers, Progress, Slot, in_order


def test_order_and_bound() -> None:
    """Results come in order whatever finishes first, and never in more buffers than allowed."""
    buffers = Buffers(3)
    slots: set[int] = set()
    second = threading.Event()
    seen: list[tuple[int, int]] = []

    def work(job: int, slot: Slot) -> int:
        slots.add(id(slot))
        if job == 0:
            assert second.wait(10)  # the first job ends after the second
        if job == 1:
            second.set()
        return job * job

    def then(job: int, result: int) -> None:
        seen.append((job, result))

    with ThreadPoolExecutor(2) as pool:
        in_order(pool, buffers, range(40), work, then)

    assert [(n, n * n) for n in range(40)] == seen
    assert len(slots) <= 3


@pytest.mark.parametrize("where", ["work", "then"])
def test_after_a_failure_nobody_works(where: str) -> None:
    """When a job fails, those under way end before the caller hears of it."""
    buffers = Buffers(3)
    late_started, ended = threading.Event(), threading.Event()

    def work(job: int, _: Slot) -> int:
        if job == 0:
            assert late_started.wait(10)
            if where == "work":
                raise ValueError("first")
        if job == 1:
            late_started.set()
            threading.Event().wait(0.1)  # still busy when job 0 has failed
            ended.set()
        return job

    def then(_: int, __: int) -> None:
        raise ValueError("first")

    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(ValueError, match="first"):
            in_order(pool, buffers, range(10), work, then)

        assert ended.is_set()


def test_the_first_failure_in_order_is_the_one_reported() -> None:
    """Which damaged segment is named does not depend on which thread was faster."""

    def work(job: int, _: Slot) -> int:
        if job >= 3:
            raise ValueError(f"job {job}")
        return job

    for pool in (None, ThreadPoolExecutor(4)):
        with pytest.raises(ValueError, match="job 3"):
            in_order(pool, Buffers(6), range(10), work, lambda _, __: None)
        if pool is not None:
            pool.shutdown()


def test_jobs_before_the_failed_one_still_end() -> None:
    """A job that fails ahead of its turn stops those after it, and none of those before it."""
    failed, waits = threading.Event(), threading.Event()
    ended: list[int] = []

    def work(job: int, _: Slot) -> int:
        if job == 0:
            assert failed.wait(10)
            assert waits.wait(10)
            threading.Event().wait(0.1)  # job 1 waits for its turn, and job 3 has given up
        elif job == 1:
            waits.set()
        elif job == 2:
            failed.set()
            raise ValueError("job 2")
        return job

    with ThreadPoolExecutor(4) as pool, pytest.raises(ValueError, match="job 2"):
        in_order(pool, Buffers(4), range(9), work, lambda _, result: ended.append(result))

    assert ended == [0, 1]


def test_wiping_leaves_no_plaintext() -> None:
    """After a wipe every buffer that was ever lent is zero on its plaintext side."""
    buffers = Buffers(2)
    slot = buffers.take()
    slot.plain[:5] = b"plain"
    buffers.give(slot)
    buffers.wipe()

    assert not any(slot.plain)


def test_progress_is_never_called_twice_at_once() -> None:
    """Reports from many threads reach the callback one after the other, and none is lost."""
    busy = threading.Lock()
    total = 0

    def callback(count: int) -> None:
        nonlocal total
        assert busy.acquire(blocking=False)
        total += count
        busy.release()

    progress = Progress(callback)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(progress.add, 3) for _ in range(500)]:
            future.result()

    assert total == 1500
