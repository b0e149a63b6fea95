"""An aiosqlite connection that runs quick calls in the loop's thread, and slow ones in its own.

Guarantees: calls of one connection happen in the order in which they were made; what may wait (for
the disk: a commit; for another writer: `BEGIN IMMEDIATE`; opening and closing) never runs in the
loop's thread. A reader in WAL mode waits for nobody, and a statement takes some 20 µs, a tenth of
what it takes to hand it to a thread and back, four times a statement.
Does not make a statement that reads much any faster: others wait for it; pages are bounded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final, TypeVar, final

import aiosqlite

T = TypeVar("T")

_WAITS: Final = ("BEGIN IMMEDIATE", "PRAGMA")
_CHUNK: Final = 64
"""Rows that aiosqlite fetches at once for `async for`; nothing here uses that."""


@final
class InlineConnection(aiosqlite.Connection):
    """One connection to the database at `uri`; `await` it to open it."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            lambda: sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False),
            _CHUNK,
        )
        self._thread.daemon = True
        self._queued: set[object] = set()

    async def _execute(  # type: ignore[override]  # untyped there
        self, fn: Callable[..., T], *args: Any, **kwargs: Any
    ) -> T:
        # While something is under way in the thread, such as a commit whose caller was cancelled,
        # whatever follows queues behind it.
        if self._running and not self._queued and _is_quick(fn, args):
            return fn(*args, **kwargs)
        call = object()
        self._queued.add(call)

        def run() -> T:
            try:
                return fn(*args, **kwargs)
            finally:
                self._queued.discard(call)

        try:
            result: T = await super()._execute(run)
        except ValueError:  # closed: it was never queued
            self._queued.discard(call)
            raise
        return result


def _is_quick(fn: Callable[..., object], args: tuple[Any, ...]) -> bool:
    owner, name = getattr(fn, "__self__", None), getattr(fn, "__name__", "")
    if isinstance(owner, sqlite3.Connection):
        return name in {"cursor", "rollback"}
    starts = args[0] if args and isinstance(args[0], str) else ""
    return isinstance(owner, sqlite3.Cursor) and not starts.startswith(_WAITS)
