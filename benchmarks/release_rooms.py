"""Where a release's time goes: the broker's rooms, timed one release at a time inside one process.

The broker's own services run here with a real HSM worker as their child, but without HTTP between;
their collaborators are wrapped, the product's code is as it is. Room 1 and the HTTP half of room 8
are what a release takes longer over HTTP (one client) than here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, Final

from benchmarks.release_house import House
from benchmarks.release_load import Visitors
from broker import settings
from broker.release import flow
from broker.release.flow import ReleaseFlow
from broker.services import open_services
from verifier.wire import canonical
from verifier.wire.messages import ChallengeRequest, ReleaseRequest

TOTAL: Final = "total"
DECODE: Final = "1 http: decode"
SPEND: Final = "2 challenge: spend it"
READ: Final = "3 collateral and state: read"
APPRAISE: Final = "4 appraise"
DECIDE: Final = "5 decide"
STORE: Final = "6 log: store evidence and result"
APPEND: Final = "6 log: leaf and checkpoint"
PERMIT: Final = "7 hsm worker: burn and rewrap"
SIGN: Final = "8 sign the answer"
REST: Final = "between the rooms"
TIMED: Final = (SPEND, READ, APPRAISE, DECIDE, STORE, APPEND, PERMIT, SIGN)

Spent = defaultdict[str, float]


class _Timed:
    """Stands before a collaborator and times some of its calls."""

    def __init__(self, inner: object, spent: Spent, **rooms: str) -> None:
        self._inner = inner
        self._spent = spent
        self._rooms = rooms

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the collaborator has
        found = getattr(self._inner, name)
        if name not in self._rooms:
            return found
        return _timed(found, self._spent, self._rooms[name])


def _timed(inner: Callable[..., Any], spent: Spent, room: str) -> Callable[..., Any]:
    @contextmanager
    def clock() -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            spent[room] += time.perf_counter() - began

    async def later(result: Awaitable[Any]) -> Any:  # noqa: ANN401 - the inner call's
        with clock():
            return await result

    @asynccontextmanager
    async def around(result: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - a context manager
        with clock():
            async with result as entered:
                yield entered

    def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - the inner call's
        with clock():
            result = inner(*arguments, **named)
        if asyncio.iscoroutine(result):
            return later(result)
        return around(result) if hasattr(result, "__aenter__") else result

    return call


def measure(house: House, releases: int) -> dict[str, float]:
    """Return the mean seconds of each room, `TOTAL` and `REST` among them."""
    return asyncio.run(_measure(house, releases))


async def _measure(house: House, releases: int) -> dict[str, float]:
    visitors = Visitors.of(house)
    async with open_services(house.broker, settings.load(house.broker)) as services:
        await _releases(services.releases, visitors, defaultdict(float), 10)  # warms up
        spent: Spent = defaultdict(float)
        with _watched(services.releases, spent) as watched:
            await _releases(watched, visitors, spent, releases)
    spent[REST] = spent[TOTAL] - sum(spent[room] for room in (DECODE, *TIMED))
    return {room: seconds / releases for room, seconds in spent.items()}


@contextmanager
def _watched(releases: ReleaseFlow, spent: Spent) -> Iterator[ReleaseFlow]:
    names = {"appraise": APPRAISE, "decide": DECIDE}
    originals = {name: getattr(flow, name) for name in names}
    with ExitStack() as undo:
        for name, inner in originals.items():
            undo.callback(setattr, flow, name, inner)
            setattr(flow, name, _timed(inner, spent, names[name]))
        timed: dict[str, Any] = {
            "store": _Timed(releases.store, spent, spend_challenge=SPEND, read=READ),
            "collateral": _Timed(releases.collateral, spent, find=READ),
            "objects": _Timed(releases.objects, spent, put=STORE, put_all=STORE),
            "sequencer": _Timed(releases.sequencer, spent, append=APPEND),
            "hsm": _Timed(releases.hsm, spent, release=PERMIT, sign_answer=SIGN),
        }
        yield dataclasses.replace(releases, **timed)


async def _releases(watched: ReleaseFlow, visitors: Visitors, spent: Spent, count: int) -> None:
    for number in range(count):
        ask = canonical.decode(visitors.ask(number), ChallengeRequest)
        before = spent[READ]
        challenge = bytes((await watched.challenge(ask)).challenge)
        spent[READ] = before  # asking for a challenge is another request
        bound, body = visitors.answer(number, challenge)
        began = time.perf_counter()
        request = canonical.decode(body, ReleaseRequest)
        spent[DECODE] += time.perf_counter() - began
        envelope = await watched.release(request)
        spent[TOTAL] += time.perf_counter() - began
        if number == 0:
            visitors.check(number, bound, envelope)
