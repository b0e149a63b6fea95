"""A bounded memory of what was parsed and whose signatures were checked, by exact bytes.

Guarantees: an entry is found again only for the very bytes that made it (SHA-256), only successes
are kept, and the oldest-used entry leaves first. Holds no verdict: dates, revocation, roots and
policy are judged at every call by whoever uses an entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, final

T = TypeVar("T")


@final
class Cache:
    """What appraisals share. Single dictionary steps only, so threads need no lock."""

    __slots__ = ("_entries", "_limit")

    def __init__(self, limit: int = 256) -> None:
        self._entries: dict[tuple[type, bytes], Any] = {}
        self._limit = limit

    def __len__(self) -> int:
        return len(self._entries)

    def recall(self, kind: type[T], digest: bytes, make: Callable[[], T]) -> T:
        """Return what `make` returned for this digest before, or call it now.

        Args:
            kind: the class of the entry; classes never meet.
            digest: SHA-256 of all the bytes that `make` depends on.
            make: builds the entry; what it raises is passed on and nothing is kept.
        """
        key = (kind, digest)
        entry = self._entries.pop(key, None)
        made: T = make() if entry is None else entry
        self._entries[key] = made
        if len(self._entries) > self._limit:
            for stale in list(self._entries)[: -self._limit]:
                self._entries.pop(stale, None)
        return made
