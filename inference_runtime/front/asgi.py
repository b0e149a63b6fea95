"""The little of ASGI 3.0 that the front needs: types, a capped body, an answer.

Guarantees: a body is read up to the cap and no further, within a time limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from inference_runtime.front.problems import Problem, Refusal

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

JSON: Final = b"application/json"

_ALWAYS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


class ClientGoneError(Exception):
    """The caller closed the connection; there is nobody to answer."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the value of the header `name` (lower case), joined if it was sent twice."""
    values = [value for key, value in scope["headers"] if key == name]
    return b", ".join(values) if values else None


async def read_body(scope: Scope, receive: Receive, *, cap: int, seconds: float) -> bytes:
    """Return the body of a request whose media type is JSON.

    Args:
        scope: the request.
        receive: its events.
        cap: most bytes taken.
        seconds: time within which the whole body must have come.

    Raises:
        Refusal: UNSUPPORTED_MEDIA_TYPE, TOO_LARGE or BODY_TIMEOUT.
        ClientGoneError: the caller left before the body was complete.
    """
    media, _, parameters = (header(scope, b"content-type") or b"").lower().partition(b";")
    charset = parameters.strip().replace(b'"', b"")
    if media.strip() != JSON or charset not in {b"", b"charset=utf-8"}:
        raise Refusal(Problem.UNSUPPORTED_MEDIA_TYPE)
    if (header(scope, b"content-encoding") or b"identity").lower() != b"identity":
        raise Refusal(Problem.UNSUPPORTED_MEDIA_TYPE)
    declared = header(scope, b"content-length") or b"0"
    if not declared.isdigit() or len(declared) > len(str(cap)) or int(declared) > cap:
        raise Refusal(Problem.TOO_LARGE)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise ClientGoneError
                body += event.get("body", b"")
                if len(body) > cap:
                    raise Refusal(Problem.TOO_LARGE)
                if not event.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refusal(Problem.BODY_TIMEOUT) from None


async def start(
    send: Send, status: int, media: bytes, extra: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send status and headers."""
    headers = [(b"content-type", media), *_ALWAYS, *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def answer(
    send: Send, status: int, body: bytes, extra: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send a whole JSON answer."""
    await start(send, status, JSON, [(b"content-length", str(len(body)).encode()), *extra])
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, refusal: Refusal) -> None:
    """Send an error answer."""
    await answer(send, refusal.status, refusal.body())
