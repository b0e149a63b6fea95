"""Getting a checkpoint over what is stored, from a worker that believes only its own head.

Guarantees: leaves go to the worker only if the stored tree extends the worker's head; a stored tree
that is shorter, or differs under that head, is `log_rolled_back` and nothing is signed. A
checkpoint is returned only if the tenant's log key signed it and its root is that of the stored
tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from broker.errors import BrokerError, Code, refuse_as
from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.protocol import Head
from broker.log.draft import TreeHead
from broker.log.signer import Signer
from broker.log.state import head_of
from broker.store.database import Store, Unit
from broker.store.rows import trees
from broker.tenants.record import Tenant
from verifier.errors import VerifierError
from verifier.tlog import prove
from verifier.tlog.checkpoint import Checkpoint, open_checkpoint
from verifier.tlog.merkle import Frontier, leaf_hash

MAX_AT_ONCE: Final = 512
"""Leaves that are read for one call of the worker when it has to catch up."""

_TRIES: Final = 4


@final
@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint: the note, and what it says."""

    note: bytes
    checkpoint: Checkpoint


async def stored_frontier(unit: Unit, g: bytes, size: int) -> Frontier:
    """Return the frontier of the first `size` stored leaves.

    Raises:
        BrokerError: `log_rolled_back` if stored nodes are missing.
    """
    nodes = await trees.nodes(unit, g, prove.frontier_nodes(size))
    with refuse_as(Code.LOG_ROLLED_BACK, "the stored tree lost nodes"):
        return prove.frontier(size, prove.Fetched(nodes))


async def compare(unit: Unit, head: TreeHead, worker: Head) -> Frontier:
    """Return the stored frontier at the worker's size, if the stored tree extends that one.

    Raises:
        BrokerError: `log_rolled_back`.
    """
    if worker.size > head.size:
        raise BrokerError(
            Code.LOG_ROLLED_BACK,
            f"the database has {head.size} leaves of {head.g.hex()[:16]}, the HSM worker signed "
            f"{worker.size}: an older database was put back",
        )
    at_worker = await stored_frontier(unit, head.g, worker.size)
    same_end = (worker.epoch, worker.state, worker.time) == (head.epoch, head.state, head.time)
    if at_worker.root() != worker.root or (0 < worker.size == head.size and not same_end):
        raise BrokerError(
            Code.LOG_ROLLED_BACK,
            f"the database has another history of {head.g.hex()[:16]} under leaf {worker.size} "
            "than the HSM worker signed",
        )
    return at_worker


async def catch_up(store: Store, signer: Signer, tenant: Tenant, head: TreeHead) -> Signed | None:
    """Have everything up to `head` signed, whoever left it unsigned; None if there is no leaf.

    Also finds out whether database and worker agree; so this is what a start does with every tree.

    Raises:
        BrokerError: `log_rolled_back`, or `log_unavailable`.
    """
    for _ in range(_TRIES):
        worker = await worker_head(signer, head.g)
        if worker.size == 0 == head.size:
            return None
        async with store.read() as unit:
            known = await compare(unit, await _at_least(unit, head, worker.size), worker)
            unsigned = await trees.leaves(unit, head.g, worker.size, head.size)
        if worker.size >= head.size:
            return await accept(store, tenant, head, worker.checkpoint)
        # What is stored as leaves must make the stored tree, before the worker takes it for good.
        for raw in unsigned:
            known = known.append(leaf_hash(raw))
        if known != head.frontier:
            raise BrokerError(
                Code.LOG_ROLLED_BACK, "stored leaves do not make the stored tree; nothing is signed"
            )
        # The checkpoint comes with the next look, which also compares epoch and state.
        await extend(signer, head.g, worker.size, unsigned)
    raise BrokerError(Code.LOG_UNAVAILABLE, "the head of the log keeps moving")


async def worker_head(signer: Signer, g: bytes) -> Head:
    """Return the worker's head.

    Raises:
        BrokerError: `log_unavailable`.
    """
    try:
        return await signer.head(g)
    except HsmError as error:
        raise BrokerError(Code.LOG_UNAVAILABLE, f"HSM worker: {error.detail}") from error


async def extend(signer: Signer, g: bytes, start: int, leaves: Sequence[bytes]) -> bytes | None:
    """Return the checkpoint after `leaves`, or None if the worker's head is not at `start`.

    The worker's head is durable before it answers. A crash here leaves leaves signed whose
    checkpoint nobody stored; `catch_up` fetches it.

    Raises:
        BrokerError: `log_unavailable`.
    """
    note = b""
    try:
        for at in range(0, len(leaves), MAX_AT_ONCE):
            note = await signer.extend(g, start + at, tuple(leaves[at : at + MAX_AT_ONCE]))
    except HsmError as error:
        if error.reason is HsmReason.HEAD_MISMATCH:
            return None
        raise BrokerError(
            Code.LOG_UNAVAILABLE, f"HSM worker did not sign: {error.reason.value}: {error.detail}"
        ) from error
    return note


async def accept(store: Store, tenant: Tenant, head: TreeHead, note: bytes) -> Signed:
    """Check a checkpoint as a stranger would, compare it with the stored tree, and store it.

    A crash before the commit leaves an older checkpoint in the database, and the newer one with the
    worker; receipts are handed out only afterwards.

    Raises:
        BrokerError: `log_rolled_back` if it is of another tree, `log_unavailable`.
    """
    try:
        found = open_checkpoint(note, tenant.origin, tenant.vkey)
    except VerifierError as error:
        raise BrokerError(
            Code.LOG_UNAVAILABLE, "the HSM worker's checkpoint does not verify", (str(error),)
        ) from error
    if found.size < head.size:
        raise BrokerError(Code.LOG_UNAVAILABLE, f"checkpoint over {found.size} of {head.size}")
    if found.size == head.size:
        root = head.frontier.root()
    else:  # another broker was faster; its leaves stand in the same database
        async with store.read() as unit:
            root = (await stored_frontier(unit, head.g, found.size)).root()
    if root != found.root:
        raise BrokerError(Code.LOG_ROLLED_BACK, "the HSM worker signed another tree than is stored")
    async with store.write() as unit:
        await trees.signed(unit, head.g, found.size, note)
    return Signed(note, found)


async def _at_least(unit: Unit, head: TreeHead, size: int) -> TreeHead:
    """Return `head`, or the stored one if the worker is further than `head`."""
    if size <= head.size:
        return head
    row = await trees.tree(unit, head.g)
    return head if row is None else head_of(row)
