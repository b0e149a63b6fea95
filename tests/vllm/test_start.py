"""`ostiary runtime serve --engine vllm` as a user runs it, from the challenge to SIGTERM, watched.

The device is simulated and the broker is software of the tests; supervisor, vLLM and the files are
the real ones. The whole run is under strace.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from inference_runtime.engine.vllm.home import SHARED
from ostiary.simulator.device import serving
from tests.kit import memory, processes, traced
from tests.kit import vllm as kit
from tests.kit.runtime import MODEL, TENANT, SoftBroker, served

# Where libuuid, which Python's `uuid` calls, keeps a clock's state: a line of text of its own.
UUID_CLOCK = "/var/lib/libuuid/clock.txt"
ROOT = Path(__file__).resolve().parents[2]


def test_the_trace_tells_a_file_from_memory(tmp_path: Path) -> None:
    """A file that is written to, mapped shared or opened for writing is seen; memory is not."""
    if not traced.available():
        pytest.skip("strace is not installed")
    script = """
import mmap, os, sys
folder, shared = sys.argv[1:]
open(folder + "/opened", "wb").close()
with open(folder + "/written", "wb", buffering=0) as file: file.write(b"x" * 4096)
with open(folder + "/written", "r+b") as file: mmap.mmap(file.fileno(), 0)
os.chdir(folder); open("relative", "ab").close()
with open(shared, "wb") as file: file.write(b"x")
os.unlink(shared)
open("/dev/null", "w").close(); open("/etc/hostname").close()
os.write(os.memfd_create("m"), b"x")
try: open(folder + "/absent/x", "wb")
except OSError: pass
"""
    log = tmp_path / "log"
    shared = SHARED / f"ostiary-test-{os.getpid()}"
    subprocess.run(
        traced.command(log, sys.executable, "-c", script, str(tmp_path), str(shared)), check=True
    )

    assert traced.on_disk(log) == {
        f"{tmp_path}/{name}" for name in ("opened", "written", "relative")
    }


@dataclass
class Run:
    """One run of the command, and what it said."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def until(self, stage: str) -> str:
        """Read what it prints up to a stage; return its line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith(stage):
                return line
        assert self.process.stderr is not None
        raise AssertionError("".join(self.lines) + self.process.stderr.read())


@contextmanager
def runtime(command: list[str]) -> Iterator[Run]:
    """Run a command in a folder of the repository, without byte code being written."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"},
        start_new_session=True,
    )
    with process:
        try:
            yield Run(process)
        finally:
            for pid in processes.tree(process.pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.vllm
def test_a_whole_run_writes_no_file_and_leaves_no_key(plain: Path, tmp_path: Path) -> None:
    """Two ranks, from evidence to SIGTERM: nothing on a disk, no key in memory once it serves."""
    if not traced.available():
        pytest.skip("strace is not installed")
    broker = SoftBroker()
    broker.seal(plain, tmp_path / "sealed")
    dek = broker.deks[MODEL]
    before = kit.left_in_shared_memory()
    device, log = tmp_path / "machine.sock", tmp_path / "strace.log"
    with served(broker, tmp_path / "sealed") as house, serving(device, broker.td()):
        words = [sys.executable, "-m", "ostiary", "runtime", "serve", "--broker", house.url]
        words += ["--tenant", TENANT, "--model", f"{MODEL.id}/{MODEL.version}", "--port", "0"]
        words += ["--simulated-device", str(device), "--engine", "vllm", "--context", "512"]
        words += ["--tensor-parallel-size", "2", "--cpu-for-development", "--dtype", "float32"]
        with runtime(traced.command(log, *words)) as run:
            # 1. The key is there while the engine starts, in the supervisor and nowhere else.
            run.until("small files")
            supervisor = processes.tree(run.process.pid)[1]
            if memory.may_scan(supervisor):
                assert memory.count(supervisor, dek) > 0, "the scan does not find what is there"
            # 2. Once the weights are handed out it is nowhere.
            run.until("weights")
            url = run.until("serving").split()[-1]
            engine = processes.tree(supervisor)
            assert len(engine) >= 5
            if memory.may_scan(supervisor):
                assert [memory.count(pid, dek) for pid in engine] == [0] * len(engine)
            # 3. It answers, streamed and whole, and only what the front lets through.
            assert _chat(url) == _streamed(url) != ""
            assert httpx.get(f"{url.removesuffix('/v1')}/metrics").status_code == 404
            long = QUESTION | {"messages": [{"role": "user", "content": "door " * 3000}]}
            refused = httpx.post(f"{url}/chat/completions", json=long, timeout=120)
            assert refused.json()["error"]["code"] == "context_length_exceeded"
            # 4. SIGTERM ends all of it.
            os.kill(supervisor, signal.SIGTERM)
            run.process.wait(60)
            assert run.process.returncode == 0
            assert [pid for pid in engine if Path(f"/proc/{pid}/exe").exists()] == []
        said = "".join(run.lines)
    assert traced.on_disk(log) <= {UUID_CLOCK}
    assert kit.left_in_shared_memory() == before
    assert dek.hex() not in said
    assert said.count("NOTICE") == 1
    assert [line.split("  ")[0] for line in run.lines if " s  " in line] == [
        "evidence",
        "release",
        "small files",
        "engine",
        "weights",
        "engine up",
        "warm-up",
        "serving",
    ]


@pytest.mark.vllm
def test_a_killed_supervisor_takes_the_whole_engine_with_it(plain: Path, tmp_path: Path) -> None:
    """Server, core and rank end by the kernel's signal: no weights are left without a lease."""
    broker = SoftBroker()
    broker.seal(plain, tmp_path / "sealed")
    device = tmp_path / "machine.sock"
    before = set(SHARED.glob("ostiary-vllm-*"))
    with served(broker, tmp_path / "sealed") as house, serving(device, broker.td()):
        words = [sys.executable, "-m", "ostiary", "runtime", "serve", "--broker", house.url]
        words += ["--tenant", TENANT, "--model", f"{MODEL.id}/{MODEL.version}", "--port", "0"]
        words += ["--simulated-device", str(device), "--engine", "vllm", "--cpu-for-development"]
        with runtime(words) as run:
            run.until("weights")
            engine = processes.tree(run.process.pid)
            assert len(engine) >= 4
            run.process.kill()
            run.process.wait(10)
            end = time.monotonic() + 20
            while any(map(processes.tree, engine)) and time.monotonic() < end:
                time.sleep(0.05)
            left = [pid for pid in engine if processes.tree(pid)]
    for path in SHARED.iterdir():  # nobody was left to clear them away
        if path.name.startswith(("psm_", "sem.mp-", "vllm_")) and path.is_file():
            path.unlink()
    for folder in set(SHARED.glob("ostiary-vllm-*")) - before:
        shutil.rmtree(folder)
    assert left == []


QUESTION = {
    "model": MODEL.id,
    "messages": [{"role": "user", "content": "Who keeps the door?"}],
    "temperature": 0,
    "max_tokens": 16,
}


def _chat(url: str) -> str:
    answer = httpx.post(f"{url}/chat/completions", json=QUESTION, timeout=120)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def _streamed(url: str) -> str:
    text = ""
    body = QUESTION | {"stream": True}
    with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=120) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
    return text
