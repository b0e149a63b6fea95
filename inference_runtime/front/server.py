"""Serves the front with uvicorn inside the supervisor's event loop.

Guarantees: the socket is bound when `serve_front` returns; a unix socket is for this user only;
uvicorn neither logs nor takes over signals.
Does not speak TLS yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Final, final

import uvicorn

from inference_runtime.front.app import Front

_BACKLOG: Final = 128


class _Quiet(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the supervisor."""
        yield


@final
class FrontServer:
    """A front that is being served; `port` is 0 for a unix socket."""

    def __init__(self, app: Front, server: _Quiet, port: int, uds: Path | None) -> None:
        self.port = port
        self._app = app
        self._server = server
        self._uds = uds
        self._task: asyncio.Task[None] | None = None

    async def _begin(self, listener: socket.socket) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait({self._task, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            listening.cancel()
            await self._task  # raises what kept it from starting
            raise OSError("the front ended before it served")

    async def stop(self) -> None:
        """Close the socket, end what still runs within a second, and close the application."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
            self._task = None
        await self._app.aclose()
        if self._uds is not None:
            self._uds.unlink(missing_ok=True)


async def serve_front(
    app: Front, *, host: str = "127.0.0.1", port: int = 0, uds: Path | None = None
) -> FrontServer:
    """Serve `app` on a TCP port (0: any free one) or on the unix socket `uds`.

    Returns:
        The running server, whose `port` is the bound one.

    Raises:
        OSError: the address cannot be bound.
    """
    listener = _bind_unix(uds) if uds is not None else _bind_tcp(host, port)
    bound = 0 if uds is not None else int(listener.getsockname()[1])
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    server = FrontServer(app, _Quiet(config), bound, uds)
    try:
        await server._begin(listener)  # noqa: SLF001 - the other half of this constructor
    except BaseException:
        listener.close()
        raise
    return server


def _bind_tcp(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _bind_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)  # before `listen`, so that nobody else ever connects
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
