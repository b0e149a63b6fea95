"""The framing between the runtime and a simulated report device, over a unix stream socket.

Guarantees: `read_frame` returns one whole frame of the expected protocol and at most the allowed
size, or raises `FrameError`; `join` and `split` are each other's inverse. One request and one
answer per connection.

A frame is: "OSIM" ‖ version u8 (2) ‖ code u8 ‖ payload length u32 big-endian ‖ payload.
Requests: code 1 = report, payload 64 bytes of report data; code 2 = claims, no payload; code 3 =
NVML, payload function u8 ‖ GPU u8 ‖ argument; code 4 = switches, payload a nonce of 32 bytes.
Answers: code 0 = good; 1 = the request is not one; 2 = the device failed; these two carry text.
A good report is join(cpu evidence, event log, auxiliary blob, what the vTPM says: `Vtpm` in the
wire's canonical JSON, or nothing); good claims are join(kind, launch configuration, the TD or SNP
report that the guest can read of itself, with zero report data, the vTPM's public key).
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, final

MAX_ANSWER: Final = 1024 * 1024
"""Largest payload of an answer in bytes."""
MAX_REQUEST: Final = 64
"""Largest payload of a request in bytes."""
REPORT: Final = 1
CLAIMS: Final = 2
NVML: Final = 3
SWITCHES: Final = 4
GOOD: Final = 0
BAD_REQUEST: Final = 1
FAILED: Final = 2

_MAGIC: Final = b"OSIM\x02"
_HEAD: Final = len(_MAGIC) + 1 + 4
_LENGTH: Final = 4


@final
class NvmlFunction(IntEnum):
    """What is asked of the simulated NVML; argument in brackets."""

    INIT = 0
    SETTINGS = 1
    COUNT = 2
    REPORT = 3
    """[nonce, 32 bytes]"""
    CHAIN = 4
    GET_READY = 5
    SET_READY = 6
    """[0 or 1, one byte]"""
    DRIVER_VERSION = 7
    UUID = 8
    VBIOS_VERSION = 9


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
        raise FrameError("the peer does not speak the simulated device's protocol, version 2")
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
