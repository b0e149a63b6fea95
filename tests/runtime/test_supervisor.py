"""A runtime from its first challenge to its end: real engine, real HTTP, a simulated device.

The broker is `tests.kit.runtime`, which signs and logs as the real one does and ends leases when a
test wants it; the real one plays in the demo and in `tests/e2e`. Leases are of seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from inference_runtime import supervisor
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.front.state import NotServing
from tests.kit.night import CHAT, RENEWALS, Night, alive, opening, serving_night, short, stream
from tests.kit.runtime import MODEL, Served, SoftBroker, problem
from verifier.wire import messages


def test_good(house: Served, tmp_path: Path) -> None:
    """A runtime serves the model, and its DEK is wiped by the time it does."""

    async def play() -> Night:
        async with serving_night(house, tmp_path) as night:
            answer = await night.http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 4})
            assert answer.status_code == 200, answer.text
            ready = (await night.http.get("/ready")).json()
            assert ready["model_digest"] == house.broker.manifests[MODEL].hex()
            pid = night.engine.pid
            assert alive(pid)
        assert not alive(pid)
        return night

    night = asyncio.run(play())
    assert night.released is not None
    assert night.released.deks[MODEL].wiped
    assert [stage.name for stage in night.stages] == [
        "evidence",
        "release",
        "weights",
        "engine",
        "serving",
        "lease returned",
    ]
    assert house.broker.deks[MODEL].hex() not in repr(night.stages)


def test_snp(house: Served, tmp_path: Path) -> None:
    """An SNP guest is anchored by the 32 bytes of HOST_DATA."""

    async def play() -> None:
        async with serving_night(house, tmp_path, machine=house.broker.snp()) as night:
            assert night.said("evidence")[0].startswith("snp")

    asyncio.run(play())


def test_renewed_until_nobody_answers(house: Served, tmp_path: Path) -> None:
    """Renewed in time, it serves on past the end of a lease; with the broker gone, until it ends.

    Then requests are cut and the engine is stopped.
    """

    async def play() -> None:
        async with serving_night(house, tmp_path, renewed=(3, 1)) as night:
            first = time.time() + 3
            await night.until(lambda: time.time() > first + 0.2)
            assert (await night.http.get("/ready")).status_code == 200
            until = [int(detail.removeprefix("until ")) for detail in night.said("renewal")][1:]
            assert len(until) >= 2
            assert until == sorted(until)
            # Whatever is asked from now on finds nobody who can answer.
            house.script = lambda _method, _target: problem(503, "database_unavailable")
            pid, asked = night.engine.pid, asyncio.create_task(stream(night))
            started = time.time()
            assert await night.end() is NotServing.LEASE_ENDED
            assert time.time() - started < 6
            assert not alive(pid)
            _, pieces, _ = await asked
            assert pieces
            assert b"[DONE]" not in b"".join(pieces)
            assert night.supervisor.state.reason == "lease_ended"
            with pytest.raises(httpx.ConnectError):
                await night.http.get("/ready")

    asyncio.run(play())


def test_renewal_that_hangs(house: Served, tmp_path: Path) -> None:
    """A broker that takes a renewal and never answers does not prolong the lease."""

    async def play() -> None:
        async with serving_night(house, tmp_path, renewed=(3, 1)) as night:
            house.hanging = True
            started, before = time.time(), house.count(*RENEWALS)
            assert await night.end() is NotServing.LEASE_ENDED
            assert time.time() - started < 6
            assert house.count(*RENEWALS) == before + 1

    asyncio.run(play())


def test_ask_again(house: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal that met a change of policies or a restarted broker is tried again."""
    once = [problem(409, "state_moved")]
    monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.1)

    def script(_method: str, target: str) -> Any:
        return once.pop() if target == "/v1/renewals" and once else None

    async def play() -> None:
        short(house, 10, 1)
        house.script = script
        async with serving_night(house, tmp_path) as night:
            await night.until(lambda: bool(night.said("renewal")))
            assert len(night.said("renewal waits")) == 1
            assert (await night.http.get("/ready")).status_code == 200

    asyncio.run(play())


def test_renewal_refused(house: Served, tmp_path: Path) -> None:
    """A refused renewal ends everything at once, however long the lease would have lasted."""
    refused: list[str] = []

    def script(_method: str, target: str) -> Any:
        if target != "/v1/renewals":
            return None
        refused.append(target)
        return problem(403, "lease_ended")

    async def play() -> None:
        short(house, 600, 1)
        async with serving_night(house, tmp_path) as night:
            pid = night.engine.pid
            house.script = script
            asked = asyncio.create_task(stream(night))
            assert await night.end() is NotServing.LEASE_REVOKED
            assert not alive(pid)
            assert len(refused) == 1
            assert "lease_ended" in night.said("renewal refused")[0]
            _, pieces, _ = await asked
            assert b"[DONE]" not in b"".join(pieces)

    asyncio.run(play())


def longer(broker: SoftBroker, request: messages.RenewRequest) -> messages.RenewalAnswer:
    """Return a renewal that grants more than the log says."""
    answer = broker.renewal_answer(request)
    lease = msgspec.structs.replace(answer.lease, not_after=1 << 40)
    return msgspec.structs.replace(answer, lease=lease)


def test_renewal_that_is_not_in_the_log(house: Served, tmp_path: Path) -> None:
    """An answer to a renewal that does not hold ends everything."""

    async def play() -> None:
        short(house, 600, 1)
        async with serving_night(house, tmp_path) as night:
            house.renewal = lambda request: longer(house.broker, request)
            assert await night.end() is NotServing.RENEWAL_FAILED

    asyncio.run(play())


def test_genesis_that_changes(house: Served, tmp_path: Path) -> None:
    """A broker that speaks for another tenant at a renewal is not obeyed."""

    async def play() -> None:
        short(house, 600, 1)
        async with serving_night(house, tmp_path) as night:
            house.broker.document = SoftBroker().document
            assert await night.end() is NotServing.RENEWAL_FAILED
            assert "launched for" in night.said("renewal failed")[0]

    asyncio.run(play())


def test_engine_killed(house: Served, tmp_path: Path) -> None:
    """A dead engine ends the runtime with its own code."""

    async def play() -> None:
        async with serving_night(house, tmp_path) as night:
            os.kill(night.engine.pid, signal.SIGKILL)
            assert await night.end() is NotServing.ENGINE_EXITED

    asyncio.run(play())


def test_cancelled_twice(house: Served, tmp_path: Path) -> None:
    """An impatient second signal does not leave the engine behind."""

    async def play() -> None:
        async with serving_night(house, tmp_path) as night:
            pid = night.engine.pid
            asked = asyncio.create_task(stream(night))
            await asyncio.sleep(0.3)
            for _ in range(3):
                night.running.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await night.running
            await asked
            assert not alive(pid)

    asyncio.run(play())


# What never comes to serve.


def never(
    house: Served, tmp_path: Path, code: Fault, *words: str, machine: Any = None, **config: Any
) -> Night:
    """Check that a runtime ends before it serves, for this cause, and starts no engine."""

    async def play() -> Night:
        async with opening(house, tmp_path, machine=machine, **config) as night:
            with pytest.raises(RuntimeFault) as caught:
                await night.end()
            assert caught.value.code is code, caught.value
            for word in words:
                assert word in str(caught.value), caught.value
            assert not night.said("engine")
            return night

    return asyncio.run(play())


def test_tampered_file(house: Served, tmp_path: Path) -> None:
    """One bit of a sealed file stops the start, and the file is named."""
    assert house.sealed is not None
    path = max((house.sealed / "files").iterdir(), key=lambda entry: entry.stat().st_size)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)

    never(house, tmp_path, Fault.SEALED_SEGMENT, path.name)


def test_tampered_local_file(house: Served, tmp_path: Path) -> None:
    """The same for sealed files that lie in a folder."""
    assert house.sealed is not None
    path = next((house.sealed / "files").iterdir())
    path.write_bytes(path.read_bytes()[:-1])

    never(house, tmp_path, Fault.SEALED_TRUNCATED, path.name, sealed=house.sealed)


def test_local_folder(house: Served, tmp_path: Path) -> None:
    """Sealed files may lie in a folder; then none is fetched."""

    async def play() -> None:
        async with serving_night(house, tmp_path, sealed=house.sealed):
            assert not [target for _, target in house.asked if "/models/" in target]

    asyncio.run(play())


def test_no_manifest(house: Served, tmp_path: Path) -> None:
    """A folder without a manifest is refused by name."""
    (tmp_path / "empty").mkdir()

    never(house, tmp_path, Fault.SEALED_MISSING, "manifest.json", sealed=tmp_path / "empty")


def test_another_manifest(house: Served, tmp_path: Path) -> None:
    """A manifest that is not the one of the release is refused."""
    house.broker.manifests[MODEL] = bytes(32)

    never(house, tmp_path, Fault.MANIFEST_DIGEST)


def test_file_that_is_missing(house: Served, tmp_path: Path) -> None:
    """A registry that lacks a file stops the start, and the file is named."""
    assert house.sealed is not None
    path = next((house.sealed / "files").iterdir())
    path.unlink()

    never(house, tmp_path, Fault.BROKER_REFUSED, path.name)


def test_launched_for_somebody_else(house: Served, tmp_path: Path) -> None:
    """A machine that was launched for another tenant asks this broker for no key."""
    never(house, tmp_path, Fault.ANCHOR_MISMATCH, machine=SoftBroker().td())
    assert house.count("POST", "/v1/releases") == 0


def test_simulated_refused(house: Served, tmp_path: Path) -> None:
    """Outside the demo a simulated tenant is refused."""
    never(house, tmp_path, Fault.SIMULATED_REFUSED, simulated_allowed=False)
    assert house.count("POST", "/v1/releases") == 0


def test_refused_release(house: Served, tmp_path: Path) -> None:
    """A refused release is not tried again: its challenge is spent."""
    house.script = lambda _method, target: (
        problem(403, "denied") if target == "/v1/releases" else None
    )

    never(house, tmp_path, Fault.BROKER_REFUSED, "denied")
    assert house.count("POST", "/v1/releases") == 1


def test_port_in_use(house: Served, tmp_path: Path) -> None:
    """Without a port to serve at nothing is asked for at all."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        never(house, tmp_path, Fault.ADDRESS_UNAVAILABLE, str(port), port=port)
    assert house.asked == []


def test_lease_over_before_it_serves(house: Served, tmp_path: Path) -> None:
    """A lease that ended while the model was loaded serves nothing."""

    async def play() -> None:
        short(house, 0, 0)
        async with opening(house, tmp_path) as night:
            assert await night.end() is NotServing.LEASE_ENDED
            assert not night.said("serving")

    asyncio.run(play())


def test_starting(house: Served, tmp_path: Path) -> None:
    """Before it serves, the runtime answers that it is starting."""

    async def play() -> None:
        async with opening(house, tmp_path) as night:
            async with asyncio.timeout(10):
                while not night.supervisor.port:  # noqa: ASYNC110 - as a caller from outside would
                    await asyncio.sleep(0.005)
            base = f"http://127.0.0.1:{night.supervisor.port}"
            answer = await night.http.get(f"{base}/ready")
            assert answer.status_code == 503
            assert json.loads(answer.content)["reason"] == "starting"
            refused = await night.http.post(f"{base}/v1/chat/completions", json=CHAT)
            assert refused.status_code == 503

    asyncio.run(play())
