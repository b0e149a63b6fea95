"""Where sealed bytes come from: any place that knows sizes and can be read at an offset.

Nothing here is trusted: a source may lie, and what it gives is checked by whoever reads it.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, final, runtime_checkable

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed.paths import check_path

_checked = functools.lru_cache(maxsize=64)(check_path)
"""Judging a name takes as long as decrypting a fifth of a segment, and each is read from again."""


class Source(Protocol):
    """A folder or object-store prefix. Called from several threads at once.

    Names are those of SPEC.md §1: `manifest.json`, and `files/` followed by a path.
    """

    def size(self, name: str) -> int:
        """Return the bytes of `name`.

        Raises:
            RuntimeFault: `sealed_missing` or `source_unavailable`.
        """
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` bytes of `name` from `offset`, fewer only at its end.

        Raises:
            RuntimeFault: `sealed_missing` or `source_unavailable`.
        """
        ...


@runtime_checkable
class BufferedSource(Source, Protocol):
    """A source that can fill a buffer: saves one allocation per segment. Optional."""

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset` of `name`; return the bytes read, fewer only at its end.

        Raises:
            RuntimeFault: `sealed_missing` or `source_unavailable`.
        """
        ...


def fetch(source: Source, name: str, span: tuple[int, int], buffer: memoryview) -> memoryview:
    """Return exactly the bytes `span` (start, length) of `name`, in `buffer` where possible.

    Raises:
        RuntimeFault: `sealed_truncated` on a short read, or what the source raises.
    """
    offset, length = span
    if isinstance(source, BufferedSource):
        filled = source.read_into(name, offset, buffer[:length])
        found = buffer[: min(filled, length)]
    else:
        found = memoryview(source.read(name, offset, length))
    if len(found) != length:
        raise RuntimeFault(
            Fault.SEALED_TRUNCATED,
            f"{name}: {length} bytes asked at {offset}, {len(found)} given",
        )
    return found


@final
class LocalFolder:
    """A sealed model in a folder of this machine. Holds no open files between calls."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def size(self, name: str) -> int:
        """Return the bytes of `name`; see `Source.size`."""
        with self._open(name) as descriptor:
            return os.fstat(descriptor).st_size

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of `name`; see `Source.read`."""
        buffer = bytearray(length)
        filled = self.read_into(name, offset, memoryview(buffer))
        return bytes(memoryview(buffer)[:filled])

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer`; see `BufferedSource.read_into`."""
        with self._open(name) as descriptor:
            return read_fully(descriptor, offset, buffer)

    @contextmanager
    def _open(self, name: str) -> Iterator[int]:
        # O_NONBLOCK: a pipe put in a file's place must not hang us; fstat refuses it next.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        path = self._root / _checked(name, Fault.SEALED_MISSING)
        try:
            descriptor = os.open(path, flags)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RuntimeFault(Fault.SEALED_MISSING, f"{name}: no such file") from error
        except OSError as error:
            raise _unavailable(name, error) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RuntimeFault(Fault.SEALED_MISSING, f"{name}: not a regular file")
            yield descriptor
        except OSError as error:
            raise _unavailable(name, error) from error
        finally:
            os.close(descriptor)


def read_fully(descriptor: int, offset: int, buffer: memoryview) -> int:
    """Fill `buffer` from `offset` of an open file; return the bytes read, fewer only at its end.

    Raises:
        OSError: what the kernel says.
    """
    filled = 0
    while filled < len(buffer):
        count = os.preadv(descriptor, [buffer[filled:]], offset + filled)
        if count == 0:
            break
        filled += count
    return filled


def _unavailable(name: str, error: OSError) -> RuntimeFault:
    return RuntimeFault(Fault.SOURCE_UNAVAILABLE, f"{name}: {error.strerror}")
