"""Group commit: everybody gets an answer, and batches never overlap."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from broker.errors import BrokerError, Code
from broker.store.batch import Batcher
from tests.kit.store import in_loop, refusal


@in_loop
async def test_who_comes_meanwhile_goes_into_the_next_batch() -> None:
    """One batch runs at a time, and the queue is drained into the next one."""
    batches: list[list[int]] = []
    running = 0

    async def handle(items: Sequence[int]) -> Sequence[int]:
        nonlocal running
        running += 1
        assert running == 1
        batches.append(list(items))
        await asyncio.sleep(0.001)
        running -= 1
        return [item * 2 for item in items]

    batcher: Batcher[int, int] = Batcher(handle, limit=10)

    answers = await asyncio.gather(*(batcher.submit(n) for n in range(25)))

    assert answers == [n * 2 for n in range(25)]
    assert [len(batch) for batch in batches] == [10, 10, 5]


@in_loop
async def test_refusals_go_to_their_own_callers() -> None:
    """A `BrokerError` among the outcomes is raised to that caller alone."""

    async def handle(items: Sequence[int]) -> Sequence[int | BrokerError]:
        return [BrokerError(Code.DENIED, "odd") if n % 2 else n for n in items]

    batcher: Batcher[int, int] = Batcher(handle, limit=10)

    answers = await asyncio.gather(*map(batcher.submit, range(4)), return_exceptions=True)

    assert [a if isinstance(a, int) else "refused" for a in answers] == [0, "refused", 2, "refused"]


@in_loop
async def test_a_mistake_of_ours_leaves_nobody_waiting(
    # The task's own exception is reported by the loop; here it is expected.
) -> None:
    """When the handler breaks, its callers get an error and later ones are served."""
    broken = True

    async def handle(items: Sequence[int]) -> Sequence[int]:
        if broken:
            raise ZeroDivisionError
        return list(items)

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    batcher: Batcher[int, int] = Batcher(handle, limit=1)
    first, second = asyncio.create_task(batcher.submit(1)), asyncio.create_task(batcher.submit(2))
    failures = await asyncio.gather(first, second, return_exceptions=True)
    broken = False

    assert [e.code for e in failures if isinstance(e, BrokerError)] == [Code.INTERNAL] * 2
    assert await batcher.submit(3) == 3


@in_loop
async def test_cancelled_callers_are_left_out() -> None:
    """An item whose caller gave up before its batch began is not handled."""
    handled: list[int] = []
    started, go = asyncio.Event(), asyncio.Event()

    async def handle(items: Sequence[int]) -> Sequence[int]:
        handled.extend(items)
        started.set()
        await go.wait()
        return list(items)

    batcher: Batcher[int, int] = Batcher(handle, limit=1)
    tasks = [asyncio.create_task(batcher.submit(n)) for n in range(3)]
    await started.wait()
    tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.sleep(0)
    go.set()

    assert await tasks[2] == 2
    assert handled == [0, 2]


@in_loop
async def test_closing_finishes_what_was_taken() -> None:
    """`aclose` waits for the queue, and takes nothing more."""

    async def handle(items: Sequence[int]) -> Sequence[int]:
        await asyncio.sleep(0.001)
        return list(items)

    batcher: Batcher[int, int] = Batcher(handle, limit=1)
    task = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0)
    await batcher.aclose()

    assert task.done()
    assert await task == 1
    assert (await refusal(batcher.submit(2))).code is Code.INTERNAL


@pytest.mark.parametrize("size", [0, 3])
@in_loop
async def test_wrong_number_of_outcomes_is_a_mistake(size: int) -> None:
    """A handler must answer for every item."""

    async def handle(items: Sequence[int]) -> Sequence[int]:
        return [*items, *items, *items][:size]

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    batcher: Batcher[int, int] = Batcher(handle, limit=1)

    assert (await refusal(batcher.submit(1))).code is Code.INTERNAL
