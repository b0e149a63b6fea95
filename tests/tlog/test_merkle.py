from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.tlog import outcome, refused
from verifier.errors import Reason
from verifier.tlog import encoding, merkle, prove
from verifier.tlog.merkle import Frontier, Node, verify_consistency, verify_inclusion

# The reference vectors of Certificate Transparency: eight leaves, the root of every prefix, and
# proofs, as published with the first CT implementation and used by most logs since.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
N01 = ROOTS[2]
N1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
N23 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
N4567 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
N4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
N67 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
N45 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"

SOME = 70


def flip(value: bytes) -> bytes:
    return bytes([value[0] ^ 1]) + value[1:]


def reference_root(hashes: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word for word: the slow recursion, to compare with."""
    if not hashes:
        return hashlib.sha256().digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    left, right = reference_root(hashes[:split]), reference_root(hashes[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_of(size: int) -> prove.MemoryTree:
    return prove.MemoryTree(merkle.leaf_hash(b"leaf %d" % number) for number in range(size))


TREE = tree_of(SOME)
ROOT = [prove.root(size, TREE) for size in range(SOME + 1)]


@pytest.mark.parametrize("size", range(9))
def test_reference_roots(size):
    """Every prefix of the CT reference leaves has its published root, however it is computed."""
    hashes = [merkle.leaf_hash(leaf) for leaf in LEAVES]
    assert merkle.root_of(LEAVES[:size]).hex() == ROOTS[size]
    assert prove.root(size, prove.MemoryTree(hashes)).hex() == ROOTS[size]
    assert reference_root(hashes[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (0, 8, [N1, N23, N4567]),
        (5, 8, [N4, N67, ROOTS[4]]),
        (2, 3, [N01]),
        (1, 5, [ROOTS[1], N23, N4]),
    ],
)
def test_reference_inclusion_proofs(index, size, path):
    """The published audit paths are made and verified."""
    tree = prove.MemoryTree(merkle.leaf_hash(leaf) for leaf in LEAVES)
    proof = [bytes.fromhex(value) for value in path]
    assert list(prove.inclusion_proof(index, size, tree)) == proof
    leaf = merkle.leaf_hash(LEAVES[index])
    verify_inclusion(index, size, leaf, proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [(1, 1, []), (1, 8, [N1, N23, N4567]), (6, 8, [N45, N67, ROOTS[4]]), (2, 5, [N23, N4])],
)
def test_reference_consistency_proofs(old, new, path):
    """The published consistency proofs are made and verified."""
    tree = prove.MemoryTree(merkle.leaf_hash(leaf) for leaf in LEAVES)
    proof = [bytes.fromhex(value) for value in path]
    assert list(prove.consistency_proof(old, new, tree)) == proof
    verify_consistency(old, new, proof, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new]))


def test_roots_agree_with_the_definition():
    """The frontier's root is RFC 6962's recursion, for every size up to 70."""
    hashes = [TREE.get(0, number) for number in range(SOME)]
    assert [reference_root(hashes[:size]) for size in range(SOME + 1)] == ROOT


def test_every_inclusion_proof_verifies_and_no_other_leaf_has_it():
    """All 2485 proofs up to 70 leaves verify; flipped, cut, padded or moved ones do not."""
    for size in range(1, SOME + 1):
        for index in range(size):
            proof = prove.inclusion_proof(index, size, TREE)
            leaf = TREE.get(0, index)
            verify_inclusion(index, size, leaf, proof, ROOT[size])
            bad = [
                (index, size, flip(leaf), proof, ROOT[size]),
                (index, size, leaf, proof, flip(ROOT[size])),
                (index, size, leaf, (*proof, leaf), ROOT[size]),
                (index ^ 1, size, leaf, proof, ROOT[size]),
                (size, size, leaf, proof, ROOT[size]),
                (index, size - 1, leaf, proof, ROOT[size - 1]),
            ]
            if proof:
                at = (index + size) % len(proof)
                changed = (*proof[:at], flip(proof[at]), *proof[at + 1 :])
                bad += [
                    (index, size, leaf, proof[:-1], ROOT[size]),
                    (index, size, leaf, proof[1:], ROOT[size]),
                    (index, size, leaf, changed, ROOT[size]),
                ]
            for args in bad:
                refused(Reason.LOG_PROOF, verify_inclusion, *args)


def test_every_consistency_proof_verifies_and_no_other_history_has_it():
    """All proofs between sizes up to 70 verify; flipped, cut, padded or shifted ones do not."""
    for new in range(SOME + 1):
        for old in range(new + 1):
            proof = prove.consistency_proof(old, new, TREE)
            verify_consistency(old, new, proof, ROOT[old], ROOT[new])
            bad = [
                (old, new, proof, flip(ROOT[old]), ROOT[new]),
                (old, new, (*proof, ROOT[old]), ROOT[old], ROOT[new]),
            ]
            if old > 0:
                bad += [
                    (old, new, proof, ROOT[old], flip(ROOT[new])),
                    (old - 1, new, proof, ROOT[old], ROOT[new]),
                ]
            if old < new:
                bad.append((new, old, proof, ROOT[new], ROOT[old]))
            if proof:
                at = (old + new) % len(proof)
                changed = (*proof[:at], flip(proof[at]), *proof[at + 1 :])
                bad += [
                    (old, new, proof[:-1], ROOT[old], ROOT[new]),
                    (old, new, proof[1:], ROOT[old], ROOT[new]),
                    (old, new, changed, ROOT[old], ROOT[new]),
                ]
            for args in bad:
                refused(Reason.LOG_PROOF, verify_consistency, *args)


def test_an_inner_node_is_no_leaf():
    """A path of another length than the tree's is refused although it leads to the root."""
    left, right = TREE.get(1, 0), TREE.get(1, 1)
    assert merkle.node_hash(left, right) == ROOT[4]
    refused(Reason.LOG_PROOF, verify_inclusion, 0, 4, left, [right], ROOT[4])
    refused(Reason.LOG_PROOF, verify_inclusion, 0, 1, right, [left], ROOT[4])


def test_two_empty_trees_need_the_empty_root():
    """A head of size 0 with another root is refused, alone and as the new tree."""
    verify_consistency(0, 0, [], merkle.EMPTY_ROOT, merkle.EMPTY_ROOT)
    refused(Reason.LOG_PROOF, verify_consistency, 0, 0, [], merkle.EMPTY_ROOT, ROOT[1])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, encoding.MAX_SIZE), st.data())
def test_large_trees(size, data):
    """Plans for trees up to 2^63-1 leaves stay small, and proofs from a made-up store verify."""

    class Virtual:
        """A tree all of whose leaves are alike: each level has one hash."""

        def __init__(self) -> None:
            self.levels = [merkle.leaf_hash(b"same")]
            for _ in range(63):
                self.levels.append(merkle.node_hash(self.levels[-1], self.levels[-1]))

        def get(self, level: int, position: int) -> bytes:
            assert (position + 1) << level <= size
            return self.levels[level]

    store = Virtual()
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    root, old_root = prove.root(size, store), prove.root(old, store)
    inclusion = prove.inclusion_proof(index, size, store)
    verify_inclusion(index, size, store.levels[0], inclusion, root)
    verify_consistency(old, size, prove.consistency_proof(old, size, store), old_root, root)
    height = size.bit_length()
    assert len(prove.inclusion_nodes(index, size)) <= 2 * height
    assert len(prove.consistency_nodes(old, size)) <= 2 * height
    assert len(prove.frontier_nodes(size)) <= height


def test_a_store_needs_only_the_completed_nodes():
    """Rows written as leaves arrive, and only those, are enough for every later proof."""
    rows: dict[tuple[int, int], bytes] = {}
    frontier = Frontier()
    for number in range(33):
        assert merkle.completed(number)[0] == Node(0, number)
        after, nodes = frontier.grow(merkle.leaf_hash(b"leaf %d" % number))
        assert tuple(node for node, _ in nodes) == merkle.completed(number)
        assert after == frontier.append(merkle.leaf_hash(b"leaf %d" % number))
        assert not rows.keys() & dict(nodes).keys()
        rows.update(nodes)
        frontier = after
        assert frontier.root() == ROOT[number + 1]
        assert prove.frontier(number + 1, prove.Fetched(rows)) == frontier
    assert TREE.frontier.size == SOME
    for index in range(33):
        wanted = prove.inclusion_nodes(index, 33)
        fetched = prove.Fetched({node: rows[node] for node in wanted})
        assert prove.inclusion_proof(index, 33, fetched) == prove.inclusion_proof(index, 33, TREE)
        wanted = prove.consistency_nodes(index, 33)
        fetched = prove.Fetched({node: rows[node] for node in wanted})
        expected = prove.consistency_proof(index, 33, TREE)
        assert prove.consistency_proof(index, 33, fetched) == expected


def test_a_store_that_lost_a_node_gives_no_proof():
    """A missing row is a refusal, and so is one that is not a hash."""
    refused(Reason.LOG_PROOF, prove.inclusion_proof, 0, 2, prove.Fetched({}))
    refused(Reason.LOG_PROOF, TREE.get, 7, 0)
    short = prove.Fetched({(0, 1): b"short"})
    refused(Reason.MALFORMED, prove.inclusion_proof, 0, 2, short)


@pytest.mark.parametrize(
    ("reason", "call", "args"),
    [
        (Reason.LOG_PROOF, prove.inclusion_nodes, (3, 3)),
        (Reason.LOG_PROOF, prove.inclusion_nodes, (0, 0)),
        (Reason.LOG_PROOF, prove.consistency_nodes, (4, 3)),
        (Reason.MALFORMED, prove.inclusion_nodes, (-1, 3)),
        (Reason.MALFORMED, prove.inclusion_nodes, (0, 1 << 63)),
        (Reason.MALFORMED, prove.consistency_nodes, (-1, 3)),
        (Reason.MALFORMED, prove.consistency_nodes, (0, 1 << 63)),
        (Reason.MALFORMED, prove.frontier_nodes, (-1,)),
        (Reason.MALFORMED, merkle.completed, (-1,)),
        (Reason.MALFORMED, verify_inclusion, (0, 1, b"short", [], ROOT[1])),
        (Reason.MALFORMED, verify_inclusion, (0, 1, ROOT[1], [], b"")),
        (Reason.MALFORMED, verify_inclusion, (0, 2, ROOT[1], [b""], ROOT[1])),
        (Reason.MALFORMED, verify_inclusion, (-1, 1, ROOT[1], [], ROOT[1])),
        (Reason.MALFORMED, verify_inclusion, (0, 1 << 63, ROOT[1], [], ROOT[1])),
        (Reason.TOO_LARGE, verify_inclusion, (0, 1, ROOT[1], [ROOT[1]] * 65, ROOT[1])),
        (Reason.MALFORMED, verify_consistency, (-1, 1, [], ROOT[1], ROOT[1])),
        (Reason.MALFORMED, verify_consistency, (1, 1 << 63, [], ROOT[1], ROOT[1])),
        (Reason.MALFORMED, verify_consistency, (1, 1, [], b"", ROOT[1])),
        (Reason.LOG_PROOF, verify_consistency, (3, 5, [], ROOT[3], ROOT[5])),
        (Reason.MALFORMED, Frontier, (1, ())),
        (Reason.MALFORMED, Frontier, (0, (ROOT[1],))),
        (Reason.MALFORMED, Frontier, (1, (b"short",))),
        (Reason.MALFORMED, Frontier, (-1, (ROOT[1],))),
        (Reason.MALFORMED, Frontier().append, (b"short",)),
        (Reason.MALFORMED, Frontier(encoding.MAX_SIZE, (ROOT[1],) * 63).append, (ROOT[1],)),
    ],
)
def test_what_is_no_tree_is_refused(reason, call, args):
    """Numbers out of range and hashes of other lengths have their reason."""
    refused(reason, call, *args)


@settings(deadline=None)
@given(st.integers(0, SOME))
def test_frontier_round_trip(size):
    """A frontier reads back as itself, and grows as if it had never been stored."""
    frontier = prove.frontier(size, TREE)
    assert Frontier.decode(frontier.encode()) == frontier
    leaf = merkle.leaf_hash(b"next")
    assert Frontier.decode(frontier.encode()).append(leaf) == frontier.append(leaf)


@settings(deadline=None)
@given(
    st.binary(max_size=110)
    | st.builds(lambda n, b: n.to_bytes(8) + b, st.integers(0, 7), st.binary(max_size=100))
)
def test_frontier_decodes_only_its_own_encoding(raw):
    """Any bytes either are a frontier's encoding or are refused as malformed."""
    assert outcome(lambda: Frontier.decode(raw).encode()) in {raw, Reason.MALFORMED}


def test_frontier_of_too_many_leaves_is_refused():
    """A stored size of 2^63 is refused, not believed."""
    refused(Reason.MALFORMED, Frontier.decode, (1 << 63).to_bytes(8) + ROOT[1])
