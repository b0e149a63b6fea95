"""Logs for tests: a real tree, a real key, signed by the code under test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from verifier.errors import Reason, VerifierError
from verifier.tlog import merkle, note, prove
from verifier.tlog.checkpoint import Checkpoint
from verifier.tlog.proof import Receipt

ORIGIN = "broker.example/genesis/tree"

T = TypeVar("T")


def refused(reason: Reason, call: Callable[..., object], *args: object) -> None:
    """Fail unless `call` refuses its arguments for exactly this reason."""
    with pytest.raises(VerifierError) as caught:
        call(*args)
    assert caught.value.reason is reason


def outcome(call: Callable[[], T]) -> T | Reason:
    """Return what `call` returns, or why it refused; whatever else it raises goes through."""
    try:
        return call()
    except VerifierError as error:
        return error.reason


class Log:
    """A log in memory that signs its checkpoints."""

    def __init__(self, origin: str = ORIGIN, seed: int = 7) -> None:
        self.origin = origin
        self.key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.vkey = note.VerifierKey(origin, self.key.public_key().public_bytes_raw())
        self.tree = prove.MemoryTree()
        self.leaves: list[bytes] = []

    def append(self, *leaves: bytes) -> Log:
        for leaf in leaves:
            self.leaves.append(leaf)
            self.tree.append(merkle.leaf_hash(leaf))
        return self

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        size = len(self.leaves) if size is None else size
        return Checkpoint(self.origin, size, prove.root(size, self.tree))

    def signed(self, size: int | None = None) -> bytes:
        text = self.checkpoint(size).text()
        return note.assemble(text, [note.sign(text, self.origin, self.key)])

    def receipt(self, index: int, size: int | None = None, extra: bytes | None = None) -> bytes:
        size = len(self.leaves) if size is None else size
        proof = prove.inclusion_proof(index, size, self.tree)
        return Receipt(index, proof, self.signed(size), extra).encode()
