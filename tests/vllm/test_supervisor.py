"""The supervisor around an engine that takes its time: GPUs it may use, leases it must keep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inference_runtime.attester.socket_device import SocketDevice
from inference_runtime.client import BrokerClient
from inference_runtime.engine.llama import LlamaEngine
from inference_runtime.engine.protocol import Engine, EngineError
from inference_runtime.engine.vllm.driver import VllmEngine
from inference_runtime.engine.vllm.options import VllmSettings
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.front.state import NotServing
from inference_runtime.supervisor import Config, Stage, Supervisor
from ostiary.demo_model import make_demo_model
from ostiary.simulator.device import serving
from tests.kit.runtime import MODEL, TENANT, Served, SoftBroker, problem, served


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the GGUF demo model before it is sealed."""
    where = tmp_path_factory.mktemp("gguf") / "plain"
    make_demo_model(where)
    return where


@pytest.fixture
def house(folder: Path, tmp_path: Path) -> Iterator[Served]:
    """Give a broker that serves it sealed."""
    broker = SoftBroker()
    broker.seal(folder, tmp_path / "sealed")
    with served(broker, tmp_path / "sealed") as found:
        yield found


async def run(
    house: Served, tmp_path: Path, engine: Engine, stages: list[Stage] | None = None
) -> NotServing:
    """Run a supervisor with an engine to its end."""
    path = tmp_path / "machine.sock"
    config = Config(tenant=TENANT, model=MODEL, simulated_allowed=True)
    with serving(path, house.broker.td()), BrokerClient(house.url) as client:
        watch: Callable[[Stage], None] = (stages if stages is not None else []).append
        supervisor = Supervisor(config, SocketDevice(path), client, engine, watch)
        async with asyncio.timeout(60):
            return await supervisor.run()


def slow_files(house: Served, seconds: float) -> None:
    """Have every read of a sealed file take some time."""

    def script(_method: str, target: str) -> None:
        if "/files/" in target:
            time.sleep(seconds)

    house.script = script


def test_gpus_that_nobody_attested_get_no_weights(house: Served, tmp_path: Path) -> None:
    """A tensor parallel size above the attested GPUs is refused before a lease is spent."""
    engine = VllmEngine(VllmSettings(tensor_parallel_size=2))
    with pytest.raises(RuntimeFault, match="2 needs as many attested GPUs") as refused:
        asyncio.run(run(house, tmp_path, engine))

    assert refused.value.code is Fault.GPUS_UNATTESTED
    assert house.count("POST", "/v1/challenges") == 1
    assert house.count("POST", "/v1/releases") == 0


def test_a_lease_is_kept_while_the_model_loads(house: Served, tmp_path: Path) -> None:
    """A load that takes longer than a lease is carried by renewals."""
    house.broker.lease_seconds, house.broker.renew_seconds = 4, 1
    slow_files(house, 0.6)
    stages: list[Stage] = []

    async def play() -> None:
        running = asyncio.create_task(run(house, tmp_path, LlamaEngine(), stages))
        while "serving" not in [stage.name for stage in stages]:
            assert not running.done(), running.exception()
            await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(play())
    names = [stage.name for stage in stages]

    assert "renewal" in names[: names.index("weights")]


def test_a_revoked_lease_ends_a_load(house: Served, tmp_path: Path) -> None:
    """A renewal that is refused stops the load at once: no engine, the key wiped."""
    house.broker.renew_seconds = 1
    stages: list[Stage] = []

    def script(_method: str, target: str) -> tuple[int, dict[str, str], bytes] | None:
        if "/files/" in target:
            time.sleep(0.5)
        return problem(403, "lease_ended") if target == "/v1/renewals" else None

    house.script = script
    engine = LlamaEngine()

    assert asyncio.run(run(house, tmp_path, engine, stages)) is NotServing.LEASE_REVOKED
    assert "weights" not in [stage.name for stage in stages]
    with pytest.raises(EngineError):
        _ = engine.pid
