"""Rows of `trees`, `leaves` and `nodes`: the log as it is stored.

`advance` is the one compare-and-swap that keeps a tree from forking: it also tests the old size, so
its safety does not rest on which connection or isolation level is in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, final

import sqlalchemy as sa

from broker.store import schema
from broker.store.database import Unit
from verifier.tlog.merkle import Node

_T: Final = schema.trees
_L: Final = schema.leaves
_N: Final = schema.nodes
_g: Final[sa.BindParameter[bytes]] = sa.bindparam("g")

_TREE: Final = sa.select(_T).where(_T.c.g == _g)
_TREES: Final = sa.select(_T.c.g).order_by(_T.c.g)
_ADVANCE: Final = (
    sa.update(_T)
    .where(_T.c.g == sa.bindparam("at"), _T.c.size == sa.bindparam("old_size"))
    .values({n: sa.bindparam(n) for n in ("size", "frontier", "epoch", "state", "last_time")})
)
_ADVANCE_MAP: Final = _ADVANCE.values(state_map=sa.bindparam("state_map"))
_SIGNED: Final = (
    sa.update(_T)
    .where(_T.c.g == sa.bindparam("at"), _T.c.signed_size <= sa.bindparam("signed_size"))
    .values(signed_size=sa.bindparam("signed_size"), checkpoint=sa.bindparam("checkpoint"))
)
_LEAVES: Final = (
    sa.select(_L.c.leaf)
    .where(_L.c.g == _g, _L.c.idx >= sa.bindparam("start"), _L.c.idx < sa.bindparam("end"))
    .order_by(_L.c.idx)
)
_LEAF_INDEX: Final = sa.select(_L.c.idx).where(_L.c.g == _g, _L.c.hash == sa.bindparam("hash"))


@final
@dataclass(frozen=True, slots=True)
class TreeRow:
    """A stored head: `signed_size` leaves are under `checkpoint`; -1 is the epoch before leaf 0."""

    g: bytes
    size: int
    frontier: bytes
    epoch: int
    state: bytes
    state_map: bytes
    last_time: int
    signed_size: int
    checkpoint: bytes


@final
@dataclass(frozen=True, slots=True)
class LeafRow:
    """A leaf as it is stored; `hash` is its RFC 6962 leaf hash, `time` unix seconds."""

    idx: int
    hash: bytes
    type: str
    time: int
    leaf: bytes


async def insert(unit: Unit, row: TreeRow) -> bool:
    """Add a tree, and tell whether it was new."""
    return await unit.insert_once(_T, {name: getattr(row, name) for name in row.__slots__})


async def tree(unit: Unit, g: bytes) -> TreeRow | None:
    """Return the stored head of tree `g`."""
    row = await unit.first(_TREE, {"g": g})
    return None if row is None else TreeRow(*row)


async def every_tree(unit: Unit) -> tuple[bytes, ...]:
    """Return the genesis digest of every tree."""
    return tuple(row.g for row in await unit.all(_TREES))


async def advance(
    unit: Unit,
    g: bytes,
    *,
    old_size: int,
    size: int,
    frontier: bytes,
    epoch: int,
    state: bytes,
    last_time: int,
    state_map: bytes | None,
) -> bool:
    """Move the head on from `old_size`, if it is still there, and tell whether it was.

    Args:
        unit: a writing transaction.
        g: the tree.
        old_size: where the head must be.
        size: where it goes; the rest is what holds there.
        frontier: encoded `Frontier`.
        epoch: state epoch.
        state: digest of the state map.
        last_time: the last leaf's time.
        state_map: the map's bytes, None to leave them.
    """
    values: dict[str, object] = {
        "at": g,
        "old_size": old_size,
        "size": size,
        "frontier": frontier,
        "epoch": epoch,
        "state": state,
        "last_time": last_time,
    }
    if state_map is None:
        return await unit.run(_ADVANCE, values) == 1
    return await unit.run(_ADVANCE_MAP, values | {"state_map": state_map}) == 1


async def signed(unit: Unit, g: bytes, size: int, checkpoint: bytes) -> None:
    """Store the checkpoint over `size` leaves, unless a newer one is there."""
    await unit.run(_SIGNED, {"at": g, "signed_size": size, "checkpoint": checkpoint})


async def add_leaves(
    unit: Unit, g: bytes, leaves: Sequence[LeafRow], nodes: Iterable[tuple[Node, bytes]]
) -> None:
    """Add leaves and the subtrees that they complete."""
    await unit.run(
        sa.insert(_L),
        [{"g": g, **{name: getattr(leaf, name) for name in leaf.__slots__}} for leaf in leaves],
    )
    await unit.run(
        sa.insert(_N),
        [
            {"g": g, "level": node.level, "idx": node.position, "hash": digest}
            for node, digest in nodes
        ],
    )


async def leaves(unit: Unit, g: bytes, start: int, end: int) -> tuple[bytes, ...]:
    """Return the leaves [start, end) that are there, in order."""
    found = await unit.all(_LEAVES, {"g": g, "start": start, "end": end})
    return tuple(row.leaf for row in found)


async def leaf_index(unit: Unit, g: bytes, digest: bytes) -> int | None:
    """Return the index of the leaf with leaf hash `digest`."""
    row = await unit.first(_LEAF_INDEX, {"g": g, "hash": digest})
    return None if row is None else int(row.idx)


async def nodes(unit: Unit, g: bytes, wanted: Iterable[Node]) -> dict[tuple[int, int], bytes]:
    """Return those of the `wanted` subtree hashes that are there."""
    by_level: dict[int, set[int]] = {}
    for node in wanted:
        by_level.setdefault(node.level, set()).add(node.position)
    if not by_level:
        return {}
    # One OR arm a level: portable, unlike row values, and at most 63 arms.
    places = [
        sa.and_(_N.c.level == level, _N.c.idx.in_(sorted(positions)))
        for level, positions in sorted(by_level.items())
    ]
    found = await unit.all(
        sa.select(_N.c.level, _N.c.idx, _N.c.hash).where(_N.c.g == g, sa.or_(*places))
    )
    return {(row.level, row.idx): row.hash for row in found}
