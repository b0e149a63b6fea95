"""One start of vLLM on a plain or a sealed checkpoint, in the environment that has vLLM.

Guarantees: both starts have the same arguments and environment, but for the load format and what
comes with it; the seconds of a load are those that vLLM's own loader logs, of the slowest rank.
Called by `vllm_rows` with that environment's Python: a request on standard input, one line of JSON
on standard output.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.memory_use import Sampler
from inference_runtime.engine.protocol import EngineAddress, Stage
from inference_runtime.engine.vllm import probe
from inference_runtime.engine.vllm.driver import VllmEngine
from inference_runtime.engine.vllm.home import Home
from inference_runtime.engine.vllm.options import VllmSettings, arguments, environment
from inference_runtime.sealed import manifest as manifests
from inference_runtime.sealed.secret import SecretKey
from inference_runtime.sealed.source import LocalFolder
from inference_runtime.sealed.stream_model import StreamedModel

_ALIAS: Final = "bench"
_TOOK: Final = re.compile(rb"Loading weights took ([0-9.]+) seconds")
_SEALED_ONLY: Final = ("--load-format", "--model=", "--model-loader", "--middleware", "--uds")
_SERVER: Final = """
from vllm.entrypoints.launchers.api_server.entry import main
if __name__ == "__main__":
    main()
"""


def main() -> None:
    """Read a request, start vLLM once, end it, and print what was measured."""
    request = json.loads(sys.stdin.read())
    # vLLM on a processor binds nothing: both kinds of start have every processor and `ranks`.
    settings = VllmSettings(
        tensor_parallel_size=request["ranks"], cpu=True, context=512, start_seconds=300
    )
    with Sampler() as sampler:
        if request["kind"] == "sealed":
            found = asyncio.run(_sealed(settings, request))
        else:
            found = _plain(settings, Path(request["plain"]), request["threads"])
    found["memory"] = sampler.peak - sampler.start
    print(json.dumps(found))


async def _sealed(settings: VllmSettings, request: dict[str, Any]) -> dict[str, Any]:
    trusted = manifests.verify(
        bytes.fromhex(request["envelope"]),
        [bytes.fromhex(request["signer"])],
        1,
        expected_digest=bytes.fromhex(request["digest"]),
        expected_genesis=bytes.fromhex(request["genesis"]),
    )
    dek = SecretKey(bytearray.fromhex(request["dek"]))
    model = StreamedModel(trusted, LocalFolder(Path(request["sealed"])), dek)
    engine = VllmEngine(settings)
    stages: list[Stage] = []
    took: list[float] = []

    def watch(stage: Stage) -> None:
        stages.append(stage)
        # What vLLM printed is there until it serves.
        took[:] = _took(b"".join(engine._output._lines or ()))  # noqa: SLF001 - vLLM's own figure, which nobody else wants

    try:
        await engine.load(model, alias=_ALIAS, watch=watch)
    finally:
        await engine.stop()
    return {"load": max(took), "stages": [[stage.name, stage.seconds] for stage in stages]}


def _plain(settings: VllmSettings, folder: Path, threads: int) -> dict[str, Any]:
    home = Home()
    uds, script, log = (home.path / name for name in ("plain.sock", "plain.py", "plain.log"))
    script.write_text(_SERVER)  # a file, as each of vLLM's processes imports it again
    words = [f"--model={folder}", f"--uds={uds}"]
    words += [
        word for word in arguments(settings, home, _ALIAS) if not word.startswith(_SEALED_ONLY)
    ]
    if threads > 1:
        extra = {"enable_multithread_load": True, "num_threads": threads}
        words.append(f"--model-loader-extra-config={json.dumps(extra)}")
    begun = time.monotonic()
    try:
        with log.open("wb") as out:
            server = subprocess.Popen(
                [sys.executable, script, *words],
                env=home.environment() | environment(settings) | {"VLLM_PLUGINS": ""},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _until_answered(server, EngineAddress(str(uds), "http://plain", "none"), log, begun)
            total = time.monotonic() - begun
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        return {"load": max(_took(log.read_bytes())), "stages": [["all", total]]}
    finally:
        home.close()


def _until_answered(
    server: subprocess.Popen[bytes], address: EngineAddress, log: Path, begun: float
) -> None:
    while not probe.listens(address.uds):
        if server.poll() is not None or time.monotonic() - begun > 300:
            sys.exit(log.read_text(errors="replace")[-4000:])
        time.sleep(0.1)
    transport = httpx.HTTPTransport(uds=address.uds)
    with httpx.Client(transport=transport, base_url=address.base_url, timeout=300) as http:
        body = {"model": _ALIAS, "prompt": "a", "max_tokens": 1}
        http.post("/v1/completions", json=body).raise_for_status()


def _took(words: bytes) -> list[float]:
    return [float(seconds) for seconds in _TOOK.findall(words)]
