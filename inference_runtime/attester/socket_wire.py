"""The framing between the runtime and a simulated report device, over a unix stream socket.

Guarantees: `read_frame` returns one whole frame of the expected protocol and at most the allowed
size, or raises `FrameError`; `join` and `split` are each other's inverse. One request and one
answer per connection.

A frame is: "OSIM" ‖ version u8 (1) ‖ code u8 ‖ payload length u32 big-endian ‖ payload.
Requests: code 1 = report, payload 64 bytes of report data; code 2 = claims, no payload.
Answers: code 0 = good; 1 = the request is not one; 2 = the device failed; these two carry text.
A good report is join(cpu evidence, event log, auxiliary blob); good claims are join(kind, launch
configuration, the TD or SNP report that the guest can read of itself, with zero report data).
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

MAX_ANSWER: Final = 1024 * 1024
"""Largest payload of an answer in bytes."""
MAX_REQUEST: Final = 64
"""Largest payload of a request in bytes."""
REPORT: Final = 1
CLAIMS: Final = 2
GOOD: Final = 0
BAD_REQUEST: Final = 1
FAILED: Final = 2

_MAGIC: Final = b"OSIM\x01"
_HEAD: Final = len(_MAGIC) + 1 + 4
_LENGTH: Final = 4


class FrameError(Exception):
    """Bytes that are not a frame of this protocol."""


def frame(code: int, payload: bytes) -> bytes:
    """Return one frame."""
    return _MAGIC + bytes([code]) + len(payload).to_bytes(_LENGTH, "big") + payload


def read_frame(connection: socket.socket, limit: int) -> tuple[int, bytes]:
    """Return code and payload of the next frame, of at most `limit` payload bytes.

    Raises:
        FrameError: not a frame, too large, or cut short.
        OSError: the connection failed or timed out.
    """
    head = _read(connection, _HEAD)
    size = int.from_bytes(head[-_LENGTH:], "big")
    if not head.startswith(_MAGIC):
        raise FrameError("the peer does not speak the simulated device's protocol, version 1")
    if size > limit:
        raise FrameError(f"a payload of {size} bytes, limit {limit}")
    return head[len(_MAGIC)], _read(connection, size)


def _read(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = connection.recv(min(size - len(data), 65536))
        if not chunk:
            raise FrameError(f"the peer closed after {len(data)} of {size} bytes")
        data += chunk
    return bytes(data)


def join(parts: Sequence[bytes]) -> bytes:
    """Return parts, each after its u32 big-endian length."""
    return b"".join(len(part).to_bytes(_LENGTH, "big") + part for part in parts)


def split(payload: bytes, count: int) -> list[bytes]:
    """Return exactly `count` parts that take up the whole payload.

    Raises:
        FrameError: lengths and payload do not agree.
    """
    parts = []
    at = 0
    for _ in range(count):
        start = at + _LENGTH
        end = start + int.from_bytes(payload[at:start], "big")
        if start > len(payload) or end > len(payload):
            raise FrameError("a part is longer than the payload")
        parts.append(payload[start:end])
        at = end
    if at != len(payload):
        raise FrameError("bytes after the last part")
    return parts
