"""The few file operations that the device readers need, behind a Protocol.

Guarantees: `read` never returns more than its limit, and a write is one system call (configfs takes
an input whole or not at all). Exists so that the readers can be tested against a kernel that no
developer machine has; errors are plain `OSError`, as the kernel gives them.
"""

from __future__ import annotations

import errno
import os
from typing import Protocol, final


class KernelFiles(Protocol):
    """Files that the kernel answers through."""

    def make_folder(self, path: str) -> None:
        """Make a folder; in configfs this makes a report request."""
        ...

    def remove_folder(self, path: str) -> None:
        """Remove a folder; in configfs whatever is in it goes too."""
        ...

    def read(self, path: str, limit: int) -> bytes:
        """Return a file's bytes; `OSError` with EFBIG beyond `limit`."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Write all of `data` in one call."""
        ...


@final
class RealFiles:
    """The running kernel's files."""

    __slots__ = ()

    def make_folder(self, path: str) -> None:
        """Make a folder."""
        os.mkdir(path, 0o700)  # noqa: PTH102 - plain system calls, as configfs wants them

    def remove_folder(self, path: str) -> None:
        """Remove a folder."""
        os.rmdir(path)  # noqa: PTH106 - same

    def read(self, path: str, limit: int) -> bytes:
        """Return a file's bytes, at most `limit`."""
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = bytearray()
            while chunk := os.read(handle, 65536):
                data += chunk
                if len(data) > limit:
                    raise OSError(errno.EFBIG, f"more than {limit} bytes", path)
            return bytes(data)
        finally:
            os.close(handle)

    def write(self, path: str, data: bytes) -> None:
        """Write all of `data` in one call."""
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.write(handle, data) != len(data):
                raise OSError(errno.EIO, "the kernel took only a part", path)
        finally:
            os.close(handle)
