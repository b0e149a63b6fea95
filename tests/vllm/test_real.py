"""A real vLLM on the processor: the same tokens as from plain files, and nothing left behind.

Slow (some seconds to half a minute for each start) and only where vLLM is installed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_runtime.engine.protocol import EngineError, EngineFault, Stage
from inference_runtime.engine.vllm.driver import VllmEngine
from inference_runtime.engine.vllm.home import SHARED
from inference_runtime.errors import Fault, RuntimeFault
from ostiary.demo_model import HubLayout
from tests.kit import memory, processes
from tests.kit import vllm as kit

pytestmark = pytest.mark.vllm

TWO = dataclasses.replace(kit.CPU, tensor_parallel_size=2)
HEAD_OF_ITS_OWN = HubLayout(shards=2, tied_with_head=True)
Hub = Callable[[HubLayout], Path]


def answers(http: httpx.Client) -> list[list[int]]:
    return [kit.tokens(http, prompt) for prompt in kit.PROMPTS]


@pytest.fixture(scope="session")
def from_plain_files(hub: Hub) -> Callable[[HubLayout, int], list[list[int]]]:
    """Give what vLLM answers from plain files with its own loader, each asked once."""
    known: dict[tuple[HubLayout, int], list[list[int]]] = {}

    def ask(layout: HubLayout, ranks: int) -> list[list[int]]:
        if (layout, ranks) not in known:
            settings = dataclasses.replace(kit.CPU, tensor_parallel_size=ranks)
            with kit.plain(hub(layout), settings) as http:
                known[layout, ranks] = answers(http)
        return known[layout, ranks]

    return ask


@pytest.mark.parametrize(
    "layout",
    [
        HubLayout(),
        HubLayout(shards=0, tied=True),
        HEAD_OF_ITS_OWN,
        HubLayout(shards=3, quantised=True),
    ],
    ids=["shards", "one tied file", "tied by name only", "int8"],
)
def test_one_rank_answers_as_from_plain_files(
    hub: Hub,
    from_plain_files: Callable[[HubLayout, int], list[list[int]]],
    tmp_path: Path,
    layout: HubLayout,
) -> None:
    """Greedy tokens in fp32 are the same, whatever the layout of the checkpoint."""
    sealed = kit.seal(hub(layout), tmp_path)
    stages: list[Stage] = []

    async def play() -> list[list[int]]:
        async with kit.running(sealed.model(), kit.CPU, stages) as engine:
            return await asyncio.to_thread(_answers, engine)

    found = asyncio.run(play())

    assert found == from_plain_files(layout, 1)
    assert [stage.name for stage in stages] == [
        "small files",
        "engine",
        "weights",
        "engine up",
        "warm-up",
    ]
    assert all(stage.seconds >= 0 for stage in stages)


def _answers(engine: VllmEngine) -> list[list[int]]:
    with kit.client(engine.address) as http:
        return answers(http)


@dataclass
class Live:
    """An engine of two ranks that runs for all tests below."""

    sealed: kit.Sealed
    engine: VllmEngine = field(default_factory=lambda: VllmEngine(TWO))
    before: set[str] = field(default_factory=kit.left_in_shared_memory)
    seen_while_loading: list[int] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def run(self, work: Any) -> Any:
        """Run something in the engine's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(300)

    @property
    def processes(self) -> list[int]:
        """Every process of the engine: the server, the core, the ranks."""
        return processes.tree(self.engine.pid)

    @property
    def home(self) -> Path:
        """The engine's private folder."""
        return Path(self.engine.address.uds).parent


@pytest.fixture(scope="module")
def live(
    hub: Hub,
    from_plain_files: Callable[[HubLayout, int], list[list[int]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Live]:
    """Run the sharded model on two ranks."""
    for ranks in (1, 2):
        from_plain_files(HubLayout(), ranks)  # before: two engines at once are slow on few cores
    found = Live(kit.seal(hub(HubLayout()), tmp_path_factory.mktemp("live")))
    thread = threading.Thread(target=found.loop.run_forever)
    thread.start()

    def watch(stage: Stage) -> None:
        # The weights are all handed out and mapped, the key is just gone.
        if stage.name == "weights" and memory.may_scan(found.engine.pid):
            needle = found.sealed.vendor.raw_dek
            found.seen_while_loading.extend(memory.count(p, needle) for p in found.processes)

    try:
        found.run(found.engine.load(found.sealed.model(), alias=kit.ALIAS, watch=watch))
        yield found
    finally:
        found.run(found.engine.stop())
        found.loop.call_soon_threadsafe(found.loop.stop)
        thread.join()
        found.loop.close()


def test_two_ranks_answer_as_one_and_as_from_plain_files(
    live: Live, from_plain_files: Callable[[HubLayout, int], list[list[int]]]
) -> None:
    """Each layer split over two ranks gives the same greedy tokens in fp32."""
    found = _answers(live.engine)

    assert found == from_plain_files(HubLayout(), 2)
    assert found == from_plain_files(HubLayout(), 1)


def test_the_key_is_in_no_process_of_the_engine(live: Live) -> None:
    """Server, core and ranks have no copy of the DEK, while they load nor later; we have one."""
    dek = live.sealed.vendor.raw_dek
    if not memory.may_scan(live.engine.pid):
        pytest.skip("this user may not read the engine's memory")

    assert len(live.processes) >= 4
    assert len(live.seen_while_loading) >= 4
    assert set(live.seen_while_loading) == {0}
    assert [memory.count(pid, dek) for pid in live.processes] == [0] * len(live.processes)
    assert memory.count(os.getpid(), dek) > 0, "the scan does not find what is there"


def test_neither_argv_nor_environment_names_a_secret(live: Live) -> None:
    """The DEK, the server's key and whatever is in our environment stay out of both."""
    secrets = [
        live.sealed.vendor.raw_dek,
        live.sealed.vendor.raw_dek.hex().encode(),
        live.engine.address.api_key.encode(),
    ]
    for pid in live.processes:
        shown = (
            Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        )
        assert not [secret for secret in secrets if secret in shown]
        assert b"PYTEST_CURRENT_TEST" not in shown
    assert "PYTEST_CURRENT_TEST" in os.environ


def test_every_process_is_hardened(live: Live) -> None:
    """No core dump and no new privileges, in the server, the core and each rank."""
    for pid in live.processes:
        status = Path(f"/proc/{pid}/status").read_text()
        assert processes.core_limit(pid) == ["0", "0"]
        assert "NoNewPrivs:\t1" in status


def test_no_descriptor_and_no_mapping_of_the_weights_is_left(live: Live) -> None:
    """The memfds are closed and unmapped in every process, ours too: the memory is given back."""
    for pid in [*live.processes, os.getpid()]:
        assert not [name for name in processes.descriptors(pid) if "ostiary-model" in name]
        assert "ostiary-model" not in Path(f"/proc/{pid}/maps").read_text()


def test_it_listens_on_a_private_socket_and_the_loopback_only(live: Live) -> None:
    """The server is at a socket of this user; what vLLM's processes tell each other stays here."""
    uds = Path(live.engine.address.uds)

    assert [place.stat().st_mode & 0o777 for place in (uds, uds.parent)] == [0o700, 0o700]
    for pid in live.processes:
        assert set(processes.listening(pid)) <= {"0100007F", "00000000000000000000000001000000"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("POST", "/tokenize"),
        ("POST", "/invocations"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("POST", "/v1/responses"),
        ("GET", "/version"),
        ("POST", "/scale_elastic_ep"),
    ],
)
def test_routes_that_the_front_does_not_use_are_not_there(
    live: Live, method: str, path: str
) -> None:
    """vLLM's other endpoints answer 404, with the key too."""
    with kit.client(live.engine.address) as http:
        assert http.request(method, path, json={}).status_code == 404
        assert http.get("/health").status_code == 200
        assert http.get("/health", headers={"authorization": "Bearer x"}).status_code == 404


def test_no_file_that_it_can_reach_holds_weights(live: Live, tmp_path: Path) -> None:
    """Private folder and shared memory hold no run of weight bytes; the plain files do."""
    shard = min(live.sealed.plain.glob("*.safetensors")).read_bytes()
    needle = shard[len(shard) // 2 :][:48]

    assert processes.holding(live.sealed.plain, needle), "the scan does not find what is there"
    assert processes.holding(live.home, needle) == []
    assert processes.holding(SHARED, needle) == []
    names = {path.name for path in (live.home / "model").iterdir()}
    assert names == {path.name for path in live.sealed.plain.iterdir()}
    assert tmp_path.exists()


def test_a_rank_that_dies_ends_the_engine(live: Live) -> None:
    """The watch sees it, every process goes, and nothing of it is left in memory files."""
    rank = live.processes[-1]
    mine = live.processes
    waiting = asyncio.run_coroutine_threadsafe(live.engine.wait_exit(), live.loop)
    os.kill(rank, signal.SIGKILL)

    assert waiting.result(30) != 0
    assert live.engine.last_words.startswith(("rank ", "server"))
    live.run(live.engine.stop())
    assert [pid for pid in mine if processes.tree(pid)] == []
    assert kit.left_in_shared_memory() - live.before == set()
    with pytest.raises(EngineError):
        _ = live.engine.address


def test_a_flipped_byte_of_the_last_shard_stops_the_start(hub: Hub, tmp_path: Path) -> None:
    """A real vLLM is up and waiting when the last file turns out wrong: named, and all ended."""
    sealed = kit.seal(hub(HubLayout()), tmp_path)
    name = max(path.name for path in sealed.plain.glob("*.safetensors"))
    raw = bytearray(sealed.source.files[f"files/{name}"])
    raw[-20] ^= 1
    # The last segment is read for the header too, so the change comes after that.
    model = sealed.model()
    before = kit.left_in_shared_memory()

    async def play() -> RuntimeFault:
        engine = VllmEngine(kit.CPU)

        def watch(stage: Stage) -> None:
            if stage.name == "small files":
                sealed.source.files[f"files/{name}"] = bytes(raw)

        with pytest.raises(RuntimeFault, match=name) as refused:
            await engine.load(model, alias=kit.ALIAS, watch=watch)
        assert processes.tree(engine.pid) == []
        return refused.value

    fault = asyncio.run(play())

    assert fault.code is Fault.SEALED_SEGMENT
    assert model._dek.wiped
    assert kit.left_in_shared_memory() == before


def test_a_checkpoint_without_some_weights_is_refused(plain: Path, tmp_path: Path) -> None:
    """vLLM's own check for missing weights works for sealed files too."""
    folder = tmp_path / "short"
    folder.mkdir()
    for path in plain.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((plain / "config.json").read_text())
    config["num_hidden_layers"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    sealed = kit.seal(folder, tmp_path)

    async def play() -> EngineError:
        with pytest.raises(EngineError) as refused:
            async with kit.running(sealed.model()):
                pass
        return refused.value

    error = asyncio.run(play())

    assert error.fault is EngineFault.LOAD_FAILED
    assert "Error" in str(error)
    assert "layers" not in str(error)


def test_more_memory_than_there_is_is_named(sealed: kit.Sealed, tmp_path: Path) -> None:
    """An engine that wants more memory than the machine has ends with that code."""
    said = tmp_path / "said"
    greedy = dataclasses.replace(kit.CPU, cpu_cache_gib=100_000, output=said)

    async def play() -> EngineFault:
        with pytest.raises(EngineError) as refused:
            async with kit.running(sealed.model(), greedy):
                pass
        return refused.value.fault

    fault = asyncio.run(play())

    assert fault is EngineFault.OUT_OF_MEMORY, said.read_text()[-3000:]
    assert said.stat().st_mode & 0o777 == 0o600
