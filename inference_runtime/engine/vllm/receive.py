"""A rank's end of the hand-out: takes one descriptor after the other from the supervisor.

Guarantees: a descriptor is given on only if it is anonymous memory with every seal on it and of
the size that was said, so that nobody can change what is mapped; it is closed when the caller
takes the next one. Imports neither torch nor vLLM.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Final

import msgspec

from inference_runtime.engine.vllm import wire

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_CREDENTIALS: Final = struct.Struct("3i")


class HandoutError(Exception):
    """The supervisor gave no weights, or not what was agreed. The text holds no secret."""


def received(path: str, rank: int, ranks: int) -> Iterator[tuple[str, int]]:
    """Yield (name, descriptor) of every weight file; a descriptor lives until the next step.

    Args:
        path: the supervisor's socket.
        rank: which rank this process is, from 0.
        ranks: how many there are.

    Raises:
        HandoutError: the supervisor refused, failed or is gone, or a descriptor is not sealed.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(path)
        except OSError as error:
            raise HandoutError(f"no supervisor: {error.strerror}") from error
        _, uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if uid != os.geteuid():
            raise HandoutError("the socket is another user's")
        _send(connection, wire.Hello(rank, ranks))
        while True:
            _send(connection, wire.Next())
            file, descriptor = _take(connection)
            if file is None:
                return
            with closing(_Descriptor(descriptor)):
                _require_sealed(file, descriptor)
                yield file.name, descriptor


class _Descriptor:
    def __init__(self, number: int) -> None:
        self._number = number

    def close(self) -> None:
        os.close(self._number)


def _send(connection: socket.socket, message: wire.Message) -> None:
    # One that has hung up may have said why before: reading it tells.
    with suppress(OSError):
        connection.send(wire.encode(message))


def _take(connection: socket.socket) -> tuple[wire.File | None, int]:
    try:
        packet, descriptors, _, _ = socket.recv_fds(connection, wire.MAX_MESSAGE, 1)
    except OSError as error:
        raise HandoutError(f"the supervisor is gone: {error.strerror}") from error
    try:
        message = wire.decode(packet) if packet else None
    except msgspec.DecodeError as error:
        raise HandoutError("the supervisor spoke out of turn") from error
    if isinstance(message, wire.File) and len(descriptors) == 1:
        return message, descriptors[0]
    for descriptor in descriptors:
        os.close(descriptor)
    if isinstance(message, wire.End) and not descriptors:
        return None, -1
    raise HandoutError("the supervisor gave no weights; its own log says why")


def _require_sealed(file: wire.File, descriptor: int) -> None:
    status = os.fstat(descriptor)
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:  # EINVAL: a file system that knows no seals
        seals = 0
    if seals & _SEALS != _SEALS or status.st_nlink or status.st_size != file.size:
        raise HandoutError(f"{file.name}: not sealed memory of {file.size} bytes")
