"""A bounded memory of what was parsed and whose signatures were checked, by exact bytes.

Guarantees: an entry is found again only for the very bytes that made it (SHA-256), only successes
are kept, at most `limit` of them, and the one that was used longest ago leaves first. Threads may
share it: each step on the dictionary is a single one and none expects what the step before saw, so
that a race can cost an entry or make one twice, and nothing else. Holds no verdict: dates,
revocation, roots and policy are judged at every call by whoever uses an entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, final

T = TypeVar("T")


@final
class Cache:
    """What appraisals share."""

    __slots__ = ("_entries", "_limit")

    def __init__(self, limit: int = 256) -> None:
        self._entries: dict[tuple[type, bytes], Any] = {}
        self._limit = limit

    def __len__(self) -> int:
        return len(self._entries)

    def copy(self) -> Cache:
        """Return a memory of its own with the entries that are here now."""
        other = Cache(self._limit)
        other._entries.update(self._entries)
        return other

    def peek(self, kind: type[T], digest: bytes) -> T | None:
        """Return the entry of this digest, if it is here; it counts as used.

        Args:
            kind: the class of the entry; classes never meet.
            digest: SHA-256 of all the bytes that the entry depends on.
        """
        key = (kind, digest)
        entry: T | None = self._entries.pop(key, None)
        if entry is not None:
            self._entries[key] = entry  # at the end again: the last used
        return entry

    def keep(self, kind: type[T], digest: bytes, entry: T) -> None:
        """Remember an entry for this digest, and forget what is over the limit."""
        self._entries[(kind, digest)] = entry
        if len(self._entries) > self._limit:
            keys = list(self._entries)  # a copy: another thread may change the dictionary
            for stale in keys[: max(0, len(keys) - self._limit)]:
                self._entries.pop(stale, None)

    def recall(self, kind: type[T], digest: bytes, make: Callable[[], T]) -> T:
        """Return the entry of this digest, which `make` builds where it is not here.

        Args:
            kind: the class of the entry; classes never meet.
            digest: SHA-256 of all the bytes that `make` depends on.
            make: builds the entry; what it raises is passed on and nothing is kept.
        """
        entry = self.peek(kind, digest)
        if entry is None:
            entry = make()
            self.keep(kind, digest, entry)
        return entry
