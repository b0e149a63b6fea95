"""The runtime and its GPUs: shown in every exchange, ready only between release and end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from inference_runtime.attester.errors import AttesterError, DeviceFault
from inference_runtime.attester.gpu_faults import NvmlCode
from inference_runtime.attester.socket_device import SocketDevice
from inference_runtime.attester.socket_gpus import socket_gpus
from inference_runtime.attester.socket_wire import NvmlFunction
from inference_runtime.client import BrokerClient
from inference_runtime.engine.llama import LlamaEngine
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.exchange import Released
from inference_runtime.front.state import NotServing
from inference_runtime.supervisor import Config, Stage, Supervisor
from ostiary.demo_model import make_demo_model
from ostiary.simulator.device import serving
from ostiary.simulator.nvidia.nvml import SimulatedDriver
from tests.kit import nvgpu
from tests.kit.runtime import MODEL, TENANT, Served, SoftBroker, problem, served
from verifier.wire import binding, canonical, messages


@dataclass
class Watched:
    """A driver whose ready state is noted at every stage of the runtime."""

    driver: SimulatedDriver = field(default_factory=lambda: SimulatedDriver(nvgpu.make(8, "ppcie")))
    stages: list[tuple[str, bool]] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    def see(self, stage: Stage) -> None:
        """Note a stage."""
        self.stages.append((stage.name, self.driver.state.ready))
        self.details.append(stage.detail)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the demo model as it is before it is sealed, made once."""
    folder = tmp_path_factory.mktemp("model") / "plain"
    make_demo_model(folder)
    return folder


@pytest.fixture
def house(model_folder: Path, tmp_path: Path) -> Iterator[Served]:
    """Give a broker that serves the sealed demo model, and appraises nothing."""
    broker = SoftBroker()
    broker.seal(model_folder, tmp_path / "sealed")
    with served(broker, tmp_path / "sealed") as found:
        yield found


@contextlib.asynccontextmanager
async def running(
    house: Served, tmp_path: Path, watched: Watched
) -> AsyncIterator[tuple[asyncio.Task[NotServing], asyncio.Event]]:
    """Run a runtime on a machine with GPUs; give its task, and what is set once it serves."""
    path, serves = tmp_path / "machine.sock", asyncio.Event()
    with serving(path, house.broker.td(), watched.driver), BrokerClient(house.url) as client:
        supervisor = Supervisor(
            Config(tenant=TENANT, model=MODEL, simulated_allowed=True),
            SocketDevice(path),
            client,
            LlamaEngine(),
            watched.see,
            gpus=socket_gpus(path, simulated_allowed=True),
        )

        def ready(_: Released) -> None:
            serves.set()

        task = asyncio.create_task(supervisor.run(ready))
        try:
            yield task, serves
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def until_it_serves(house: Served, tmp_path: Path, watched: Watched) -> None:
    """Run a runtime until it serves, and end it; raise what it ends with before that."""

    async def play() -> None:
        async with running(house, tmp_path, watched) as (task, serves):
            waiting = asyncio.create_task(serves.wait())
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if task.done():
                task.result()
            assert watched.driver.state.ready

    asyncio.run(play())


def test_ready_between_release_and_end(house: Served, tmp_path: Path) -> None:
    """The GPUs take work only after a release whose answer was checked, and not after the end."""
    watched = Watched()
    watched.driver.state.ready = True  # as an earlier start that was killed left it
    until_it_serves(house, tmp_path, watched)

    assert watched.stages[:3] == [("evidence", False), ("release", False), ("GPUs ready", True)]
    assert ("serving", True) in watched.stages
    assert watched.details[0].endswith("8 GPUs, 4 switches")
    assert not watched.driver.state.ready


@pytest.mark.parametrize("status", ["refused", "an answer that is none"])
def test_not_ready_when_refused(house: Served, tmp_path: Path, status: str) -> None:
    """Without a release the GPUs go on refusing work, whatever an earlier start left."""
    watched = Watched()
    watched.driver.state.ready = True
    said = problem(403, "evidence_refused") if status == "refused" else (200, {}, b"{}")
    house.script = lambda _method, target: said if target == "/v1/releases" else None

    with pytest.raises(RuntimeFault) as refused:
        until_it_serves(house, tmp_path, watched)
    wanted = Fault.BROKER_REFUSED if status == "refused" else Fault.ANSWER_INVALID
    assert refused.value.code is wanted
    assert not watched.driver.state.ready
    assert "GPUs ready" not in dict(watched.stages)


def test_a_driver_that_does_not_do_it(house: Served, tmp_path: Path) -> None:
    """Who may not set the ready state is told what to do, and nothing is loaded."""
    watched = Watched()
    watched.driver.state.root = False

    with pytest.raises(AttesterError, match="root") as refused:
        until_it_serves(house, tmp_path, watched)
    assert refused.value.code is DeviceFault.DENIED
    assert "engine" not in dict(watched.stages)


def test_a_gpu_that_is_lost(house: Served, tmp_path: Path) -> None:
    """A GPU that gives no evidence ends the start before a lease is spent."""
    watched = Watched()
    watched.driver.state.codes[NvmlFunction.REPORT] = NvmlCode.GPU_IS_LOST

    with pytest.raises(AttesterError) as refused:
        until_it_serves(house, tmp_path, watched)
    assert refused.value.code is DeviceFault.GPU_LOST
    assert house.count("POST", "/v1/releases") == 0


def test_what_is_sent(house: Served, tmp_path: Path) -> None:
    """Devices go out raw, each asked with this exchange's nonce, and the quote commits to them."""
    watched, bodies = Watched(), list[bytes]()
    answer = Served.answer

    def kept(method: str, target: str, body: bytes, span: str | None) -> object:
        if target == "/v1/releases":
            bodies.append(body)
        return answer(house, method, target, body, span)

    house.answer = kept  # type: ignore[method-assign,assignment]  # listens, and answers as before
    until_it_serves(house, tmp_path, watched)
    request = canonical.decode(bodies[0], messages.ReleaseRequest)
    sent = request.evidence.gpus

    assert [each.kind for each in sent] == [1] * 8 + [2] * 4
    nonce = binding.gpu_nonce(request.challenge, request.recipients)
    assert all(each.report[4:36] == nonce for each in sent)
    assert [bytes(each.chain) for each in sent] == [
        device.chain for device in watched.driver.devices.devices
    ]
    report_data = binding.report_data(
        challenge=request.challenge,
        purpose="release",
        genesis=house.broker.digest,
        broker=bytes(house.broker.genesis.broker),
        recipients=request.recipients,
        keys=request.keys,
        lease="",
        kind="tdx",
        gpus=sent,
        ak=b"",
        claims=request.claims,
    )
    assert request.evidence.cpu[48 + 520 : 48 + 584] == report_data
    assert json.loads(request.claims)["tensor_parallel_size"] == 1
    assert json.loads(request.claims)["gpus"] == 0
