"""Making proofs from stored subtree hashes, with a number of reads that grows as log n.

Guarantees: a proof made here from a faithful store verifies; an unfaithful store gives a proof that
does not, or a `VerifierError`, never a wrong acceptance. Reads nothing by itself: `*_nodes` says
which nodes to fetch (one query for an asynchronous database), and the proof is then made from them.
Specification: PATH and PROOF of RFC 6962 §2.1.1 and §2.1.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, final

from verifier.errors import Reason, VerifierError
from verifier.tlog.encoding import require_count, require_hash
from verifier.tlog.merkle import Frontier, Node, fold


class HashReader(Protocol):
    """Where the hashes of complete subtrees come from."""

    def get(self, level: int, position: int) -> bytes:
        """Return the hash of the complete subtree `Node(level, position)`; level 0: a leaf hash."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Fetched:
    """Nodes read beforehand, as a `HashReader`."""

    nodes: Mapping[tuple[int, int], bytes]

    def get(self, level: int, position: int) -> bytes:
        """Return a fetched hash.

        Raises:
            VerifierError: `log_proof` if the store did not have it.
        """
        found = self.nodes.get((level, position))
        if found is None:
            raise VerifierError(Reason.LOG_PROOF, f"the log lost node {position} of level {level}")
        return found


@final
class MemoryTree:
    """A whole tree in memory, for auditors who have every leaf, and for tests."""

    __slots__ = ("_frontier", "_nodes")

    def __init__(self, leaf_hashes: Iterable[bytes] = ()) -> None:
        self._frontier = Frontier()
        self._nodes: dict[tuple[int, int], bytes] = {}
        for leaf in leaf_hashes:
            self.append(leaf)

    @property
    def frontier(self) -> Frontier:
        """Size and root of the tree now."""
        return self._frontier

    def append(self, leaf: bytes) -> None:
        """Append the leaf with leaf hash `leaf`.

        Raises:
            VerifierError: `malformed` if `leaf` is not a hash.
        """
        self._frontier, nodes = self._frontier.grow(leaf)
        self._nodes.update(nodes)

    def get(self, level: int, position: int) -> bytes:
        """Return a subtree's hash.

        Raises:
            VerifierError: `log_proof` if that subtree is not complete.
        """
        return Fetched(self._nodes).get(level, position)


def frontier_nodes(size: int) -> tuple[Node, ...]:
    """List the nodes that `frontier` and `root` read: at most 63.

    Raises:
        VerifierError: `malformed` if `size` is out of range.
    """
    return _cover(0, require_count(size, "tree size"))


def inclusion_nodes(index: int, size: int) -> tuple[Node, ...]:
    """List the nodes that `inclusion_proof` reads: at most twice the height of the tree.

    Raises:
        VerifierError: `log_proof` or `malformed` if there is no such proof.
    """
    return tuple(chain.from_iterable(_inclusion_plan(index, size)))


def consistency_nodes(old_size: int, new_size: int) -> tuple[Node, ...]:
    """List the nodes that `consistency_proof` reads: at most twice the height of the tree.

    Raises:
        VerifierError: `log_proof` or `malformed` if there is no such proof.
    """
    return tuple(chain.from_iterable(_consistency_plan(old_size, new_size)))


def frontier(size: int, reader: HashReader) -> Frontier:
    """Return the frontier of the first `size` leaves.

    Raises:
        VerifierError: `malformed`, or what `reader` raises.
    """
    return Frontier(size, tuple(_read(reader, node) for node in frontier_nodes(size)))


def root(size: int, reader: HashReader) -> bytes:
    """Return the root hash over the first `size` leaves.

    Raises:
        VerifierError: `malformed`, or what `reader` raises.
    """
    return frontier(size, reader).root()


def inclusion_proof(index: int, size: int, reader: HashReader) -> tuple[bytes, ...]:
    """Return the proof that leaf `index` stands in the tree of the first `size` leaves.

    Raises:
        VerifierError: `log_proof` or `malformed` if there is no such proof; what `reader` raises.
    """
    return _assemble(_inclusion_plan(index, size), reader)


def consistency_proof(old_size: int, new_size: int, reader: HashReader) -> tuple[bytes, ...]:
    """Return the proof that the tree of `new_size` leaves extends the one of `old_size`.

    Empty if the sizes are equal or the old tree is.

    Raises:
        VerifierError: `log_proof` or `malformed` if there is no such proof; what `reader` raises.
    """
    return _assemble(_consistency_plan(old_size, new_size), reader)


def _inclusion_plan(index: int, size: int) -> list[tuple[Node, ...]]:
    """PATH(m, D[n]) of RFC 6962 §2.1.1, each hash as the complete subtrees that make it up."""
    require_count(index, "leaf index")
    require_count(size, "tree size")
    if index >= size:
        raise VerifierError(Reason.LOG_PROOF, f"leaf {index} is not in a tree of {size} leaves")
    start, end = 0, size
    plan: list[tuple[Node, ...]] = []
    while end - start > 1:
        middle = _split(start, end)
        if index < middle:
            plan.append(_cover(middle, end))
            end = middle
        else:
            plan.append(_cover(start, middle))
            start = middle
    plan.reverse()
    return plan


def _consistency_plan(old_size: int, new_size: int) -> list[tuple[Node, ...]]:
    """PROOF(m, D[n]) of RFC 6962 §2.1.2, each hash as the complete subtrees that make it up."""
    require_count(old_size, "old tree size")
    require_count(new_size, "new tree size")
    if old_size > new_size:
        raise VerifierError(Reason.LOG_PROOF, f"tree of {new_size} leaves is older than {old_size}")
    if old_size in (0, new_size):
        return []
    start, end = 0, new_size
    plan: list[tuple[Node, ...]] = []
    while end != old_size:
        middle = _split(start, end)
        if old_size <= middle:
            plan.append(_cover(middle, end))
            end = middle
        else:
            plan.append(_cover(start, middle))
            start = middle
    if start > 0:  # else what is left is the old tree itself, whose root the verifier has
        plan.append(_cover(start, end))
    plan.reverse()
    return plan


def _split(start: int, end: int) -> int:
    """Return where RFC 6962 splits leaves [start, end): after the largest power of two below."""
    return start + (1 << (end - start - 1).bit_length() - 1)


def _cover(start: int, end: int) -> tuple[Node, ...]:
    """Return the complete subtrees that make up leaves [start, end), largest first.

    `start` is a multiple of a power of two not below `end - start`, as every range of the RFC's
    recursion is, so the sizes are the one-bits of the length.
    """
    nodes: list[Node] = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return tuple(nodes)


def _assemble(plan: Sequence[tuple[Node, ...]], reader: HashReader) -> tuple[bytes, ...]:
    return tuple(fold([_read(reader, node) for node in nodes]) for nodes in plan)


def _read(reader: HashReader, node: Node) -> bytes:
    return require_hash(reader.get(node.level, node.position), "stored subtree hash")
