"""Where the segments lie: pure arithmetic between plaintext and sealed offsets (SPEC.md §3).

Guarantees: for each plaintext size there is exactly one sealed size, and back; a sealed size that
no plaintext has is refused. Says nothing about what the bytes are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

from inference_runtime.errors import Fault, RuntimeFault

SEGMENT = 1 << 20
"""Sealed bytes of a full segment, 1 MiB; the first one includes the header."""
TAG = 16
SALT = 32
PREFIX = 7
HEADER = 1 + SALT + PREFIX
"""Length byte, salt, nonce prefix: 40 bytes."""
PLAIN = SEGMENT - TAG
"""Plaintext bytes of a full segment after the first."""
FIRST = PLAIN - HEADER
"""Plaintext bytes of a full first segment."""
MAX_SEGMENTS = 1 << 32
"""The segment number in the nonce is a u32."""
MAX_SIZE = MAX_SEGMENTS * PLAIN - HEADER
"""Largest plaintext in bytes, a little under 4 PiB; every integer up to it is exact in JSON."""
MIN_SEALED = HEADER + TAG
"""A sealed empty file: header and the tag of one empty segment."""


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """The segments of a file of `size` plaintext bytes; build it with `of` or `of_sealed`."""

    size: int
    count: int

    @classmethod
    def of(cls, size: int) -> Self:
        """Return the layout of `size` plaintext bytes.

        Raises:
            ValueError: if no file can have that size; callers check their input before.
        """
        if not 0 <= size <= MAX_SIZE:
            raise ValueError(f"size {size} is not between 0 and {MAX_SIZE}")
        # A file that ends on a segment's edge has no empty segment after it; an empty file has one.
        return cls(size, max(1, -(-(size + HEADER) // PLAIN)))

    @classmethod
    def of_sealed(cls, sealed_size: int, name: str) -> Self:
        """Return the layout of a sealed file of `sealed_size` bytes.

        Raises:
            RuntimeFault: `sealed_truncated` if no plaintext seals to that many bytes.
        """
        count = -(-sealed_size // SEGMENT)
        size = sealed_size - HEADER - TAG * count
        if size < 0 or size > MAX_SIZE or cls.of(size).count != count:
            raise RuntimeFault(
                Fault.SEALED_TRUNCATED, f"{name}: no sealed file has {sealed_size} bytes"
            )
        return cls(size, count)

    @property
    def sealed_size(self) -> int:
        """Bytes of the sealed file, header and tags included."""
        return HEADER + self.size + TAG * self.count

    def last(self, index: int) -> bool:
        """Whether segment `index` ends the file."""
        return index == self.count - 1

    def sealed(self, index: int) -> tuple[int, int]:
        """Return start and length of segment `index` in the sealed file, header included."""
        start = index * SEGMENT
        return start, min(SEGMENT, self.sealed_size - start)

    def plain(self, index: int) -> tuple[int, int]:
        """Return start and length of segment `index` in the plaintext."""
        start = max(0, index * PLAIN - HEADER)
        end = min(self.size, (index + 1) * PLAIN - HEADER)
        return start, end - start

    def covering(self, start: int, end: int) -> range:
        """Return the numbers of the segments that hold plaintext bytes `start` to `end`."""
        if start >= end:
            return range(0)
        return range((start + HEADER) // PLAIN, (end - 1 + HEADER) // PLAIN + 1)
