"""One call for many who want the same thing, and a short memory of failures.

Guarantees: of all that ask for a key while a call for it is under way, one makes the call and all
get its outcome; one that gives up does not end the call for the others. A failure is told again,
without another call, for a few seconds. A success is not remembered: keeping is the store's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar, final

from verifier.errors import VerifierError

T = TypeVar("T")

_MOST_FAILURES: Final = 1024


@final
class Flights(Generic[T]):
    """Calls under way in one event loop. Close it with `aclose`.

    Args:
        remember_s: for how many seconds a failure is told again.
    """

    __slots__ = ("_failed", "_remember_s", "_tasks")

    def __init__(self, remember_s: float) -> None:
        self._remember_s = remember_s
        self._tasks: dict[str, asyncio.Task[T]] = {}
        self._failed: dict[str, tuple[float, VerifierError]] = {}

    async def run(self, key: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the outcome of the call for `key`: one under way, or `call` now.

        Raises:
            VerifierError: what the call raised, now or a short while ago.
        """
        task = self.start(key, call)
        if task is None:
            raise self._told_again(key)
        return await asyncio.shield(task)

    def start(self, key: str, call: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T] | None:
        """Begin the call for `key` unless it is under way; None if it failed a short while ago."""
        task = self._tasks.get(key)
        if task is not None:
            return task
        failed = self._failed.get(key)
        if failed is not None:
            if asyncio.get_running_loop().time() < failed[0]:
                return None
            del self._failed[key]
        task = asyncio.get_running_loop().create_task(call())
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._landed(key, done))
        return task

    async def aclose(self) -> None:
        """End what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _landed(self, key: str, task: asyncio.Task[T]) -> None:
        del self._tasks[key]
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, VerifierError):
            until = task.get_loop().time() + self._remember_s
            self._failed[key] = (until, error)
            while len(self._failed) > _MOST_FAILURES:
                del self._failed[next(iter(self._failed))]

    def _told_again(self, key: str) -> VerifierError:
        """Return a copy: an error that is raised again and again would drag its traceback along."""
        error = self._failed[key][1]
        return VerifierError(error.reason, f"{error} (not asked again yet)")
