"""Group commit: whoever comes while a batch is being written goes into the next one.

Guarantees: every `submit` ends in a result or an exception, also when the handler fails or the
batcher is closed; batches never overlap. A caller that is cancelled while its item is being written
does not stop the write: what is in the batch happens.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar, final

from broker.errors import BrokerError, Code

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@final
class Batcher(Generic[ItemT, ResultT]):
    """A queue and one task, started when there is work, that hands batches to `handle`.

    `handle` returns one outcome for each item, in order; an outcome that is a `BrokerError` is
    raised to that item's caller, and one that `handle` raises itself to all of them.
    """

    __slots__ = ("_closed", "_handle", "_limit", "_queue", "_task")

    def __init__(
        self,
        handle: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | BrokerError]]],
        *,
        limit: int,
    ) -> None:
        self._handle = handle
        self._limit = limit
        self._queue: deque[tuple[ItemT, asyncio.Future[ResultT]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, item: ItemT) -> ResultT:
        """Return what became of `item`.

        Raises:
            BrokerError: the item's own refusal, or `internal` after `aclose`.
        """
        if self._closed:
            raise BrokerError(Code.INTERNAL, "the writer is closed")
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        self._start()
        return await future

    async def aclose(self) -> None:
        """Take nothing more, and wait until what was taken is done."""
        self._closed = True
        while self._task is not None:
            await asyncio.wait((self._task,))

    def _start(self) -> None:
        if self._task is None and self._queue:
            self._task = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        try:
            while self._queue:
                await self._one_batch()
        finally:
            self._task = None
            self._start()  # after a batch that failed by a mistake of ours, others still wait

    async def _one_batch(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(self._limit, len(self._queue)))]
        batch = [(item, future) for item, future in batch if not future.done()]
        if not batch:
            return
        try:
            outcomes = await self._answers([item for item, _ in batch])
        except BrokerError as error:
            outcomes = [error] * len(batch)
        except BaseException:
            for _, future in batch:
                _settle(future, BrokerError(Code.INTERNAL, "the writer failed; see the log"))
            raise
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            _settle(future, outcome)

    async def _answers(self, items: Sequence[ItemT]) -> Sequence[ResultT | BrokerError]:
        outcomes = await self._handle(items)
        if len(outcomes) != len(items):
            raise RuntimeError("a batch's handler answers for every item")
        return outcomes


def _settle(future: asyncio.Future[ResultT], outcome: ResultT | BrokerError) -> None:
    if future.done():  # its caller was cancelled
        return
    if isinstance(outcome, BrokerError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
