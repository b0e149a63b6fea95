"""Appending: receipts that strangers believe, and nothing half done whatever fails."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.errors import BrokerError, Code
from broker.hsm.errors import HsmError, HsmReason
from broker.log.draft import Prepared, TreeHead
from broker.log.sequencer import Sequencer
from broker.store import schema
from broker.store.database import Unit, open_store
from tests.kit.store import (
    NOW,
    Ended,
    House,
    SoftSigner,
    house,
    in_loop,
    no_more_than,
    refusal,
    url,
)
from verifier.tlog.checkpoint import open_checkpoint
from verifier.tlog.merkle import root_of
from verifier.wire import leaf as leaves


@dataclass(frozen=True)
class Refused:
    """A draft that says no, before or after it wrote."""

    write_first: bool = False

    async def prepare(self, unit: Unit, _head: TreeHead) -> Prepared:
        if self.write_first:
            await mark(unit)
        raise BrokerError(Code.DENIED, "no")


async def mark(unit: Unit) -> None:
    """Write a row that shows whether a transaction stayed."""
    await unit.insert_once(schema.challenges_spent, {"digest": bytes(32), "expires": NOW})


def marks(built: House[SoftSigner]) -> int:
    return len(built.sql("SELECT * FROM challenges_spent"))


def stored(built: House[SoftSigner]) -> list[bytes]:
    return [row[0] for row in built.sql("SELECT leaf FROM leaves ORDER BY idx")]


def wal_size(built: House[SoftSigner]) -> int:
    return built.path.with_name(built.path.name + "-wal").stat().st_size


def size(built: House[SoftSigner]) -> int:
    return int(built.sql("SELECT size FROM trees")[0][0])


@in_loop
async def test_receipt_verifies_offline(tmp_path: Path) -> None:
    """An append gives the leaf's index, its bytes and a receipt under the newest checkpoint."""
    async with house(tmp_path) as built:
        appended = await built.append(Ended("lease-1"))

        assert (appended.index, built.check(appended)) == (1, 2)
        leaf = leaves.decode(appended.leaf)
        assert isinstance(leaf, leaves.LeaseEndLeaf)
        assert leaf.lease == "lease-1"


@in_loop
async def test_leaf_0_is_the_genesis(tmp_path: Path) -> None:
    """Enrolling writes the tenant's signed genesis as leaf 0, at epoch 0."""
    async with house(tmp_path) as built:
        leaf = leaves.decode(stored(built)[0])

        assert isinstance(leaf, leaves.GenesisLeaf)
        assert (leaf.document, leaf.epoch) == (built.tenant.envelope, 0)


@in_loop
async def test_many_at_once_are_committed_in_groups(tmp_path: Path) -> None:
    """Concurrent appends share transactions and checkpoints, and all receipts verify."""
    async with house(tmp_path) as built:
        all_ = await asyncio.gather(*(built.append(Ended(f"l-{n}")) for n in range(300)))

        assert sorted(a.index for a in all_) == list(range(1, 301))
        for appended in all_:
            built.check(appended)
        assert len(built.hsm.extended) < 20
        head = open_checkpoint(
            (await built.hsm.head(built.g)).checkpoint, built.tenant.origin, built.tenant.vkey
        )
        assert head.root == root_of(stored(built))


@pytest.mark.parametrize("write_first", [False, True])
@in_loop
async def test_refused_draft_takes_no_other_with_it(tmp_path: Path, *, write_first: bool) -> None:
    """In one batch, a refused draft leaves nothing, and the others are appended."""
    async with house(tmp_path) as built:
        drafts = [Ended("a"), Refused(write_first), Ended("b"), Refused(write_first), Ended("c")]

        outcomes = await asyncio.gather(*map(built.append, drafts), return_exceptions=True)

        codes = [o.code if isinstance(o, BrokerError) else "leaf" for o in outcomes]
        assert codes == ["leaf", Code.DENIED, "leaf", Code.DENIED, "leaf"]
        assert (size(built), marks(built)) == (4, 0)


@in_loop
async def test_draft_that_breaks_the_transaction_is_left_out(tmp_path: Path) -> None:
    """A draft whose row the database refuses fails alone, as `log_unavailable`."""

    async def bad(unit: Unit) -> None:
        await unit.run(
            schema.lease_keys.insert(), {"lease": "none", "g": b"", "key_id": "x", "key_version": 1}
        )

    async with house(tmp_path) as built:
        drafts = [Ended("a"), Ended("b", write=bad), Ended("c")]

        outcomes = await asyncio.gather(*map(built.append, drafts), return_exceptions=True)

        codes = [o.code if isinstance(o, BrokerError) else "leaf" for o in outcomes]
        assert codes == ["leaf", Code.LOG_UNAVAILABLE, "leaf"]


@in_loop
async def test_rows_of_a_draft_stay_with_its_leaf(tmp_path: Path) -> None:
    """What a draft writes is committed together with its leaf."""
    async with house(tmp_path) as built:
        await built.append(Ended("a", write=mark))

        assert marks(built) == 1


@in_loop
async def test_leaf_table_that_aborts_stops_everything(tmp_path: Path) -> None:
    """With an SQLite trigger on the leaf table, appends are refused and write nothing else."""
    async with house(tmp_path) as built:
        before = stored(built), built.hsm.extended.copy()
        built.sql(
            "CREATE TRIGGER no_leaves BEFORE INSERT ON leaves "
            "BEGIN SELECT RAISE(ABORT, 'no leaf today'); END"
        )

        error = await refusal(built.append(Ended("a", write=mark)))

        assert error.code is Code.LOG_UNAVAILABLE
        assert "no leaf today" in str(error)
        assert (stored(built), built.hsm.extended) == before
        assert (size(built), marks(built)) == (1, 0)

        built.sql("DROP TRIGGER no_leaves")
        built.check(await built.append(Ended("b")))


@in_loop
async def test_full_disk_stops_everything(tmp_path: Path) -> None:
    """When the database cannot grow, appends are refused; with space again they go on."""
    async with house(tmp_path) as built:
        await built.append(Ended("a"))
        before = stored(built), built.hsm.extended.copy()
        with no_more_than(wal_size(built)):
            error = await refusal(built.append(Ended("b" * 60, write=mark)))

        assert error.code is Code.LOG_UNAVAILABLE
        assert (stored(built), built.hsm.extended, marks(built)) == (*before, 0)
        assert built.check(await built.append(Ended("c"))) == 3


@in_loop
async def test_no_answer_without_a_checkpoint(tmp_path: Path) -> None:
    """With the worker down a leaf may be stored, but nobody is told so, and no more pile up."""
    async with house(tmp_path) as built:
        built.hsm.down = True
        codes = [(await refusal(built.append(Ended(f"l-{n}")))).code for n in range(3)]

        assert codes == [Code.LOG_UNAVAILABLE] * 3
        assert size(built) == 2

        built.hsm.down = False
        appended = await built.append(Ended("later"))

        assert (appended.index, built.check(appended)) == (2, 3)
        assert [row[1] for row in built.hsm.extended] == [1, 1, 1]


@in_loop
async def test_start_signs_what_a_crash_left_unsigned(tmp_path: Path) -> None:
    """`recover` brings the worker and the stored checkpoint up to the stored leaves."""
    async with house(tmp_path) as built:
        built.hsm.down = True
        await refusal(built.append(Ended("crashed")))
        built.hsm.down = False

        await Sequencer(built.store, built.hsm).recover()

        assert built.sql("SELECT size, signed_size FROM trees") == [(2, 2)]
        assert (await built.hsm.head(built.g)).size == 2


@in_loop
async def test_lost_answer_of_the_worker_is_found_again(tmp_path: Path) -> None:
    """If the worker extended but its answer was lost, the next append goes on from there."""

    class Deaf(SoftSigner):
        lose = False

        async def extend(self, g: bytes, start: int, leaves_: tuple[bytes, ...]) -> bytes:
            answer = await super().extend(g, start, leaves_)
            if self.lose:
                raise HsmError(HsmReason.UNAVAILABLE, "answer lost")
            return answer

    async with house(tmp_path) as built:
        built.hsm.__class__ = Deaf
        built.hsm.lose = True  # type: ignore[attr-defined]
        error = await refusal(built.append(Ended("a")))
        built.hsm.lose = False  # type: ignore[attr-defined]
        appended = await built.append(Ended("b"))

        assert error.code is Code.LOG_UNAVAILABLE
        assert (appended.index, built.check(appended)) == (2, 3)


@in_loop
async def test_older_database_is_a_hard_error(tmp_path: Path) -> None:
    """A database that was put back is behind the worker's head: nothing is signed any more."""
    old = tmp_path / "old.db"
    async with house(tmp_path) as built:
        await built.append(Ended("a"))
        built.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(built.path, old)
        await built.append(Ended("b"))
        signed = built.hsm.extended.copy()
        signer, g = built.hsm, built.g

    async with await open_store(url(old)) as store:
        sequencer = Sequencer(store, signer)
        starting = await refusal(sequencer.recover())
        appending = await refusal(sequencer.append(g, Ended("c")))

    assert (starting.code, appending.code) == (Code.LOG_ROLLED_BACK, Code.LOG_ROLLED_BACK)
    assert signer.extended == signed


@in_loop
async def test_database_put_back_while_running_is_found(tmp_path: Path) -> None:
    """Taking leaves away under a running broker ends in `log_rolled_back`."""
    async with house(tmp_path) as built:
        old = built.sql("SELECT size, frontier FROM trees")[0]
        await built.append(Ended("a"))
        built.sql("DELETE FROM leaves WHERE idx = 1")
        built.sql("DELETE FROM nodes WHERE idx = 1 OR level = 1")
        built.sql("UPDATE trees SET size = ?, frontier = ?", *old)

        assert (await refusal(built.append(Ended("b")))).code is Code.LOG_ROLLED_BACK


@in_loop
async def test_head_alone_put_back_is_found(tmp_path: Path) -> None:
    """An older head over leaves and nodes that are all still there is not believed either."""
    async with house(tmp_path) as built:
        columns = "size, frontier, epoch, state, last_time, signed_size, checkpoint"
        old = built.sql(f"SELECT {columns} FROM trees")[0]  # noqa: S608 - our own words
        await built.append(Ended("a"))
        values = ", ".join(f"{name} = ?" for name in columns.split(", "))
        built.sql(f"UPDATE trees SET {values}", *old)  # noqa: S608 - our own words

        starting = await refusal(Sequencer(built.store, built.hsm).recover())
        appending = await refusal(built.append(Ended("b")))

        assert (starting.code, appending.code) == (Code.LOG_ROLLED_BACK, Code.LOG_ROLLED_BACK)
        assert (await built.hsm.head(built.g)).size == 2


@in_loop
async def test_checkpoint_over_another_tree_is_a_hard_error(tmp_path: Path) -> None:
    """A worker that signs other leaves than are stored gets nobody a receipt."""

    class Other(SoftSigner):
        async def extend(self, g: bytes, start: int, leaves_: tuple[bytes, ...]) -> bytes:
            changed = tuple(raw.replace(b'"lease":"a"', b'"lease":"b"') for raw in leaves_)
            return await super().extend(g, start, changed)

    async with house(tmp_path) as built:
        built.hsm.__class__ = Other

        first = await refusal(built.append(Ended("a")))
        later = await refusal(built.append(Ended("c")))

        assert (first.code, later.code) == (Code.LOG_ROLLED_BACK, Code.LOG_ROLLED_BACK)
        assert built.sql("SELECT size, signed_size FROM trees") == [(2, 1)]


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE nodes SET hash = zeroblob(32) WHERE level = 1",
        "DELETE FROM nodes",
        "UPDATE trees SET epoch = epoch + 1",
        "UPDATE trees SET state = zeroblob(32)",
        "UPDATE trees SET last_time = 1",
        "UPDATE trees SET frontier = zeroblob(40)",
        "UPDATE trees SET frontier = x'00'",
    ],
)
@in_loop
async def test_other_history_under_the_head_is_a_hard_error(tmp_path: Path, attack: str) -> None:
    """A stored tree that differs from what the worker signed stops the start."""
    async with house(tmp_path) as built:
        await built.append(Ended("a"))
        built.sql(attack)

        error = await refusal(Sequencer(built.store, built.hsm).recover())

        assert error.code is Code.LOG_ROLLED_BACK


@in_loop
async def test_unsigned_leaf_that_was_changed_is_not_signed(tmp_path: Path) -> None:
    """Between commit and signature a leaf may not be exchanged for another."""
    async with house(tmp_path) as built:
        built.hsm.down = True
        await refusal(built.append(Ended("true")))
        built.hsm.down = False
        lies = "CAST(replace(leaf, 'true', 'lies') AS BLOB)"
        built.sql(f"UPDATE leaves SET leaf = {lies} WHERE idx = 1")  # noqa: S608 - our own words
        signed = built.hsm.extended.copy()

        error = await refusal(Sequencer(built.store, built.hsm).recover())

        assert error.code is Code.LOG_ROLLED_BACK
        assert built.hsm.extended == signed


@in_loop
async def test_forged_checkpoint_is_not_accepted(tmp_path: Path) -> None:
    """The worker's answer is checked as a stranger would: a wrong signature is no checkpoint."""

    class Forger(SoftSigner):
        async def extend(self, g: bytes, start: int, leaves_: tuple[bytes, ...]) -> bytes:
            answer = await super().extend(g, start, leaves_)
            head, _, line = answer.rpartition(b" ")
            return head + b" " + line[:8] + (b"A" * 8) + line[16:]

    async with house(tmp_path) as built:
        built.hsm.__class__ = Forger

        error = await refusal(built.append(Ended("a")))

        assert error.code is Code.LOG_UNAVAILABLE
        assert "does not verify" in str(error)


@in_loop
async def test_times_never_go_down(tmp_path: Path) -> None:
    """A clock that went back gives a leaf with the time of the one before."""
    async with house(tmp_path) as built:
        for time in (NOW + 50, NOW + 10, NOW + 60):
            await built.append(Ended("a", time=time))

        times = [leaves.decode(raw).time for raw in stored(built)]
        assert times == [NOW, NOW + 50, NOW + 50, NOW + 60]


@in_loop
async def test_leaf_that_does_not_follow_is_our_mistake(tmp_path: Path) -> None:
    """A draft with another epoch, state, tree or time is stopped before it is stored."""

    @dataclass(frozen=True)
    class Wrong:
        change: str

        async def prepare(self, unit: Unit, head: TreeHead) -> Prepared:
            good = (await Ended("a").prepare(unit, head)).leaf
            assert isinstance(good, leaves.LeaseEndLeaf)
            fields = {name: getattr(good, name) for name in good.__struct_fields__}
            fields |= {
                "epoch": {"epoch": good.epoch + 1},
                "state": {"state": leaves.NO_POLICY},
                "time": {"time": good.time - 1},
                "genesis": {"genesis": leaves.NO_POLICY},
            }[self.change]
            return Prepared(leaves.LeaseEndLeaf(**fields))

    async with house(tmp_path) as built:
        for change in ("epoch", "state", "time", "genesis"):
            error = await refusal(built.append(Wrong(change)))
            assert error.code is Code.INTERNAL
        assert size(built) == 1


@in_loop
async def test_unknown_tree_is_not_found(tmp_path: Path) -> None:
    """There is no appending to a tenant that was never enrolled."""
    async with house(tmp_path) as built:
        error = await refusal(built.sequencer.append(bytes(32), Ended("a")))

        assert error.code is Code.NOT_FOUND


@in_loop
async def test_cancelled_caller_does_not_stop_the_others(tmp_path: Path) -> None:
    """A caller that gives up leaves the log whole: what was begun is finished."""
    async with house(tmp_path) as built:
        tasks = [asyncio.create_task(built.append(Ended(f"l-{n}"))) for n in range(5)]
        await asyncio.sleep(0.002)
        tasks[0].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)

        for appended in done:
            if not isinstance(appended, BaseException):
                built.check(appended)
        built.check(await built.append(Ended("after")))
        assert (await built.hsm.head(built.g)).size == size(built)
