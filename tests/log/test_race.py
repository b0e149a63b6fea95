"""Several brokers on one database: one compare-and-swap, no fork."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from broker.errors import BrokerError, Code
from broker.log.draft import Prepared, TreeHead
from broker.log.sequencer import Sequencer
from broker.store.database import Unit, open_store
from broker.store.rows import trees
from tests.kit.store import Ended, House, SoftSigner, house, in_loop, refusal, url
from verifier.tlog.merkle import root_of
from verifier.wire import leaf as leaves


async def second(stack: AsyncExitStack, built: House[SoftSigner]) -> Sequencer:
    """Return another broker's sequencer, over connections of its own."""
    store = await stack.enter_async_context(await open_store(url(built.path)))
    return Sequencer(store, built.hsm)


@in_loop
async def test_append_between_check_and_write_is_noticed(tmp_path: Path) -> None:
    """A broker that stalls after looking at the head finds it moved, looks again, and follows."""
    looked, go_on = asyncio.Event(), asyncio.Event()
    stalls = 0

    async def stall() -> None:
        nonlocal stalls
        stalls += 1
        looked.set()
        await go_on.wait()

    async with house(tmp_path) as built, AsyncExitStack() as stack:
        other = await second(stack, built)
        slow = Sequencer(built.store, built.hsm, stall=stall)

        task = asyncio.create_task(slow.append(built.g, Ended("slow")))
        await looked.wait()
        fast = await other.append(built.g, Ended("fast"))  # whole, while the other one stalls
        go_on.set()
        late = await task

        assert (fast.index, late.index, stalls) == (1, 2, 2)
        assert (built.check(fast), built.check(late)) == (2, 3)


@in_loop
async def test_refusal_on_a_head_that_moved_does_not_count(tmp_path: Path) -> None:
    """A refusal is only given for the head that is still there when the transaction ends."""
    seen: list[int] = []

    async with house(tmp_path) as built, AsyncExitStack() as stack:
        other = await second(stack, built)

        async def stall() -> None:
            if not seen:
                await other.append(built.g, Ended("between"))

        class OnlySecond(Ended):
            async def prepare(self, unit: Unit, head: TreeHead) -> Prepared:
                seen.append(head.size)
                if head.size < 2:
                    raise BrokerError(Code.DENIED, "not yet")
                return await super().prepare(unit, head)

        slow = Sequencer(built.store, built.hsm, stall=stall)
        appended = await slow.append(built.g, OnlySecond("slow"))

        assert seen == [1, 2]
        assert appended.index == 2


@in_loop
async def test_swap_from_an_old_size_changes_nothing(tmp_path: Path) -> None:
    """The compare-and-swap itself refuses any size but the stored one."""
    async with house(tmp_path) as built:
        for old_size, moved in ((0, False), (2, False), (1, True)):
            async with built.store.write() as unit:
                found = await trees.advance(
                    unit,
                    built.g,
                    old_size=old_size,
                    size=9,
                    frontier=b"",
                    epoch=0,
                    state=bytes(32),
                    last_time=0,
                    state_map=None,
                )
            assert found is moved


@in_loop
async def test_slower_broker_does_not_put_an_older_checkpoint_back(tmp_path: Path) -> None:
    """Checkpoints are stored in whatever order brokers come; the newest stays."""
    async with house(tmp_path) as built:
        await built.append(Ended("a"))
        newest = built.sql("SELECT signed_size, checkpoint FROM trees")
        async with built.store.write() as unit:
            await trees.signed(unit, built.g, 1, b"older")

        assert built.sql("SELECT signed_size, checkpoint FROM trees") == newest


@in_loop
async def test_brokers_that_race_never_fork_the_tree(tmp_path: Path) -> None:
    """Three brokers append at once: every leaf has one index, and all receipts one tree."""
    async with house(tmp_path) as built, AsyncExitStack() as stack:
        brokers = [built.sequencer, await second(stack, built), await second(stack, built)]

        async def work(number: int, broker: Sequencer) -> list[tuple[int, int]]:
            found = []
            for turn in range(12):
                appended = await broker.append(built.g, Ended(f"b{number}-{turn}"))
                found.append((appended.index, built.check(appended)))
            return found

        done = await asyncio.gather(*(work(n, broker) for n, broker in enumerate(brokers)))

        indexes = sorted(index for found in done for index, _ in found)
        assert indexes == list(range(1, 37))
        raw = [row[0] for row in built.sql("SELECT leaf FROM leaves ORDER BY idx")]
        assert (await built.hsm.head(built.g)).root == root_of(raw)
        assert len({leaves.decode(leaf) for leaf in raw}) == 37


@in_loop
async def test_head_that_always_moves_ends_in_a_refusal(tmp_path: Path) -> None:
    """A broker that always loses the race gives up after some tries, and has written nothing."""
    async with house(tmp_path) as built, AsyncExitStack() as stack:
        other = await second(stack, built)

        async def stall() -> None:
            await other.append(built.g, Ended("again"))

        unlucky = Sequencer(built.store, built.hsm, stall=stall)
        error = await refusal(unlucky.append(built.g, Ended("unlucky")))

        assert error.code is Code.LOG_UNAVAILABLE
        raw = [row[0] for row in built.sql("SELECT leaf FROM leaves")]
        assert not any(b"unlucky" in leaf for leaf in raw)
