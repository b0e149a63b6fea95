"""Helpers for tests of the engine and its front: sealed memory, a running front, its clients."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai

from inference_runtime.engine.llama import LlamaEngine, LlamaSettings
from inference_runtime.engine.protocol import ModelFile
from inference_runtime.front.app import Front, FrontLimits
from inference_runtime.front.server import FrontServer, serve_front
from inference_runtime.front.state import ServingState

MODEL = "demo"
DIGEST = "ab" * 32
ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
# Long enough that an answer still runs when a test acts on it.
LONG = LlamaSettings(context=8192, answer=8000)


@contextlib.contextmanager
def memfd(data: bytes, seals: int = ALL_SEALS) -> Iterator[int]:
    """Hold `data` in a memfd with `seals`."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def sealed_model(gguf: Path) -> Iterator[list[ModelFile]]:
    """Hold the model in sealed memory, beside a file that an engine has no use for."""
    with memfd(gguf.read_bytes()) as model, memfd(b"{}") as config:
        yield [ModelFile("config.json", config), ModelFile("model.gguf", model)]


@contextlib.asynccontextmanager
async def running_engine(
    gguf: Path, settings: LlamaSettings | None = None
) -> AsyncIterator[LlamaEngine]:
    """Run the demo model from sealed memory."""
    engine = LlamaEngine(settings)
    try:
        with sealed_model(gguf) as files:
            await engine.start(files, alias=MODEL)
        yield engine
    finally:
        await engine.stop()


@dataclass(frozen=True, slots=True)
class House:
    """A served front with all that stands behind it."""

    engine: LlamaEngine
    state: ServingState
    app: Front
    server: FrontServer
    http: httpx.AsyncClient
    client: openai.AsyncOpenAI


@contextlib.asynccontextmanager
async def running_front(
    gguf: Path, settings: LlamaSettings | None = None, limits: FrontLimits | None = None
) -> AsyncIterator[House]:
    """Serve the demo model on a free port, with a plain client and the openai client."""
    async with running_engine(gguf, settings) as engine:
        state = ServingState()
        app = Front(state, limits)
        server = await serve_front(app)
        base = f"http://127.0.0.1:{server.port}"
        try:
            async with (
                httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as http,
                openai.DefaultAsyncHttpxClient(trust_env=False, timeout=30) as raw,
                openai.AsyncOpenAI(
                    base_url=f"{base}/v1", api_key="a-caller", max_retries=0, http_client=raw
                ) as client,
            ):
                state.begin(model=MODEL, model_digest=DIGEST, engine=engine.address)
                yield House(engine, state, app, server, http, client)
        finally:
            await server.stop()
