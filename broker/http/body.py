"""Reads a request's body: media type, size, then the one canonical encoding.

Litestar's own decoding takes `"1"` for an integer, duplicate keys and `text/plain` (measured), so
handlers come here with the raw bytes instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar

from litestar import Request
from litestar.exceptions import InternalServerException

from broker.errors import BrokerError, Code
from verifier.errors import Reason, VerifierError
from verifier.wire import canonical

JSON: Final = "application/json"
T = TypeVar("T")


async def raw(request: Request[Any, Any, Any], media_type: str = JSON) -> bytes:
    """Return the body's bytes; Litestar's `request_max_body_size` bounds them.

    Raises:
        BrokerError: `malformed` if the media type is another.
    """
    if request.headers.get("content-type", "") != media_type:
        raise BrokerError(Code.MALFORMED, f"content-type must be {media_type}")
    return await whole(request)


async def whole(request: Request[Any, Any, Any]) -> bytes:
    """Return the body's bytes, whatever their media type.

    Raises:
        BrokerError: `malformed` if the caller went away before the end.
    """
    try:
        return await request.body()
    except InternalServerException as error:  # Litestar's word for it; no fault of ours
        raise BrokerError(Code.MALFORMED, "the body ended early") from error


async def pieces(request: Request[Any, Any, Any]) -> AsyncIterator[bytes]:
    """Give the body piece by piece.

    Raises:
        BrokerError: `malformed` if the caller went away before the end.
    """
    try:
        async for piece in request.stream():
            yield piece
    except InternalServerException as error:
        raise BrokerError(Code.MALFORMED, "the body ended early") from error


async def read(request: Request[Any, Any, Any], kind: type[T]) -> T:
    """Return the message in the body.

    Raises:
        BrokerError: `malformed` or `too_large`.
    """
    return decode(await raw(request), kind)


def decode(body: bytes, kind: type[T]) -> T:
    """Return the message in `body`.

    Raises:
        BrokerError: `malformed` or `too_large`.
    """
    try:
        return canonical.decode(body, kind)
    except VerifierError as error:
        code = Code.TOO_LARGE if error.reason is Reason.TOO_LARGE else Code.MALFORMED
        raise BrokerError(code, str(error)) from error
