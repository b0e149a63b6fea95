"""A lease as a runtime keeps it: over by whichever clock says so first.

Guarantees: a term that one of the clocks has ended is over, and stays so for that clock. Does not
know brokers: `supervisor.py` renews.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, final

from inference_runtime import clock
from verifier.wire import messages


@final
@dataclass(frozen=True, slots=True)
class Term:
    """A lease as it is kept: `ends` is when it is over by the monotonic clock.

    `epoch` is the tenant's state in which it was granted; once that has moved, it is renewed.
    """

    lease: messages.Lease
    ends: float
    epoch: int = -1

    @classmethod
    def of(cls, lease: messages.Lease, epoch: int = -1) -> Term:
        """Return the term of a lease that came in now."""
        return cls(lease, clock.monotonic() + lease.not_after - clock.now(), epoch)

    @property
    def over(self) -> bool:
        """Whether one of the clocks says that the lease has ended."""
        return clock.now() >= self.lease.not_after or clock.monotonic() >= self.ends


async def until_over(term: Term) -> None:
    """Return once the term is over."""
    # Woken every second: the wall clock may be stepped, and a lease ends by it too.
    while not term.over:
        left = min(term.lease.not_after - clock.now(), term.ends - clock.monotonic())
        await asyncio.sleep(max(0.0, min(1.0, left)))


async def first_of(one: asyncio.Task[Any], other: asyncio.Task[Any]) -> bool:
    """Wait for the first of two and end the other; tell whether `one` is done."""
    try:
        await asyncio.wait({one, other}, return_when=asyncio.FIRST_COMPLETED)
        return one.done()
    finally:
        for task in (one, other):
            task.cancel()
        # Waited for, but not collected: a result that counts is asked for by whoever called.
        await asyncio.wait({one, other})
