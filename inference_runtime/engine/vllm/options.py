"""What can be set of a vLLM engine, and the arguments and environment that come of it.

Guarantees: no argument and no variable holds a secret; custom code is never trusted; nothing is
logged of a request; the cache of prefixes is off, so that no caller learns from the time of an
answer what another one asked.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from inference_runtime.engine.vllm.home import SHARED, Home
from inference_runtime.engine.vllm.wire import LOAD_FORMAT, SOCKET_KEY

_DOOR: Final = "inference_runtime.engine.vllm.door.Door"


@final
@dataclass(frozen=True, slots=True)
class VllmSettings:
    """Sizes of the engine: ranks, tokens, GiB, seconds.

    `cpu` is for development: it runs on the processor, in as many processes as there are ranks.
    `dtype` and `context` as vLLM chooses them where they are not given. `output` is a file that
    vLLM's own words are written to if it fails to start; they may name the model's shape.
    """

    tensor_parallel_size: int = 1
    cpu: bool = False
    dtype: str = "auto"
    context: int | None = None
    gpu_share: float | None = None
    cpu_cache_gib: int = 1
    start_seconds: float = 3600.0
    parent: Path = SHARED
    output: Path | None = None


def arguments(settings: VllmSettings, home: Home, alias: str) -> list[str]:
    """Return vLLM's command line; see its `serve` command for what each one means."""
    extra = json.dumps({SOCKET_KEY: str(home.handout)})
    found = [
        f"--model={home.model}",
        f"--served-model-name={alias}",
        f"--load-format={LOAD_FORMAT}",
        f"--model-loader-extra-config={extra}",
        f"--tensor-parallel-size={settings.tensor_parallel_size}",
        f"--uds={home.socket}",
        f"--middleware={_DOOR}",
        f"--dtype={settings.dtype}",
        "--config-format=hf",
        "--no-enable-prefix-caching",
        "--disable-fastapi-docs",
        "--disable-uvicorn-access-log",
        "--uvicorn-log-level=warning",
        "--disable-log-stats",
    ]
    if settings.tensor_parallel_size > 1:
        found.append("--distributed-executor-backend=mp")
    if settings.context is not None:
        found.append(f"--max-model-len={settings.context}")
    if settings.gpu_share is not None and not settings.cpu:
        found.append(f"--gpu-memory-utilization={settings.gpu_share}")
    if settings.cpu:
        found.append("--enforce-eager")  # compiling takes longer than a development run serves
    return found


def environment(settings: VllmSettings) -> dict[str, str]:
    """Return what the processor build wants to be told beyond `Home.environment`."""
    if not settings.cpu:
        return {}
    threads = max(1, (os.cpu_count() or 1) // settings.tensor_parallel_size)
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_cache_gib),
        # Several ranks on one NUMA node are refused unless the binding is left alone.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
    }
