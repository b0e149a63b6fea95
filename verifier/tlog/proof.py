"""Receipts: one file that proves, offline, that a leaf stands in a log.

Guarantees: `verify_receipt` returns only if the expected log signed a tree in which exactly this
leaf stands at the returned index. Says nothing about the optional extra data, which nobody signs,
nor about witnesses, nor about what the leaf means.
Specification: C2SP tlog-proof (c2sp.org/tlog-proof).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self, final

from verifier.errors import Reason, VerifierError
from verifier.tlog import note
from verifier.tlog.checkpoint import Checkpoint, open_checkpoint
from verifier.tlog.encoding import (
    base64_line,
    decimal,
    hash_line,
    print_base64,
    require_count,
    require_hash,
)
from verifier.tlog.merkle import MAX_PROOF, leaf_hash, verify_inclusion

MAX_EXTRA = 64 * 1024
"""Most bytes of extra data."""

MAX_RECEIPT = note.MAX_NOTE + 2 * MAX_EXTRA
"""Most bytes of a receipt: a note, the extra data in base64, and the proof."""

_HEADER = b"c2sp.org/tlog-proof@v1"
_EXTRA = b"extra "
_INDEX = b"index "


@final
@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt taken apart, not verified.

    `checkpoint` is the signed note, byte for byte. `extra` is None where there is none, and never
    empty, since the specification then omits the line.

    Raises:
        VerifierError: `malformed` or `too_large`, on making one that could not be printed.
    """

    index: int
    proof: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def __post_init__(self) -> None:
        require_count(self.index, "leaf index")
        if len(self.proof) > MAX_PROOF:
            raise VerifierError(
                Reason.TOO_LARGE, f"proof of {len(self.proof)} hashes, limit {MAX_PROOF}"
            )
        for value in self.proof:
            require_hash(value, "inclusion proof")
        if self.extra is not None and not 0 < len(self.extra) <= MAX_EXTRA:
            raise VerifierError(
                Reason.MALFORMED, f"extra data of {len(self.extra)} bytes: 1 to {MAX_EXTRA} allowed"
            )
        note.parse(self.checkpoint)

    def encode(self) -> bytes:
        """Return the receipt as it is handed over."""
        extra = [] if self.extra is None else [_EXTRA + print_base64(self.extra)]
        index = _INDEX + str(self.index).encode()
        lines = [_HEADER, *extra, index, *map(print_base64, self.proof), b"", self.checkpoint]
        return b"\n".join(lines)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the receipt that `encode` printed as `raw`.

        Raises:
            VerifierError: `malformed` or `too_large`.
        """
        if len(raw) > MAX_RECEIPT:
            raise VerifierError(
                Reason.TOO_LARGE, f"receipt of {len(raw)} bytes, limit {MAX_RECEIPT}"
            )
        head, _, checkpoint = raw.partition(b"\n\n")
        header, *lines = head.split(b"\n")
        if header != _HEADER:
            raise VerifierError(Reason.MALFORMED, "not a receipt: no c2sp.org/tlog-proof@v1 line")
        extra = None
        if lines and lines[0].startswith(_EXTRA):
            extra = base64_line(lines.pop(0).removeprefix(_EXTRA), "extra data")
        if not lines or not lines[0].startswith(_INDEX):
            raise VerifierError(Reason.MALFORMED, "receipt has no index line")
        index = decimal(lines.pop(0).removeprefix(_INDEX), "leaf index")
        proof = tuple(hash_line(line, "inclusion proof") for line in lines)
        return cls(index, proof, checkpoint, extra)


class Verified(NamedTuple):
    """What a verified receipt says: the leaf stands at `leaf_index` in the `checkpoint`'s tree."""

    leaf_index: int
    checkpoint: Checkpoint


def verify_receipt(receipt: bytes, leaf: bytes, origin: str, vkey: note.VerifierKey) -> Verified:
    """Check offline that `leaf` stands in the log named `origin`.

    Args:
        receipt: the tlog-proof.
        leaf: the entry, whole; not its hash.
        origin: the log that is expected, known from elsewhere and never from the receipt.
        vkey: the key that signs for that log.

    Raises:
        VerifierError: `malformed`, `too_large`, `log_signature`, `log_origin` or `log_proof`.
    """
    # 1. Take the receipt apart; nothing in it is believed yet.
    found = Receipt.parse(receipt)
    # 2. The expected log signed the checkpoint.
    head = open_checkpoint(found.checkpoint, origin, vkey)
    # 3. The leaf leads to the root that was signed.
    verify_inclusion(found.index, head.size, leaf_hash(leaf), found.proof, head.root)
    return Verified(found.index, head)
