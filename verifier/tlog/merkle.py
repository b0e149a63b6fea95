"""The Merkle tree of the log: hashes, the frontier that grows, and checking proofs.

Guarantees: `verify_inclusion` and `verify_consistency` return only if the proof leads to the given
roots, and raise nothing but `VerifierError`. An inclusion proof does not bind the tree size (some
sizes share a path): take size and root from one signed checkpoint, never from two places.
Specification: RFC 6962 §2.1 and RFC 9162 §2.1, with SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, Self, final

from verifier.errors import Reason, VerifierError
from verifier.tlog.encoding import HASH_SIZE, MAX_SIZE, require_count, require_hash

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root hash of the tree without leaves."""

MAX_PROOF = MAX_SIZE.bit_length() + 1
"""Most hashes in a proof: one a level, and one more that starts a consistency proof."""

_SIZE_BYTES = 8


class Node(NamedTuple):
    """A complete subtree: it covers the leaves from `position << level`, `1 << level` of them."""

    level: int
    position: int


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf, H(0x00 ‖ entry). RFC 6962 §2.1."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node, H(0x01 ‖ left ‖ right). RFC 6962 §2.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def fold(subtrees: Sequence[bytes]) -> bytes:
    """Return the root over neighbouring complete subtrees, largest first; of none, `EMPTY_ROOT`."""
    if not subtrees:
        return EMPTY_ROOT
    return reduce(lambda right, left: node_hash(left, right), reversed(subtrees))


def completed(index: int) -> tuple[Node, ...]:
    """List the subtrees that become complete when leaf number `index` is appended, lowest first.

    These are the rows that a store adds for this leaf; two a leaf on average.

    Raises:
        VerifierError: `malformed` if `index` is out of range.
    """
    require_count(index, "leaf index")
    height = (~index & (index + 1)).bit_length() - 1  # the ones that `index` ends in
    return tuple(Node(level, index >> level) for level in range(height + 1))


@final
@dataclass(frozen=True, slots=True)
class Frontier:
    """All that is needed to append to a tree: its size and the roots of its complete subtrees.

    `subtrees` has one hash for each one-bit of `size`, largest subtree first.

    Raises:
        VerifierError: `malformed`, on making one whose parts do not fit.
    """

    size: int = 0
    subtrees: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        require_count(self.size, "tree size")
        if len(self.subtrees) != self.size.bit_count():
            raise VerifierError(
                Reason.MALFORMED,
                f"frontier of {self.size} leaves: expected {self.size.bit_count()} hashes, "
                f"seen {len(self.subtrees)}",
            )
        for subtree in self.subtrees:
            require_hash(subtree, "frontier hash")

    def root(self) -> bytes:
        """Return the root hash of the tree."""
        return fold(self.subtrees)

    def append(self, leaf: bytes) -> Frontier:
        """Return the frontier after the leaf whose leaf hash is `leaf`.

        Raises:
            VerifierError: `malformed` if `leaf` is not a hash or the tree is full.
        """
        return self.grow(leaf)[0]

    def grow(self, leaf: bytes) -> tuple[Frontier, tuple[tuple[Node, bytes], ...]]:
        """Return `append(leaf)` and, with their hashes, the subtrees that this leaf completes.

        The nodes are those of `completed(self.size)`; storing them beside the leaf is all that
        `verifier.tlog.prove` ever reads.

        Raises:
            VerifierError: `malformed` if `leaf` is not a hash or the tree is full.
        """
        current = require_hash(leaf, "leaf hash")
        subtrees = list(self.subtrees)
        nodes: list[tuple[Node, bytes]] = []
        for node in completed(self.size):
            if node.level > 0:
                current = node_hash(subtrees.pop(), current)
            nodes.append((node, current))
        return Frontier(self.size + 1, (*subtrees, current)), tuple(nodes)

    def encode(self) -> bytes:
        """Return the stored form: size as u64 big-endian, then the hashes."""
        return self.size.to_bytes(_SIZE_BYTES) + b"".join(self.subtrees)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Return the frontier that `encode` printed as `raw`.

        Raises:
            VerifierError: `malformed`.
        """
        size, rest = int.from_bytes(raw[:_SIZE_BYTES]), raw[_SIZE_BYTES:]
        if len(raw) != _SIZE_BYTES + HASH_SIZE * size.bit_count():
            raise VerifierError(Reason.MALFORMED, f"not a frontier: {len(raw)} bytes")
        starts = range(0, len(rest), HASH_SIZE)
        return cls(size, tuple(rest[start : start + HASH_SIZE] for start in starts))


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Return the root hash over whole `leaves` (entries, not hashes), for who has them all.

    Raises:
        VerifierError: `malformed` beyond 2^63-1 leaves.
    """
    return reduce(lambda tree, entry: tree.append(leaf_hash(entry)), leaves, Frontier()).root()


def verify_inclusion(
    index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf with leaf hash `leaf` stands at `index` in the tree (`size`, `root`).

    The algorithm is RFC 9162 §2.1.3.2, with its names.

    Args:
        index: zero-based position of the leaf.
        size: number of leaves.
        leaf: the leaf's hash, from `leaf_hash`.
        proof: the hashes, from the leaf's sibling up.
        root: root hash of the checkpoint.

    Raises:
        VerifierError: `log_proof`, or `malformed` where a number or hash is none.
    """
    require_count(index, "leaf index")
    require_count(size, "tree size")
    _require_hashes(proof, leaf, root)
    if index >= size:
        raise VerifierError(Reason.LOG_PROOF, f"leaf {index} is not in a tree of {size} leaves")
    fn, sn, computed = index, size - 1, leaf
    for sibling in proof:
        if sn == 0:
            raise VerifierError(Reason.LOG_PROOF, "inclusion proof is too long")
        if fn & 1 or fn == sn:
            computed = node_hash(sibling, computed)
            fn, sn = _climb(fn, sn)
        else:
            computed = node_hash(computed, sibling)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise VerifierError(Reason.LOG_PROOF, "inclusion proof is too short")
    _require_root(computed, root, f"leaf {index} in a tree of {size} leaves")


def verify_consistency(
    old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    """Check that the new tree is the old one with leaves added at its end.

    The algorithm is RFC 9162 §2.1.4.2, with its names. Equal sizes need equal roots and no proof.
    Every tree extends the empty one, which RFC 9162 leaves out: the proof is empty, as C2SP
    tlog-witness has it, and the old root must be that of the empty tree.

    Raises:
        VerifierError: `log_proof`, or `malformed` where a number or hash is none.
    """
    require_count(old_size, "old tree size")
    require_count(new_size, "new tree size")
    _require_hashes(proof, old_root, new_root)
    if old_size > new_size:
        raise VerifierError(Reason.LOG_PROOF, f"tree shrank from {old_size} to {new_size} leaves")
    if old_size in (0, new_size):
        _verify_without_proof(old_size, new_size, proof, old_root, new_root)
        return
    # A complete old tree is its own first node, so the proof leaves it out.
    path = [old_root, *proof] if old_size.bit_count() == 1 else list(proof)
    if not path:
        raise VerifierError(Reason.LOG_PROOF, "consistency proof is empty")
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for node in path[1:]:
        if sn == 0:
            raise VerifierError(Reason.LOG_PROOF, "consistency proof is too long")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(node, fr), node_hash(node, sr)
            fn, sn = _climb(fn, sn)
        else:
            sr = node_hash(sr, node)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise VerifierError(Reason.LOG_PROOF, "consistency proof is too short")
    _require_root(fr, old_root, f"old tree of {old_size} leaves")
    _require_root(sr, new_root, f"new tree of {new_size} leaves")


def _verify_without_proof(
    old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    if proof:
        raise VerifierError(Reason.LOG_PROOF, "consistency proof must be empty here")
    if new_size == 0:
        _require_root(EMPTY_ROOT, new_root, "tree of 0 leaves")
    computed = EMPTY_ROOT if old_size == 0 else new_root
    _require_root(computed, old_root, f"tree of {old_size} leaves")


def _climb(fn: int, sn: int) -> tuple[int, int]:
    """Skip the levels on which the rightmost node has no sibling."""
    while fn and not fn & 1:
        fn, sn = fn >> 1, sn >> 1
    return fn, sn


def _require_hashes(proof: Sequence[bytes], *ends: bytes) -> None:
    if len(proof) > MAX_PROOF:
        raise VerifierError(Reason.TOO_LARGE, f"proof of {len(proof)} hashes, limit {MAX_PROOF}")
    for value in (*proof, *ends):
        require_hash(value, "hash in or beside the proof")


def _require_root(computed: bytes, expected: bytes, what: str) -> None:
    if computed != expected:
        raise VerifierError(
            Reason.LOG_PROOF,
            f"{what}: expected root {expected.hex()}, the proof leads to {computed.hex()}",
        )
