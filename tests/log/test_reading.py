"""Reading a log: what is under the newest checkpoint, with proofs that hold."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.errors import Code
from broker.log.reading import Reader
from tests.kit.store import Ended, House, SoftSigner, TestCaller, house, in_loop, refusal
from verifier.tlog.checkpoint import open_checkpoint
from verifier.tlog.merkle import root_of, verify_consistency
from verifier.tlog.proof import verify_receipt


async def grow(built: House[SoftSigner], leaves: int) -> Reader:
    await asyncio.gather(*(built.append(Ended(f"l-{n}")) for n in range(leaves)))
    return Reader(built.store)


@in_loop
async def test_checkpoint_is_over_the_leaves(tmp_path: Path) -> None:
    """Whoever reads all leaves computes the root that the checkpoint signs."""
    async with house(tmp_path) as built:
        reader = await grow(built, 20)
        note = await reader.checkpoint(built.caller, "acme")
        found = [
            leaf
            for start in (0, 8, 16)
            for leaf in await reader.leaves(built.caller, "acme", start=start, limit=8)
        ]

        head = open_checkpoint(note, built.tenant.origin, built.tenant.vkey)
        assert (head.size, head.root) == (21, root_of(found))


@in_loop
async def test_every_leaf_has_a_receipt(tmp_path: Path) -> None:
    """Receipts for old and new leaves verify under the newest checkpoint."""
    async with house(tmp_path) as built:
        reader = await grow(built, 12)
        leaves = await reader.leaves(built.caller, "acme", start=0, limit=99)
        for index, leaf in enumerate(leaves):
            receipt = await reader.receipt(built.caller, "acme", index)
            found = verify_receipt(receipt, leaf, built.tenant.origin, built.tenant.vkey)
            assert (found.leaf_index, found.checkpoint.size) == (index, 13)


@in_loop
async def test_consistency_proofs_hold(tmp_path: Path) -> None:
    """Between any two sizes there is a proof that verifies."""
    async with house(tmp_path) as built:
        reader = await grow(built, 8)
        leaves = await reader.leaves(built.caller, "acme", start=0, limit=99)
        for old in range(10):
            for new in range(old, 10):
                proof = await reader.consistency(built.caller, "acme", old=old, new=new)
                verify_consistency(old, new, proof, root_of(leaves[:old]), root_of(leaves[:new]))


@in_loop
async def test_unsigned_leaves_are_not_shown(tmp_path: Path) -> None:
    """A leaf without a checkpoint over it is nobody's business yet."""
    async with house(tmp_path) as built:
        reader = await grow(built, 1)
        built.hsm.down = True
        await refusal(built.append(Ended("unsigned")))

        assert len(await reader.leaves(built.caller, "acme", start=0, limit=9)) == 2
        assert (await refusal(reader.receipt(built.caller, "acme", 2))).code is Code.NOT_FOUND
        unsigned = await refusal(reader.consistency(built.caller, "acme", old=0, new=3))
        assert unsigned.code is Code.NOT_FOUND


@in_loop
async def test_bad_numbers_are_refused(tmp_path: Path) -> None:
    """Negative, reversed and huge numbers are refused in our words."""
    async with house(tmp_path) as built:
        reader, caller = await grow(built, 1), built.caller
        for work, code in (
            (reader.leaves(caller, "acme", start=-1, limit=1), Code.MALFORMED),
            (reader.leaves(caller, "acme", start=1 << 64, limit=1), Code.MALFORMED),
            (reader.receipt(caller, "acme", -1), Code.NOT_FOUND),
            (reader.receipt(caller, "acme", 1 << 64), Code.NOT_FOUND),
            (reader.consistency(caller, "acme", old=2, new=1), Code.MALFORMED),
            (reader.consistency(caller, "acme", old=0, new=1 << 64), Code.NOT_FOUND),
        ):
            assert (await refusal(work)).code is code


@in_loop
async def test_damaged_tree_gives_no_receipt(tmp_path: Path) -> None:
    """A stored node or leaf that was changed is noticed before a receipt leaves."""
    async with house(tmp_path) as built:
        reader = await grow(built, 3)
        built.sql("UPDATE nodes SET hash = zeroblob(32) WHERE level = 1 AND idx = 1")

        assert (await refusal(reader.receipt(built.caller, "acme", 0))).code is Code.LOG_ROLLED_BACK

        built.sql("DELETE FROM nodes WHERE level = 1 AND idx = 1")
        error = await refusal(reader.consistency(built.caller, "acme", old=2, new=4))
        assert error.code is Code.LOG_ROLLED_BACK


@in_loop
async def test_changed_leaf_gives_no_receipt(tmp_path: Path) -> None:
    """A stored leaf that is not the hashed one gets no receipt."""
    async with house(tmp_path) as built:
        reader = await grow(built, 3)
        built.sql("UPDATE leaves SET leaf = x'7b7d' WHERE idx = 1")

        assert (await refusal(reader.receipt(built.caller, "acme", 1))).code is Code.LOG_ROLLED_BACK


@in_loop
async def test_other_tenants_see_nothing(tmp_path: Path) -> None:
    """Only the tenant's own signers read its log: neither its runtimes nor other tenants."""
    async with house(tmp_path) as built:
        reader = await grow(built, 1)
        for caller in (TestCaller("acme", "lease:x"), TestCaller("other", "other")):
            for work in (
                reader.checkpoint(caller, "acme"),
                reader.leaves(caller, "acme", start=0, limit=1),
                reader.receipt(caller, "acme", 0),
                reader.consistency(caller, "acme", old=0, new=1),
            ):
                assert (await refusal(work)).code is Code.FORBIDDEN
