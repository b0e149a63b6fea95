"""What goes into the log: a draft looks at the head and gives a leaf, or refuses.

Guarantees: `TreeHead.follow` accepts a leaf only if it belongs to this tree, its time does not go
back, and epoch and state digest follow the rules of `verifier.wire.leaf`. The HSM worker checks the
same again and believes none of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Protocol, final

from broker.errors import BrokerError, Code
from broker.store.database import Unit
from verifier.tlog.merkle import Frontier, Node, leaf_hash
from verifier.wire import canonical
from verifier.wire.leaf import CHANGES, MAX_LEAF, AnyLeaf, GenesisLeaf, StateMap

NO_EPOCH: Final = -1
"""Epoch of a tree without leaves; leaf 0 raises it to 0."""


@final
@dataclass(frozen=True, slots=True)
class Prepared:
    """A draft's yes. `state_map` is the map after the leaf, and None unless the leaf changes it.

    Every leaf of `verifier.wire.leaf.CHANGES` brings its map, also where the map stays the same.
    `before` are leaves, none of them such a one, that come right before it, or none of all.
    """

    leaf: AnyLeaf
    state_map: StateMap | None = None
    before: tuple[AnyLeaf, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Appended:
    """A leaf in the log: `receipt` is the C2SP tlog-proof under `checkpoint`, the signed note."""

    index: int
    leaf: bytes
    receipt: bytes
    checkpoint: bytes


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """A leaf that follows a head, with the subtrees that it completes."""

    index: int
    leaf: AnyLeaf
    raw: bytes
    hash: bytes
    nodes: tuple[tuple[Node, bytes], ...]

    @property
    def type(self) -> str:
        """The leaf's tag on the wire."""
        return str(self.leaf.__struct_config__.tag)


@final
@dataclass(frozen=True, slots=True)
class TreeHead:
    """The end of a tree. `state` is the digest of the state map, `time` the last leaf's."""

    g: bytes
    frontier: Frontier
    epoch: int
    state: bytes
    time: int

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self.frontier.size

    def not_before(self, now: int) -> int:
        """Return `now`, or the last leaf's time if that is later: times never go down."""
        return max(now, self.time)

    def follow_all(self, prepared: Prepared) -> tuple[TreeHead, tuple[Entry, ...]]:
        """Return the head after a draft's leaves, and the leaves; the draft's own is the last.

        Raises:
            BrokerError: as `follow`.
        """
        head, entries = self, []
        for leaf in prepared.before:
            head, entry = head.follow(Prepared(leaf))
            entries.append(entry)
        head, entry = head.follow(prepared)
        return head, (*entries, entry)

    def follow(self, prepared: Prepared) -> tuple[TreeHead, Entry]:
        """Return the head after a draft's own leaf, and the leaf as it will be stored.

        Raises:
            BrokerError: `too_large`, or `internal` for a leaf that must not follow: a mistake of
                ours, found before the worker would refuse it for ever.
        """
        leaf, state_map = prepared.leaf, prepared.state_map
        changes = isinstance(leaf, CHANGES)
        expected_epoch = self.epoch + 1 if changes else self.epoch
        expected_state = self.state if state_map is None else state_map.digest()
        follows = (
            leaf.genesis == self.g
            and leaf.time >= self.time
            and leaf.epoch == expected_epoch
            and leaf.state == expected_state
            and changes == (state_map is not None)
            and isinstance(leaf, GenesisLeaf) == (self.size == 0)
        )
        if not follows:
            raise BrokerError(
                Code.INTERNAL, f"{type(leaf).__name__} does not follow leaf {self.size - 1}"
            )
        raw = canonical.encode(leaf)
        if len(raw) > MAX_LEAF:
            raise BrokerError(Code.TOO_LARGE, f"leaf of {len(raw)} bytes, limit {MAX_LEAF}")
        digest = leaf_hash(raw)
        frontier, nodes = self.frontier.grow(digest)
        head = replace(
            self, frontier=frontier, epoch=leaf.epoch, state=bytes(leaf.state), time=leaf.time
        )
        return head, Entry(self.size, leaf, raw, digest, nodes)


class Draft(Protocol):
    """Something that wants to become a leaf."""

    async def prepare(self, unit: Unit, head: TreeHead) -> Prepared:
        """Return the leaf that follows `head`, or refuse.

        Runs inside the transaction that writes the leaf: reads through `unit` and, after all its
        checks, writes the rows that go with the leaf. It may run again if the head moved meanwhile.

        Raises:
            BrokerError: the refusal; nothing of this draft is then written.
        """
