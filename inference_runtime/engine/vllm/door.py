"""The door of vLLM's own server: one key for every path, and only the paths that the front uses.

Guarantees: a request without the key, or for another path or method, gets an empty 404 and reaches
nothing of vLLM; vLLM's own `--api-key` leaves paths such as /invocations and /health open and would
stand in its log. The key comes in through `admit`, never through argv or the environment.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, final

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

ALLOWED: Final = frozenset(
    {
        ("GET", "/health"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
    }
)
_keys: list[bytes] = []


def admit(key: str) -> None:
    """Let requests with this key in; nobody is let in before."""
    _keys[:] = [b"Bearer " + key.encode()]


@final
class Door:
    """ASGI middleware, named to vLLM by its import path."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer that there is nothing."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and _may_pass(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})


def _may_pass(scope: Scope) -> bool:
    shown = [value for name, value in scope["headers"] if name == b"authorization"]
    known = len(shown) == 1 and any(hmac.compare_digest(shown[0], key) for key in _keys)
    return known and (scope["method"], scope["path"]) in ALLOWED
