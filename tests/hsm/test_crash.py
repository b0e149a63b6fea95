"""Workers that die: what is on disk afterwards, and what goes on."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.home import HsmHome
from broker.hsm.spawn import spawn_same_user
from broker.hsm.state import EMPTY, WorkerState
from tests.kit.hsm import OAEP, Prepared, ready, run, spki_of, worker
from verifier.tlog.merkle import leaf_hash
from verifier.wire import canonical

pytestmark = pytest.mark.softhsm


def test_a_killed_worker_goes_on_where_it_was(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """After kill -9 in the middle of releases: same heads, every released permit burnt, and those
    in flight either burnt or still good for once."""
    prepared = enrolled_home()
    spki = spki_of(guest)

    async def life() -> None:
        process, client = spawn_same_user(prepared.home, simulated=True)
        book = await ready(client, prepared)
        released: set[int] = set()
        failed: dict[int, HsmReason] = {}
        enough = asyncio.Event()

        async def one(index: int) -> None:
            try:
                await book.release(client, index, spki)
            except HsmError as error:
                failed[index] = error.reason
            else:
                released.add(index)
                if len(released) == 30:
                    enough.set()

        first = await book.push(client, *(book.release_leaf(spki) for _ in range(400)))
        work = [asyncio.create_task(one(first + offset)) for offset in range(400)]
        await enough.wait()
        process.send_signal(signal.SIGKILL)
        started = time.monotonic()
        await asyncio.gather(*work)
        assert time.monotonic() - started < 5
        with pytest.raises(HsmError) as caught:
            await client.info()
        assert caught.value.reason is HsmReason.UNAVAILABLE
        await client.close()
        process.wait(20)

        assert set(failed.values()) == {HsmReason.UNAVAILABLE}
        async with worker(prepared.home) as client:
            head = await client.head(book.g)
            assert (head.size, head.root) == (len(book.leaves), book.tree.frontier.root())
            assert head.checkpoint == book.checkpoint
            again = 0
            for index in sorted(released | set(failed)):
                with contextlib.suppress(HsmError):
                    answer = await book.release(client, index, spki)
                    assert guest.decrypt(answer.wrapped[0], OAEP[answer.alg]) == book.dek
                    assert index not in released
                    again += 1
                with pytest.raises(HsmError) as caught:
                    await book.release(client, index, spki)
                assert caught.value.reason is HsmReason.PERMIT_SPENT
            assert again <= len(failed)
            await book.push(client, book.release_leaf(spki))

    run(life())


def test_a_crash_between_head_and_answer_is_told_by_the_head(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """A head that was stored but never answered is found again with its checkpoint, and is the
    one that the same leaves lead to."""
    prepared = enrolled_home()

    async def life() -> None:
        process, client = spawn_same_user(prepared.home, simulated=True)
        book = await ready(client, prepared)
        entry = canonical.encode(book.release_leaf(spki_of(guest)))
        task = asyncio.create_task(client.extend(book.g, 3, (entry,)))
        await asyncio.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        with contextlib.suppress(HsmError):
            await task
        await client.close()
        process.wait(20)
        async with worker(prepared.home) as client:
            head = await client.head(book.g)
            if head.size == 3:
                checkpoint = await client.extend(book.g, 3, (entry,))
            else:
                with pytest.raises(HsmError) as caught:
                    await client.extend(book.g, 3, (entry,))
                assert caught.value.size == 4
                checkpoint = head.checkpoint
            assert (await client.head(book.g)).checkpoint == checkpoint
            book.tree.append(leaf_hash(entry))
            assert (await client.head(book.g)).root == book.tree.frontier.root()

    run(life())


def test_a_crash_between_burn_and_wrap_only_over_reports(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """A permit that burnt on disk before the worker died releases nothing afterwards."""
    prepared = enrolled_home()
    place = HsmHome(prepared.home)
    spki = spki_of(guest)

    async def life() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            index = await book.push(client, book.release_leaf(spki))
        state = WorkerState.open(place.database, place.read_marker().database)
        assert state.burn([(book.g, index)]) == [True]
        assert state.burn([(book.g, index)]) == [False]
        state.close()
        async with worker(prepared.home) as client:
            with pytest.raises(HsmError) as caught:
                await book.release(client, index, spki)
            assert caught.value.reason is HsmReason.PERMIT_SPENT

    run(life())


def test_an_import_pair_cut_short_is_cleared_at_the_next_start(
    enrolled_home: Callable[[], Prepared],
) -> None:
    """A worker killed while it makes RSA primes starts again and makes others."""
    prepared = enrolled_home()
    place = HsmHome(prepared.home)

    async def life() -> None:
        process, client = spawn_same_user(prepared.home, simulated=True)
        await client.info()
        making = asyncio.create_task(client.create_import_key(prepared.g))
        await asyncio.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        with pytest.raises(HsmError):
            await making
        await client.close()
        process.wait(20)
        async with worker(prepared.home) as client:
            await client.create_import_key(prepared.g)
        state = WorkerState.open(place.database, place.read_marker().database)
        assert state.unfinished_imports() == ()
        state.close()

    run(life())


def test_two_heads_never_replace_the_same_one(enrolled_home: Callable[[], Prepared]) -> None:
    """The head is a visible compare-and-swap: who saw an older one gets its size and no store."""
    place = HsmHome(enrolled_home().home)
    state = WorkerState.open(place.database, place.read_marker().database)
    g = bytes(32)
    one = replace(EMPTY, frontier=EMPTY.frontier.append(bytes(32)), checkpoint=b"one")
    other = replace(one, checkpoint=b"other")
    state.advance(g, EMPTY, one)

    with pytest.raises(HsmError) as caught:
        state.advance(g, EMPTY, other)

    assert (caught.value.reason, caught.value.size) == (HsmReason.HEAD_MISMATCH, 1)
    assert state.head(g) == one
    state.close()
