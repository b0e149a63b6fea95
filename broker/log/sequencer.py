"""Appending to a log: the one way in, and the order of its durable writes.

Guarantees: `append` returns only when the leaf is stored, the HSM worker has made it part of the
head that it keeps outside the database, and the signed checkpoint over it is stored too. Several
brokers on one database never fork a tree: one visible compare-and-swap decides (`rows/trees.py`,
`advance`), and whoever loses looks again. A refused draft takes no other one with it.

One batch, and what a crash after each step leaves:

1. Sign what an earlier batch left unsigned. Nothing new.
2. One transaction: the drafts look at the head and write their rows, the head is swapped, leaves
   are added. Before the commit: nothing. After it: leaves without a checkpoint, which the next
   batch or start signs; so the log reports what never happened, and never the other way round.
3. The worker extends its own head, durably, and signs. The same; the worker has the checkpoint.
4. The checkpoint is stored. Callers have no answer, and all of it is logged.
5. Receipts are handed out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias, final

from tenacity import (
    AsyncRetrying,
    RetryError,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from broker.errors import BrokerError, Code, refuse_as
from broker.log import signing
from broker.log.draft import Appended, Draft, Entry, TreeHead
from broker.log.signer import Signer
from broker.log.state import head_of
from broker.store.batch import Batcher
from broker.store.database import Store, Unit
from broker.store.rows import trees
from broker.tenants import record
from broker.tenants.record import Tenant
from verifier.tlog import prove
from verifier.tlog.merkle import verify_inclusion
from verifier.tlog.proof import Receipt
from verifier.wire import canonical
from verifier.wire.leaf import StateMap

BATCH: Final = 256
"""Most leaves in one transaction; the worker takes 512 in one call."""

_SWAPS: Final = 24
"""How often a batch tries again because another broker's leaf came between."""

Outcome: TypeAlias = Appended | BrokerError


class _HeadMoved(Exception):  # noqa: N818 - not an error: the other side of the compare-and-swap
    """Another broker appended since we looked."""


class _Blamed(Exception):  # noqa: N818 - carries one draft's error out of the transaction
    """One draft spoiled the transaction; the others can do without it."""

    def __init__(self, at: int, error: BrokerError) -> None:
        super().__init__(str(error))
        self.at = at
        self.error = error


@final
@dataclass(slots=True)
class _Lane:
    """What one broker remembers of one tree between batches.

    `head` is a head that is signed and whose checkpoint is stored; None means look again, and so
    it stands from before a transaction until its checkpoint is stored.
    """

    g: bytes
    tenant: Tenant | None = None
    head: TreeHead | None = None


@final
@dataclass(slots=True)
class _Batch:
    """What one transaction did: refusals, each draft's own entry, and all in the tree's order."""

    refused: dict[int, BrokerError] = field(default_factory=dict)
    entries: dict[int, Entry] = field(default_factory=dict)
    written: list[Entry] = field(default_factory=list)
    state_map: StateMap | None = None


async def _no_stall() -> None:
    """Do nothing, between check and write."""


@final
class Sequencer:
    """Appends to the trees of one database.

    `stall` runs between looking at the head and the transaction that swaps it; tests force the race
    with it.
    """

    def __init__(
        self, store: Store, signer: Signer, *, stall: Callable[[], Awaitable[None]] = _no_stall
    ) -> None:
        self._store = store
        self._signer = signer
        self._stall = stall
        self._lanes: dict[bytes, Batcher[Draft, Appended]] = {}

    async def append(self, g: bytes, draft: Draft) -> Appended:
        """Put the leaf that `draft` prepares into the tree of tenant `g`.

        Raises:
            BrokerError: what the draft refused with; `log_unavailable` if leaf or checkpoint could
                not be written (the leaf may stand in the log nevertheless; nothing may be released
                on it); `log_rolled_back` if database and HSM worker disagree about the past;
                `not_found`.
        """
        batcher = self._lanes.get(g)
        if batcher is None:
            batcher = Batcher(partial(self._batch, _Lane(g)), limit=BATCH)
            self._lanes[g] = batcher
        return await batcher.submit(draft)

    async def recover(self) -> None:
        """Compare every tree with the HSM worker, and sign what a crash left unsigned.

        Run at start, before anything is served.

        Raises:
            BrokerError: `log_rolled_back`, `log_unavailable`, `database_unavailable`.
        """
        async with self._store.read() as unit:
            every = await trees.every_tree(unit)
        for g in every:
            await self._look(_Lane(g))

    async def aclose(self) -> None:
        """Take no more drafts, and finish those that were taken."""
        for batcher in self._lanes.values():
            await batcher.aclose()

    async def _batch(self, lane: _Lane, drafts: Sequence[Draft]) -> Sequence[Outcome]:
        try:
            done, head, before = await self._write(lane, drafts)
        except BrokerError as error:
            raise _as_log_error(error) from error
        outcomes: dict[int, Outcome] = {at: _as_log_error(e) for at, e in done.refused.items()}
        if done.entries:
            try:
                outcomes |= await self._sign(lane, head, before, done)
            except BrokerError as error:
                outcomes |= dict.fromkeys(done.entries, _as_log_error(error))
        else:
            lane.head = head
        return [outcomes[at] for at in range(len(drafts))]

    # Step 1 and 2.

    async def _write(
        self, lane: _Lane, drafts: Sequence[Draft]
    ) -> tuple[_Batch, TreeHead, TreeHead]:
        """Return what was written, and the heads after and before it."""
        blamed: dict[int, BrokerError] = {}
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_HeadMoved),
            stop=stop_after_attempt(_SWAPS),
            # Growing, so that a slow broker among quick ones gets its turn on a busy machine.
            wait=wait_random_exponential(multiplier=0.01, max=0.25),
        )
        try:
            async for attempt in retrying:
                with attempt:
                    return await self._attempt(lane, drafts, blamed)
        except RetryError as error:
            raise BrokerError(Code.LOG_UNAVAILABLE, "the head of the log keeps moving") from error
        raise BrokerError(Code.INTERNAL, "no attempt was made")

    async def _attempt(
        self, lane: _Lane, drafts: Sequence[Draft], blamed: dict[int, BrokerError]
    ) -> tuple[_Batch, TreeHead, TreeHead]:
        head, lane.head = lane.head or await self._look(lane), None
        await self._stall()
        while True:
            try:
                done, after = await self._transaction(head, drafts, blamed)
            except _Blamed as spoiled:
                blamed[spoiled.at] = spoiled.error
            else:
                return done, after, head

    async def _look(self, lane: _Lane) -> TreeHead:
        """Read the head, compare it with the HSM worker's, and sign what is not signed yet."""
        async with self._store.read() as unit:
            tenant = lane.tenant = await record.by_genesis(unit, lane.g)
            row = await trees.tree(unit, lane.g)
        if row is None:
            raise BrokerError(Code.NOT_FOUND, f"no tree {lane.g.hex()[:16]}")
        head = head_of(row)
        await signing.catch_up(self._store, self._signer, tenant, head)
        return head

    async def _transaction(
        self, head: TreeHead, drafts: Sequence[Draft], blamed: dict[int, BrokerError]
    ) -> tuple[_Batch, TreeHead]:
        done, after = _Batch(refused=dict(blamed)), head
        async with self._store.write() as unit:
            for at, draft in enumerate(drafts):
                if at in blamed:
                    continue
                writes = unit.writes
                try:
                    prepared = await draft.prepare(unit, after)
                    after, written = after.follow_all(prepared)
                except BrokerError as error:
                    if unit.writes != writes or error.code is Code.DATABASE_UNAVAILABLE:
                        # It wrote before it refused, or broke the transaction: undo all, and do
                        # without it. Cheaper than a savepoint around each draft that behaves.
                        raise _Blamed(at, error) from error
                    done.refused[at] = error
                else:
                    done.entries[at] = written[-1]
                    done.written += written
                    done.state_map = prepared.state_map or done.state_map
            await _swap(unit, head, after, done)
        return done, after

    # Steps 3 to 5.

    async def _sign(
        self, lane: _Lane, head: TreeHead, before: TreeHead, done: _Batch
    ) -> dict[int, Appended]:
        tenant = lane.tenant
        if tenant is None:
            raise BrokerError(Code.INTERNAL, "signing before looking")
        entries = done.written
        note = await signing.extend(
            self._signer, head.g, before.size, [entry.raw for entry in entries]
        )
        signed: signing.Signed | None
        if note is None:  # another broker's leaves are unsigned before ours, or it signed ours
            signed = await signing.catch_up(self._store, self._signer, tenant, head)
        else:
            signed = await signing.accept(self._store, tenant, head, note)
        if signed is None:
            raise BrokerError(Code.INTERNAL, "a tree with leaves has no checkpoint")
        if signed.checkpoint.size == head.size:
            lane.head = head
        reader = await self._reader(head, before, entries, signed.checkpoint.size)
        return {at: receipt_of(entry, signed, reader) for at, entry in done.entries.items()}

    async def _reader(
        self, head: TreeHead, before: TreeHead, entries: Sequence[Entry], size: int
    ) -> prove.HashReader:
        """Return the nodes that the proofs need: from memory, unless others' leaves came after."""
        if size == head.size:
            known = zip(prove.frontier_nodes(before.size), before.frontier.subtrees, strict=True)
            nodes = {(node.level, node.position): digest for node, digest in known}
            for entry in entries:
                nodes.update(entry.nodes)
            return prove.Fetched(nodes)
        wanted = {node for entry in entries for node in prove.inclusion_nodes(entry.index, size)}
        async with self._store.read() as unit:
            return prove.Fetched(await trees.nodes(unit, head.g, wanted))


def receipt_of(entry: Entry, signed: signing.Signed, reader: prove.HashReader) -> Appended:
    """Return a leaf with its receipt, which was checked as its reader will check it.

    Raises:
        BrokerError: `log_rolled_back` if the nodes do not lead to the signed root.
    """
    head = signed.checkpoint
    with refuse_as(Code.LOG_ROLLED_BACK, f"no proof for leaf {entry.index}"):
        proof = prove.inclusion_proof(entry.index, head.size, reader)
        verify_inclusion(entry.index, head.size, entry.hash, proof, head.root)
    receipt = Receipt(entry.index, proof, signed.note).encode()
    return Appended(entry.index, entry.raw, receipt, signed.note)


async def _swap(unit: Unit, old: TreeHead, new: TreeHead, done: _Batch) -> None:
    """Move the head, and add the leaves, only if it is still where the drafts saw it."""
    entries = done.written
    if not entries:
        # Refusals too count only if the head that they saw is still the head.
        row = await trees.tree(unit, old.g)
        if row is None or row.size != old.size:
            raise _HeadMoved
        return
    moved = await trees.advance(
        unit,
        old.g,
        old_size=old.size,
        size=new.size,
        frontier=new.frontier.encode(),
        epoch=new.epoch,
        state=new.state,
        last_time=new.time,
        state_map=None if done.state_map is None else canonical.encode(done.state_map),
    )
    if not moved:
        raise _HeadMoved
    leaves = [trees.LeafRow(e.index, e.hash, e.type, e.leaf.time, e.raw) for e in entries]
    nodes = [node for entry in entries for node in entry.nodes]
    await trees.add_leaves(unit, new.g, leaves, nodes)


def _as_log_error(error: BrokerError) -> BrokerError:
    """Say `log_unavailable` where the database failed under the log: callers need not know more."""
    if error.code is not Code.DATABASE_UNAVAILABLE:
        return error
    return BrokerError(Code.LOG_UNAVAILABLE, error.detail, error.reasons)
