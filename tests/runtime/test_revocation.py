"""What is revoked is acted on within seconds, and a lease that is needed no more is given back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from inference_runtime import supervisor
from inference_runtime.attester import AttesterError, DeviceFault, Evidence
from inference_runtime.attester.socket_device import SocketDevice
from inference_runtime.front.state import NotServing
from tests.kit.night import RENEWALS, alive, opening, serving_night, stream
from tests.kit.runtime import Served, problem
from tests.kit.webserver import web


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the lease more often than in production."""
    monkeypatch.setattr(supervisor, "WATCH_SECONDS", 0.05)


def looks(house: Served) -> int:
    """Return how often somebody asked how a lease stands."""
    return sum(method == "GET" and "/leases/" in target for method, target in house.asked)


def returned(house: Served) -> int:
    """Return how often a lease was given back."""
    return sum(method == "DELETE" for method, _ in house.asked)


def test_a_lease_revoked_in_the_middle_of_an_answer(house: Served, tmp_path: Path) -> None:
    """An hour before its renewal the lease is revoked: the answer is cut, the engine gone."""
    revoked = False

    def script(_method: str, target: str) -> Any:
        if revoked and "/leases/" in target:
            return problem(401, "unauthenticated")
        return problem(403, "lease_ended") if target == "/v1/renewals" else None

    async def play() -> None:
        nonlocal revoked
        house.script = script
        async with serving_night(house, tmp_path) as night:
            pid = night.engine.pid
            await night.until(lambda: looks(house) > 2)
            assert house.count(*RENEWALS) == 0
            asked = asyncio.create_task(stream(night))
            revoked = True
            assert await night.end(20) is NotServing.LEASE_REVOKED
            assert not alive(pid)
            _, pieces, _ = await asked
            assert b"[DONE]" not in b"".join(pieces)

    asyncio.run(play())
    assert house.count(*RENEWALS) == 1
    assert returned(house) == 0, "there is nothing to give back"


def test_a_key_or_policy_that_changes(house: Served, tmp_path: Path) -> None:
    """When the tenant's state moves the lease is renewed at once, and once."""

    async def play() -> None:
        async with serving_night(house, tmp_path) as night:
            await night.until(lambda: looks(house) > 2)
            assert house.count(*RENEWALS) == 0
            house.broker.epoch += 1
            await night.until(lambda: bool(night.said("renewal")))
            seen = looks(house)
            await night.until(lambda: looks(house) > seen + 3)
            assert house.count(*RENEWALS) == 1
            assert night.supervisor.state.serving

    asyncio.run(play())


def test_a_broker_that_is_away_for_a_while(house: Served, tmp_path: Path) -> None:
    """A look that finds nobody changes nothing: the lease ends when it ends."""
    away = False

    def script(_method: str, target: str) -> Any:
        return problem(503, "database_unavailable") if away and "/leases/" in target else None

    async def play() -> None:
        nonlocal away
        house.script = script
        async with serving_night(house, tmp_path) as night:
            away = True
            seen = looks(house)
            await night.until(lambda: looks(house) > seen + 3)
            assert house.count(*RENEWALS) == 0
            assert night.supervisor.state.serving

    asyncio.run(play())


def test_a_device_that_fails_for_a_moment(
    house: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evidence that cannot be had just now is asked for again, while the lease lives."""
    monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.05)
    report = SocketDevice.report
    faults = [DeviceFault.FAILED, DeviceFault.RACED]

    def failing(device: SocketDevice, report_data: bytes) -> Evidence:
        if faults:
            raise AttesterError(faults.pop(), "the metadata service is busy")
        return report(device, report_data)

    async def play() -> None:
        async with serving_night(house, tmp_path) as night:
            monkeypatch.setattr(SocketDevice, "report", failing)
            house.broker.epoch += 1
            await night.until(lambda: bool(night.said("renewal")))
            assert len(night.said("renewal waits")) == 2
            assert night.supervisor.state.serving

    asyncio.run(play())


def test_while_the_model_loads(house: Served, tmp_path: Path) -> None:
    """A revocation ends a load that hangs at its source, and the key is wiped."""
    assert house.sealed is not None
    revoked = False

    def script(_method: str, target: str) -> Any:
        if revoked and "/leases/" in target:
            return problem(401, "unauthenticated")
        return problem(403, "lease_ended") if target == "/v1/renewals" else None

    async def play() -> None:
        nonlocal revoked
        house.script = script
        with web(house.sealed or tmp_path) as bucket:
            bucket.answer = lambda _method, target, _span: (
                (503, {}, b"") if "/files/" in target else None
            )
            async with opening(house, tmp_path, sealed=bucket.url) as night:
                await night.until(lambda: any("/files/" in asked[1] for asked in bucket.asked))
                revoked = True
                assert await night.end(20) is NotServing.LEASE_REVOKED
                assert not night.said("weights")

    asyncio.run(play())


def test_a_bucket_serves_the_model(house: Served, tmp_path: Path) -> None:
    """Sealed files may come from any server that answers ranges, and every byte is told of."""
    assert house.sealed is not None
    told: list[tuple[int, int]] = []

    async def play() -> None:
        with web(house.sealed or tmp_path) as bucket:
            bucket.drop = [1000, 70_000]
            async with serving_night(
                house, tmp_path, sealed=bucket.url, fetching=lambda *seen: told.append(seen)
            ):
                assert not [target for _, target in house.asked if "/models/" in target]

    asyncio.run(play())
    done, total = zip(*told, strict=True)
    assert len(set(total)) == 1
    assert list(done) == sorted(done)
    assert done[-1] == total[0]


def test_a_lease_is_given_back(house: Served, tmp_path: Path) -> None:
    """When the runtime ends, its lease ends at the broker too, after the engine has."""

    async def play() -> int:
        async with serving_night(house, tmp_path) as night:
            pid = night.engine.pid
            night.running.cancel()
            await asyncio.gather(night.running, return_exceptions=True)
            assert not alive(pid)
            return len(night.said("lease returned"))

    assert asyncio.run(play()) == 1
    assert returned(house) == 1


def test_a_lease_that_cannot_be_given_back(house: Served, tmp_path: Path) -> None:
    """A broker that does not take it back keeps nobody from ending."""
    house.script = lambda method, _target: problem(503, "away") if method == "DELETE" else None

    async def play() -> list[str]:
        async with serving_night(house, tmp_path) as night:
            night.running.cancel()
            await asyncio.gather(night.running, return_exceptions=True)
            return night.said("lease not returned")

    (said,) = asyncio.run(play())
    assert "503" in said
