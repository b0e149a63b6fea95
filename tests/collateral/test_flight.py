"""One call for many, and a short memory of failures."""

from __future__ import annotations

import asyncio

import pytest

from verifier.collateral.flight import Flights
from verifier.errors import Reason, VerifierError


class Calls:
    """Counts calls and lets them land when told."""

    def __init__(self, error: VerifierError | None = None) -> None:
        self.made = 0
        self.go = asyncio.Event()
        self.error = error

    async def __call__(self) -> int:
        self.made += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return self.made


def test_a_hundred_share_one_call() -> None:
    """All get the outcome of the one call."""

    async def within() -> None:
        flights, calls = Flights[int](1), Calls()
        waiting = [asyncio.create_task(flights.run("a", calls)) for _ in range(100)]
        await asyncio.sleep(0)
        calls.go.set()

        assert await asyncio.gather(*waiting) == [1] * 100
        assert calls.made == 1
        assert await flights.run("a", calls) == 2

    asyncio.run(within())


def test_one_that_gives_up_does_not_end_it_for_others() -> None:
    """A guest that hangs up takes nobody along."""

    async def within() -> None:
        flights, calls = Flights[int](1), Calls()
        first, second = (asyncio.create_task(flights.run("a", calls)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        calls.go.set()

        assert await second == 1
        assert first.cancelled()

    asyncio.run(within())


def test_a_failure_is_told_again_and_then_forgotten() -> None:
    """Negative caching is short."""

    async def within() -> None:
        flights = Flights[int](0.1)
        calls = Calls(VerifierError(Reason.COLLATERAL_MISSING, "no"))
        calls.go.set()
        for _ in range(3):
            with pytest.raises(VerifierError, match="no") as caught:
                await flights.run("a", calls)
            assert caught.value.reason is Reason.COLLATERAL_MISSING
        assert calls.made == 1
        await asyncio.sleep(0.12)
        with pytest.raises(VerifierError):
            await flights.run("a", calls)
        assert calls.made == 2

    asyncio.run(within())


def test_failures_are_remembered_in_bounded_memory() -> None:
    """A caller that names a thousand chips cannot fill our memory."""

    async def within() -> None:
        flights = Flights[int](60)
        calls = Calls(VerifierError(Reason.COLLATERAL_MISSING, "no"))
        calls.go.set()
        for number in range(1100):
            with pytest.raises(VerifierError):
                await flights.run(str(number), calls)

        assert len(flights._failed) == 1024

    asyncio.run(within())


def test_closing_ends_what_is_under_way() -> None:
    """Nothing is left running behind a broker that stops."""

    async def within() -> None:
        flights, calls = Flights[int](1), Calls()
        task = flights.start("a", calls)
        await asyncio.sleep(0)
        await flights.aclose()

        assert task is not None
        assert task.cancelled()

    asyncio.run(within())


def test_another_error_is_passed_on_and_not_remembered() -> None:
    """A fault of ours shows at each call."""

    async def broken() -> int:
        raise ZeroDivisionError

    async def within() -> None:
        flights = Flights[int](60)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await flights.run("a", broken)
        assert not flights._failed

    asyncio.run(within())
