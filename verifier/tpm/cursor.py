"""A strict reader of TPM structures: big endian, sizes checked before anything is taken.

Guarantees: never reads past the end and never allocates by a size that it was told; every failure
is `VerifierError`. Knows integers and TPM2B only (TCG TPM 2.0 Library part 2, §10.4).
"""

from __future__ import annotations

from typing import final

from verifier.errors import Reason, VerifierError


@final
class Cursor:
    """A position in bytes that `what` names in errors."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    def error(self, message: str, reason: Reason = Reason.MALFORMED) -> VerifierError:
        """Return an error that tells where reading stands."""
        return VerifierError(reason, f"{self._what}: {message}, at byte {self._at}")

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes.

        Raises:
            VerifierError: `malformed`, fewer are left.
        """
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise self.error(f"{count} bytes expected, {len(part)} left")
        self._at += count
        return part

    def number(self, size: int) -> int:
        """Return the next unsigned integer of `size` bytes.

        Raises:
            VerifierError: `malformed`.
        """
        return int.from_bytes(self.take(size), "big")

    def sized(self, limit: int) -> bytes:
        """Return the next TPM2B's buffer, of at most `limit` bytes.

        Raises:
            VerifierError: `malformed`.
        """
        size = self.number(2)
        if size > limit:
            raise self.error(f"at most {limit} bytes expected, {size} declared")
        return self.take(size)

    def end(self) -> None:
        """Refuse anything that was not read.

        Raises:
            VerifierError: `trailing_data`.
        """
        rest = len(self._data) - self._at
        if rest:
            raise self.error(f"nothing more expected, {rest} bytes left", Reason.TRAILING_DATA)
