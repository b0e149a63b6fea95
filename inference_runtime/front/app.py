"""The front's application: five paths, each with one method; everything else is not there.

Guarantees: a request reaches the engine only while the state says serving; when it is cut, a
running stream ends with an error event and no `[DONE]`; when a caller leaves, the engine is told
by the closed connection. Nothing is logged.
Does not bind a socket: `server.serve_front` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, final

import msgspec

from inference_runtime.front import asgi, requests
from inference_runtime.front.asgi import ClientGoneError, Receive, Scope, Send
from inference_runtime.front.problems import Problem, Refusal
from inference_runtime.front.state import NotServing, RuntimeState
from inference_runtime.front.upstream import Upstream


@final
@dataclass(frozen=True, slots=True)
class FrontLimits:
    """Bytes, requests and seconds that one front allows."""

    body_bytes: int = 1024 * 1024
    in_flight: int = 32
    body_seconds: float = 30.0
    engine_read_seconds: float = 600.0


Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

_POSTED: Final[dict[str, type[requests.Request]]] = {
    "/v1/chat/completions": requests.ChatRequest,
    "/v1/completions": requests.CompletionRequest,
}


@final
class Front:
    """The ASGI application. One event loop; `aclose` when it is served no more."""

    def __init__(self, state: RuntimeState, limits: FrontLimits | None = None) -> None:
        self._state = state
        self._limits = limits or FrontLimits()
        self._upstream: Upstream | None = None
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._gets: dict[str, Handler] = {
            "/health": self._health,
            "/ready": self._ready,
            "/v1/models": self._models,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            return
        with suppress(ClientGoneError):
            try:
                await self._route(scope, receive, send)
            except Refusal as refusal:
                await asgi.refuse(send, refusal)

    async def drained(self, seconds: float) -> bool:
        """Wait until no request runs, at most `seconds`; True if none does."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def aclose(self) -> None:
        """Close the connections to the engine."""
        if self._upstream is not None:
            await self._upstream.aclose()
            self._upstream = None

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path in self._gets:
            if method != "GET":
                raise Refusal(Problem.METHOD_NOT_ALLOWED)
            await self._gets[path](scope, receive, send)
        elif path in _POSTED:
            if method != "POST":
                raise Refusal(Problem.METHOD_NOT_ALLOWED)
            await self._completion(scope, receive, send)
        else:
            raise Refusal(Problem.NOT_FOUND)

    async def _health(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Say that the process lives, whatever it may serve."""
        await asgi.answer(send, 200, b'{"status":"alive"}')

    async def _ready(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Say whether requests are served, and why not."""
        state = self._state
        body = {
            "status": "ready" if state.serving else "not_ready",
            "reason": state.reason,
            "attested": state.attested,
            "key_held": state.key_held,
            "engine_up": state.engine is not None,
            "model": state.model,
            "model_digest": state.model_digest,
        }
        await asgi.answer(send, 200 if state.serving else 503, msgspec.json.encode(body))

    async def _models(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """List the one model that is served, in OpenAI's shape, with its digest."""
        self._require_serving()
        model = {
            "id": self._state.model,
            "object": "model",
            "created": 0,
            "owned_by": "ostiary",
            "model_digest": self._state.model_digest,
        }
        await asgi.answer(send, 200, msgspec.json.encode({"object": "list", "data": [model]}))

    async def _completion(self, scope: Scope, receive: Receive, send: Send) -> None:
        # 1. Refuse before the body is read, and again after: the state may have changed meanwhile.
        self._require_serving()
        if self._running >= self._limits.in_flight:
            raise Refusal(Problem.TOO_MANY)
        self._running += 1
        self._idle.clear()
        try:
            # 2. Read, cap, decode, and print anew.
            body = await asgi.read_body(
                scope, receive, cap=self._limits.body_bytes, seconds=self._limits.body_seconds
            )
            request = requests.decode(_POSTED[scope["path"]], body)
            if request.model != self._state.model:
                raise Refusal(Problem.UNKNOWN_MODEL)
            forwarded = requests.encode_for_engine(request)
            upstream = await self._engine()
            # 3. Relay until the answer ends, the state is cut, or the caller leaves.
            relay = _Relay(send, stream=request.stream)
            await self._until_cut(relay.run(upstream, scope["path"], forwarded), receive, relay)
        finally:
            self._running -= 1
            if self._running == 0:
                self._idle.set()

    async def _until_cut(self, running: Awaitable[None], receive: Receive, relay: _Relay) -> None:
        work = asyncio.ensure_future(running)
        gone = asyncio.ensure_future(_disconnected(receive))
        cut = asyncio.ensure_future(self._state.wait_cut())
        try:
            await asyncio.wait({work, gone, cut}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await relay.settle(work)
            elif cut.done():
                await _ended(work)
                await relay.fail(Refusal(self._state.reason or NotServing.STOPPING))
            else:
                raise ClientGoneError
        finally:
            await _ended(work)
            await _ended(gone)
            await _ended(cut)

    def _require_serving(self) -> None:
        if not self._state.serving or self._state.engine is None:
            raise Refusal(self._state.reason or NotServing.STOPPING)

    async def _engine(self) -> Upstream:
        address = self._state.engine
        if not self._state.serving or address is None:
            raise Refusal(self._state.reason or NotServing.STOPPING)
        if self._upstream is None or self._upstream.address != address:
            await self.aclose()
            self._upstream = Upstream(
                address,
                connections=self._limits.in_flight,
                read_seconds=self._limits.engine_read_seconds,
            )
        return self._upstream


@final
class _Relay:
    """One answer on its way from the engine to a caller."""

    def __init__(self, send: Send, *, stream: bool) -> None:
        self._send = send
        self._stream = stream
        self._started = False

    async def run(self, upstream: Upstream, path: str, body: bytes) -> None:
        """Pass the engine's answer on: piece by piece if it streams, else when it is whole."""
        async with upstream.post(path, body) as pieces:
            if not self._stream:
                whole = b"".join([piece async for piece in pieces])
                self._started = True
                await asgi.answer(self._send, 200, whole)
                return
            async for event in _whole_events(pieces):
                if not self._started:
                    self._started = True
                    await asgi.start(self._send, 200, b"text/event-stream; charset=utf-8")
                await self._piece(event)
        if not self._started:
            raise Refusal(Problem.ENGINE_ERROR)
        await self._piece(b"", last=True)

    async def settle(self, work: asyncio.Future[None]) -> None:
        """Take the outcome of `run`; a refusal becomes an answer."""
        try:
            await work
        except Refusal as refusal:
            await self.fail(refusal)

    async def fail(self, refusal: Refusal) -> None:
        """Answer with an error, or end a stream that has begun with an error event."""
        if not self._started:
            raise refusal
        if self._stream:
            await self._piece(b"data: " + refusal.body() + b"\n\n", last=True)

    async def _piece(self, piece: bytes, *, last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": piece, "more_body": not last})


async def _whole_events(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Give server-sent events whole, so that a cut never leaves half of one."""
    rest = b""
    async for piece in pieces:
        head, end, rest = (rest + piece).rpartition(b"\n\n")
        if end:
            yield head + end
    if rest:
        yield rest


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ended(task: asyncio.Future[None]) -> None:
    """Cancel `task` and wait until it has let go of what it holds."""
    if not task.done():
        task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # seen: who needs it took it from `settle`
