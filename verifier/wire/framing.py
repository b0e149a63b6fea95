"""Length-prefixed framing: concatenation that cannot be read two ways.

`lp(x)` is the length of x in bytes as an unsigned 64-bit big-endian integer, then x. A list is its
count as an unsigned 32-bit big-endian integer, then `lp` of each item.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

from verifier.errors import Reason, VerifierError


def u8(value: int) -> bytes:
    """Return `value` as one byte."""
    return value.to_bytes(1, "big")


def u32(value: int) -> bytes:
    """Return `value` as four bytes, big-endian."""
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    """Return `value` as eight bytes, big-endian."""
    return value.to_bytes(8, "big")


def lp(item: bytes) -> bytes:
    """Return `item` behind its length."""
    return u64(len(item)) + item


def lp_list(items: Sequence[bytes]) -> bytes:
    """Return `items`, in the order given, behind their count."""
    return u32(len(items)) + b"".join(map(lp, items))


def lp_set(items: Iterable[bytes]) -> bytes:
    """Return `items` sorted, behind their count.

    Raises:
        VerifierError: `malformed` if one stands there twice.
    """
    ordered = sorted(items)
    if len(set(ordered)) != len(ordered):
        raise VerifierError(Reason.MALFORMED, "an item of a set stands there twice")
    return lp_list(ordered)


@final
class Reader:
    """Reads framed bytes from the front; every length is checked against what is left."""

    __slots__ = ("_at", "_raw")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def take(self, length: int) -> bytes:
        """Return the next `length` bytes.

        Raises:
            VerifierError: `malformed` if there are fewer.
        """
        end = self._at + length
        if length < 0 or end > len(self._raw):
            raise VerifierError(Reason.MALFORMED, "framed bytes end early")
        piece, self._at = self._raw[self._at : end], end
        return piece

    def uint(self, size: int) -> int:
        """Return the next unsigned big-endian integer of `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def lp(self) -> bytes:
        """Return the next length-prefixed item."""
        return self.take(self.uint(8))

    def lp_list(self, limit: int) -> tuple[bytes, ...]:
        """Return the next list, of at most `limit` items."""
        count = self.uint(4)
        if count > limit:
            raise VerifierError(Reason.MALFORMED, f"list of {count} items, limit {limit}")
        return tuple(self.lp() for _ in range(count))

    def end(self) -> None:
        """Raise `malformed` unless everything was read."""
        if self._at != len(self._raw):
            raise VerifierError(Reason.MALFORMED, "bytes left over")
