"""Where TPM commands go: the kernel's resource manager, or the socket of a TPM in software.

Guarantees: one command, one whole response of at most `wire.MAX_RESPONSE` bytes. With the kernel's
resource manager whatever a caller loads is gone once the channel is closed. Errors are plain
`OSError`, as the kernel gives them.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
from typing import Protocol, final

from inference_runtime.attester.tpm import wire

TIMEOUT_S = 60.0
"""Seconds for one command: creating a key may take a TPM long."""


class Channel(Protocol):
    """One open way to a TPM."""

    def transmit(self, command: bytes) -> bytes:
        """Send one command and return its response."""
        ...

    def close(self) -> None:
        """Let the TPM go."""
        ...


@final
class DeviceChannel:
    """A character device: `/dev/tpmrm0` (the resource manager) or `/dev/tpm0`."""

    __slots__ = ("_handle",)

    def __init__(self, path: str) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def transmit(self, command: bytes) -> bytes:
        """Send one command and return its response; the kernel gives it whole."""
        if os.write(self._handle, command) != len(command):
            raise OSError(errno.EIO, "the kernel took only a part of a command")
        ready, _, _ = select.select([self._handle], [], [], TIMEOUT_S)
        if not ready:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return os.read(self._handle, wire.MAX_RESPONSE)

    def close(self) -> None:
        """Close the device."""
        os.close(self._handle)


@final
class SocketChannel:
    """A unix socket that takes raw commands, such as swtpm's; nothing a cloud has."""

    __slots__ = ("_socket",)

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(TIMEOUT_S)
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def transmit(self, command: bytes) -> bytes:
        """Send one command and return its response, as long as its header says."""
        self._socket.sendall(command)
        head = self._read(wire.HEADER)
        size = int.from_bytes(head[2:6], "big")
        if not wire.HEADER <= size <= wire.MAX_RESPONSE:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        return head + self._read(size - wire.HEADER)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._socket.recv(size - len(data))
            if not chunk:
                raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
            data += chunk
        return bytes(data)


def open_channel(path: str) -> Channel:
    """Return an open channel to the TPM at `path`.

    Raises:
        OSError: there is none, or this user may not use it.
    """
    if stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116 - a device path, as the kernel has it
        return SocketChannel(path)
    return DeviceChannel(path)
