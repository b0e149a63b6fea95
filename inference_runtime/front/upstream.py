"""The way from the front to the engine: one connection pool over the engine's unix socket.

Guarantees: the engine's key is added here and a caller's headers never go along; the engine's own
error texts, which may quote a request, stop here.
Does not retry: a prompt is sent once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, final

import httpx
import msgspec

from inference_runtime.engine.protocol import EngineAddress
from inference_runtime.front.problems import Problem, Refusal

_OK: Final = 200
_BAD_REQUEST: Final = 400
_UNAVAILABLE: Final = 503
_MAX_ERROR: Final = 64 * 1024
_TOO_LONG: Final = ("input_tokens", "input_text")


class _ErrorFields(msgspec.Struct, frozen=True):
    type: str = ""
    param: str | None = None


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _ErrorFields


@final
class Upstream:
    """A client for one engine."""

    def __init__(self, address: EngineAddress, *, connections: int, read_seconds: float) -> None:
        self.address = address
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                uds=address.uds,
                retries=0,
                limits=httpx.Limits(max_connections=connections),
            ),
            base_url=address.base_url,
            headers={"authorization": f"Bearer {address.api_key}"},
            timeout=httpx.Timeout(10.0, read=read_seconds),
            trust_env=False,
            follow_redirects=False,
        )

    async def aclose(self) -> None:
        """Close the pool."""
        await self._client.aclose()

    @asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send `body` and give the pieces of the engine's answer as they come.

        Leaving the context early closes the connection, on which the engine ends its work.

        Raises:
            Refusal: the engine cannot be reached, fails, or refuses; also while pieces are read.
        """
        content = {"content-type": "application/json"}
        try:
            async with self._client.stream("POST", path, content=body, headers=content) as response:
                if response.status_code != _OK:
                    raise await _translated(response)
                yield response.aiter_raw()
        except httpx.HTTPError:
            # `from None`: nothing of the exchange may end up in a traceback.
            raise Refusal(Problem.ENGINE_UNAVAILABLE) from None


async def _translated(response: httpx.Response) -> Refusal:
    if response.status_code == _UNAVAILABLE:
        return Refusal(Problem.ENGINE_UNAVAILABLE)
    if response.status_code != _BAD_REQUEST:
        return Refusal(Problem.ENGINE_ERROR)
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > _MAX_ERROR:
            return Refusal(Problem.ENGINE_REFUSED)
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except (msgspec.DecodeError, RecursionError):
        return Refusal(Problem.ENGINE_REFUSED)
    # llama.cpp's word for it, and vLLM's.
    if error.type == "exceed_context_size_error" or error.param in _TOO_LONG:
        return Refusal(Problem.CONTEXT_EXCEEDED)
    return Refusal(Problem.ENGINE_REFUSED)
