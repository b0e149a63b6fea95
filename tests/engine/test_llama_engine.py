from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_runtime.engine import control
from inference_runtime.engine.llama import LlamaEngine, LlamaSettings
from inference_runtime.engine.protocol import EngineError, EngineFault, ModelFile
from tests.kit.engine import MODEL, memfd, running_engine, sealed_model

CANARY = "canary-b7c1-do-not-log"


def _start_refused(files: list[ModelFile], alias: str = MODEL) -> EngineFault:
    async def start() -> EngineFault:
        engine = LlamaEngine()
        with pytest.raises(EngineError) as refused:
            await engine.start(files, alias=alias)
        with pytest.raises(EngineError):
            _ = engine.address
        return refused.value.fault

    return asyncio.run(start())


def test_a_file_on_disk_is_refused(gguf: Path) -> None:
    """The engine takes no model that has a name in a file system."""
    with gguf.open("rb") as file:
        fault = _start_refused([ModelFile("model.gguf", file.fileno())])

    assert fault == EngineFault.NOT_SEALED


@pytest.mark.parametrize("missing", [fcntl.F_SEAL_WRITE, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SHRINK])
def test_memory_that_can_still_change_is_refused(gguf: Path, missing: int) -> None:
    """A memfd without one of its seals is not loaded."""
    with memfd(gguf.read_bytes(), 0xF & ~missing) as fd:
        assert _start_refused([ModelFile("model.gguf", fd)]) == EngineFault.NOT_SEALED


@pytest.mark.parametrize("names", [[], ["config.json"], ["a.gguf", "b.gguf"]])
def test_there_must_be_exactly_one_gguf(names: list[str]) -> None:
    """No model and two models are refused alike."""
    with memfd(b"x") as fd:
        assert _start_refused([ModelFile(name, fd) for name in names]) == EngineFault.NO_MODEL


@pytest.mark.parametrize("alias", ["", "a\nb", "x" * 200])
def test_an_alias_is_a_short_printable_name(gguf: Path, alias: str) -> None:
    """A name that would not survive a log or a header is refused."""
    with memfd(gguf.read_bytes()) as fd:
        assert _start_refused([ModelFile("model.gguf", fd)], alias) == EngineFault.BAD_NAME


@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_a_broken_model_is_an_error_of_ours_and_leaves_no_child(gguf: Path, kept: int) -> None:
    """A model that llama.cpp cannot load ends the start with a stable code."""
    with memfd(gguf.read_bytes()[:kept]) as fd:
        fault = _start_refused([ModelFile("model.gguf", fd)])

    assert fault == EngineFault.LOAD_FAILED


def test_a_start_that_takes_too_long_is_ended(gguf: Path, tmp_path: Path) -> None:
    """The time limit kills the child and removes its folder."""

    async def start() -> None:
        engine = LlamaEngine(LlamaSettings(start_seconds=0.02), parent=tmp_path)
        with sealed_model(gguf) as files, pytest.raises(EngineError) as refused:
            await engine.start(files, alias=MODEL)
        assert refused.value.fault == EngineFault.TIMED_OUT

    asyncio.run(start())

    assert list(tmp_path.iterdir()) == []


def test_the_key_is_neither_in_argv_nor_in_the_environment_nor_in_a_repr(gguf: Path) -> None:
    """Who lists processes or logs an address learns nothing."""

    async def look() -> None:
        async with running_engine(gguf) as engine:
            process = Path("/proc") / str(engine.pid)
            argv = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes()
            key = engine.address.api_key
            order = control.Begin("s", key, "a", 1, 1, 1, 1)

            assert b"llama_child" in argv
            assert b"GGML_NO_BACKTRACE" in environment
            assert len(key) >= 43
            assert key.encode() not in argv + environment
            assert key not in repr(engine.address) + repr(order) + str(order)

    asyncio.run(look())


def _modes(path: Path) -> list[int]:
    return [place.stat().st_mode & 0o777 for place in (path, path.parent)]


def test_the_child_holds_the_model_in_memory_and_listens_on_no_network(gguf: Path) -> None:
    """Its mappings name a memfd and no model file, and none of its sockets is TCP or UDP."""

    async def look() -> None:
        async with running_engine(gguf) as engine:
            process = Path("/proc") / str(engine.pid)
            maps = (process / "maps").read_text()
            sockets = set()
            for link in (process / "fd").iterdir():
                target = str(link.readlink())
                if found := re.fullmatch(r"socket:\[(\d+)\]", target):
                    sockets.add(found[1])
            network = "".join(
                (process / "net" / name).read_text() for name in ("tcp", "tcp6", "udp", "udp6")
            )

            assert "/memfd:" in maps
            assert ".gguf" not in maps
            assert sockets
            assert not sockets & set(network.split())
            assert Path("/dev/null") == (process / "fd" / "1").readlink()
            assert Path("/dev/null") == (process / "fd" / "2").readlink()
            assert "NoNewPrivs:\t1" in (process / "status").read_text()
            assert _modes(Path(engine.address.uds)) == [0o600, 0o700]

    asyncio.run(look())


@pytest.mark.parametrize("path", ["/props", "/lora-adapters", "/v1/models", "/slots", "/metrics"])
def test_the_engine_answers_nobody_without_the_key(gguf: Path, path: str) -> None:
    """Even who reaches the socket is refused without the key, or with a wrong one."""

    async def ask() -> list[int]:
        async with running_engine(gguf) as engine:
            transport = httpx.AsyncHTTPTransport(uds=engine.address.uds)
            async with httpx.AsyncClient(transport=transport, base_url="http://e") as client:
                wrong = {"authorization": "Bearer wrong"}
                return [
                    (await client.get(path)).status_code,
                    (await client.get(path, headers=wrong)).status_code,
                ]

    assert asyncio.run(ask()) == [401, 401]


def test_an_engine_starts_once_and_stops_as_often_as_one_likes(gguf: Path, tmp_path: Path) -> None:
    """A second start is refused; stop is idempotent, before and after, and removes the folder."""

    async def live() -> None:
        engine = LlamaEngine(parent=tmp_path)
        await engine.stop()
        with pytest.raises(EngineError):
            await engine.wait_exit()
        with sealed_model(gguf) as files:
            await engine.start(files, alias=MODEL)
            with pytest.raises(EngineError) as refused:
                await engine.start(files, alias=MODEL)
        assert refused.value.fault == EngineFault.STATE
        pid = engine.pid
        await engine.stop()
        await engine.stop()
        assert await engine.wait_exit() == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    asyncio.run(live())

    assert list(tmp_path.iterdir()) == []


def test_an_idle_engine_drains_at_once(gguf: Path) -> None:
    """Told to finish with nothing to do, the child ends by itself with status 0."""

    async def live() -> tuple[bool, int]:
        async with running_engine(gguf) as engine:
            return await engine.drain(5), await engine.wait_exit()

    assert asyncio.run(live()) == (True, 0)


def test_the_exit_of_the_child_is_seen(gguf: Path) -> None:
    """Who waits for the exit hears of a killed child at once."""

    async def live() -> int:
        async with running_engine(gguf) as engine:
            watch = asyncio.create_task(engine.wait_exit())
            await asyncio.sleep(0)
            os.kill(engine.pid, signal.SIGKILL)
            return await asyncio.wait_for(watch, 5)

    assert asyncio.run(live()) == -signal.SIGKILL


ORPHAN = """
import asyncio, os, signal, sys
from pathlib import Path
from typing import Any
from tests.kit.engine import running_engine
async def main():
    async with running_engine(Path(sys.argv[1])) as engine:
        print(engine.pid, engine.address.uds, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def test_the_child_does_not_outlive_its_supervisor(gguf: Path) -> None:
    """A supervisor that is killed takes the engine with it."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN, str(gguf)],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        cwd=root,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, uds = done.stdout.split()
    deadline = time.monotonic() + 5
    state = "?"
    while time.monotonic() < deadline:
        try:
            state = (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            state = "gone"
        if state in {"gone", "Z"}:  # nobody may be there to reap it
            break
        time.sleep(0.02)
    Path(uds).unlink()
    Path(uds).parent.rmdir()

    assert state in {"gone", "Z"}


LOUD = """
import sys
from inference_runtime.engine import llama_child
llama_child._SILENT = int(sys.argv[2])
sys.exit(llama_child.main(int(sys.argv[1])))
"""


def _printed(gguf: Path, uds: Path, verbosity: int) -> bytes:
    """Run the real child with its output caught, ask it about the canary, return what it said."""
    ours, theirs = control.pair()
    log = uds.with_suffix(".log")  # not a pipe: a loud child would fill it, and stand still
    with ours, theirs, memfd(gguf.read_bytes()) as fd, log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-c", LOUD, str(theirs.fileno()), str(verbosity)],
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs.fileno(),),
            cwd=Path(__file__).resolve().parents[2],
        )
        theirs.close()
        try:
            ours.settimeout(20)
            assert control.Hardened() == control.decode(ours.recv(control.MAX_MESSAGE))
            order = control.Begin(str(uds), "key", MODEL, 512, 16, 1, 1)
            socket.send_fds(ours, [control.encode(order)], [fd])
            assert control.Ready() == control.decode(ours.recv(control.MAX_MESSAGE))
            good = {"messages": [{"role": "user", "content": CANARY}], "max_tokens": 4}
            for body in (good, {**good, "stream": True}, {"messages": CANARY}):
                _send(uds, "/v1/chat/completions", json=body)
            _send(uds, "/v1/completions", json={"prompt": CANARY * 500})
            _send(uds, "/v1/completions", content=f'{{"prompt": "{CANARY}')
            ours.send(control.encode(control.Finish()))
            child.wait(timeout=20)
        finally:
            child.kill()
            child.wait()
    return log.read_bytes()


def _send(uds: Path, path: str, **body: Any) -> None:
    """Send one request on a connection of its own: the engine closes some after an error."""
    headers = {"authorization": "Bearer key", "content-type": "application/json"}
    transport = httpx.HTTPTransport(uds=str(uds))
    with httpx.Client(
        transport=transport, base_url="http://e", headers=headers, timeout=20
    ) as client:
        client.post(path, **body)


def test_the_engine_prints_no_prompt(gguf: Path, tmp_path: Path) -> None:
    """With its output caught the child says nothing at all, even of requests that fail."""
    assert _printed(gguf, tmp_path / "quiet.sock", -1) == b""


def test_a_loud_engine_would_print_the_prompt(gguf: Path, tmp_path: Path) -> None:
    """The test above can fail: at llama.cpp's debug level the same requests show the canary."""
    assert CANARY.encode() in _printed(gguf, tmp_path / "loud.sock", 10)


def test_the_child_refuses_any_other_first_word() -> None:
    """A first packet that is not an order with one descriptor ends the child."""
    for packet in (b"{}", b'{"is":"finish"}', b"\xff", control.encode(control.Hardened())):
        ours, theirs = control.pair()
        with ours, theirs:
            child = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "inference_runtime.engine.llama_child",
                    str(theirs.fileno()),
                ],
                pass_fds=(theirs.fileno(),),
                cwd=Path(__file__).resolve().parents[2],
            )
            theirs.close()
            ours.settimeout(20)
            ours.recv(control.MAX_MESSAGE)
            ours.send(packet)
            try:
                assert child.wait(timeout=20) == 71
            finally:
                child.kill()
                child.wait()
