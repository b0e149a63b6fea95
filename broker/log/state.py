"""Rows are a cache, the log is the truth: reading key rows only as far as both agree.

Guarantees: what `load` returns hashes to the state digest of the head *and* of the newest leaf, so
a swapped blob, a row put back to an earlier state or an older policy is `state_mismatch` before it
is used. A whole database put back agrees with itself; that is found by the HSM worker, which keeps
the head outside of it (`log_rolled_back`, or `state_moved` at release).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from broker.errors import BrokerError, Code, refuse_as
from broker.log.draft import TreeHead
from broker.store.database import Unit
from broker.store.rows import keys, trees
from broker.tenants import record
from broker.tenants.record import Tenant
from verifier.errors import VerifierError
from verifier.tlog.merkle import Frontier
from verifier.wire import canonical
from verifier.wire import leaf as leaves
from verifier.wire.canonical import Hex
from verifier.wire.leaf import KeyEntry, KeyState, StateMap
from verifier.wire.messages import KeyRef


@final
@dataclass(frozen=True, slots=True)
class State:
    """The state of a tenant that log and rows agree on, and the rows behind it."""

    tenant: Tenant
    head: TreeHead
    map: StateMap
    rows: Mapping[KeyRef, keys.KeyRow]


def head_of(row: trees.TreeRow) -> TreeHead:
    """Return the head that a row of `trees` says.

    Raises:
        BrokerError: `log_rolled_back` if the row contradicts itself.
    """
    with refuse_as(Code.LOG_ROLLED_BACK, "stored head is damaged"):
        frontier = Frontier.decode(row.frontier)
    if frontier.size != row.size:
        raise BrokerError(
            Code.LOG_ROLLED_BACK,
            f"stored head is damaged: size {row.size}, frontier of {frontier.size}",
        )
    return TreeHead(row.g, frontier, row.epoch, row.state, row.last_time)


async def load(unit: Unit, g: bytes) -> State:
    """Return the state of tenant `g` at the newest leaf.

    Raises:
        BrokerError: `state_mismatch` with the keys that differ, `not_found`, `log_rolled_back`.
    """
    tenant = await record.by_genesis(unit, g)
    # 1. The head, and the newest leaf; every leaf carries epoch and digest, so both must agree.
    row = await trees.tree(unit, g)
    if row is None or row.size == 0:
        raise BrokerError(Code.NOT_FOUND, f"tenant {tenant.name} is not enrolled yet")
    head = head_of(row)
    newest = await trees.leaves(unit, g, head.size - 1, head.size)
    if len(newest) != 1:
        raise BrokerError(Code.LOG_ROLLED_BACK, f"leaf {head.size - 1} is missing")
    with refuse_as(Code.STATE_MISMATCH, "newest leaf is damaged"):
        last = leaves.decode(newest[0])
    if (last.epoch, bytes(last.state), last.time) != (head.epoch, head.state, head.time):
        raise BrokerError(Code.STATE_MISMATCH, "stored head and newest leaf disagree")
    # 2. The rows must make the map that both name.
    return await _agree(unit, tenant, head)


async def at(unit: Unit, head: TreeHead) -> State:
    """Return the state at `head`; for drafts, whose transaction has not written its leaves yet.

    Raises:
        BrokerError: `state_mismatch`, `not_found`.
    """
    return await _agree(unit, await record.by_genesis(unit, head.g), head)


async def _agree(unit: Unit, tenant: Tenant, head: TreeHead) -> State:
    rows = await keys.of_tenant(unit, tenant.g)
    found = _build(tenant, rows)
    if found.digest() != head.state:
        row = await trees.tree(unit, tenant.g)
        raise BrokerError(
            Code.STATE_MISMATCH,
            f"key rows of {tenant.name} are not what leaf {head.size - 1} says",
            _differences(found, b"" if row is None else row.state_map, head.state),
        )
    return State(tenant, head, found, {KeyRef(r.id, r.version): r for r in rows})


async def load_state(unit: Unit, g: bytes) -> StateMap:
    """Return the state map alone; see `load`."""
    return (await load(unit, g)).map


def _build(tenant: Tenant, rows: Sequence[keys.KeyRow]) -> StateMap:
    try:
        entries = [_entry(row) for row in rows]
        return StateMap(
            v=1,
            genesis=Hex(tenant.g),
            signers=Hex(tenant.genesis.signers_digest()),
            keys=tuple(sorted(entries, key=lambda entry: entry.ref())),
        )
    except (VerifierError, ValueError) as error:
        raise BrokerError(
            Code.STATE_MISMATCH, f"a key row of {tenant.name} cannot be read", (str(error),)
        ) from error


def _entry(row: keys.KeyRow) -> KeyEntry:
    return KeyEntry(
        id=row.id,
        version=row.version,
        state=KeyState(row.state),
        blob=Hex(hashlib.sha256(row.blob).digest()),
        manifest=Hex(row.manifest),
        kek=row.kek,
        policy=Hex(row.policy),
        policy_version=row.policy_version,
    )


def _differences(found: StateMap, stored: bytes, digest: bytes) -> tuple[str, ...]:
    """Name the rows that differ from the stored map, if that one is still what the log names."""
    if hashlib.sha256(stored).digest() != digest:
        return ("which rows differ is not known: the stored copy of the map is not the log's",)
    expected = canonical.decode(stored, StateMap)
    names = {entry.ref() for entry in (*found.keys, *expected.keys)}
    return tuple(
        f"key {ref.id}/{ref.version}: the log says {_show(expected.find(ref))}, "
        f"the row says {_show(found.find(ref))}"
        for ref in sorted(names)
        if found.find(ref) != expected.find(ref)
    )


def _show(entry: KeyEntry | None) -> str:
    if entry is None:
        return "nothing"
    return f"{entry.state.value}, blob {entry.blob.hex()[:16]}, policy v{entry.policy_version}"
