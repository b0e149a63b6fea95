"""Plaintext in memory that nobody can change any more: a memfd with every seal on it.

Guarantees: a `MemoryFile` has no name in any file system and its bytes and size are fixed for
good, for us and for whoever receives the descriptor. Does not keep the pages from being swapped:
the supervisor refuses to start where there is swap.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from typing import Final, Self, final

from inference_runtime.errors import Fault, RuntimeFault

ALL_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

_SEAL_TRIES: Final = 40
_SEAL_PAUSE: Final = 0.05  # seconds; the kernel itself waits some 0.15 s in each try


@final
class MemoryFile:
    """An anonymous file in memory: written once, then frozen, then handed on."""

    __slots__ = ("_descriptor", "path", "size")

    def __init__(self, path: str, size: int) -> None:
        """Get `size` bytes of memory for the model file `path` from the kernel.

        Raises:
            RuntimeFault: `memory_unavailable`.
        """
        self._descriptor = -1
        self.path = path
        self.size = size
        try:
            self._descriptor = os.memfd_create(
                "ostiary-model", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC
            )
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            self.close()
            raise self._fault(error) from error

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data` at `offset`. Several threads may write at once.

        `pwrite` from a warm buffer and not a writable mapping: the kernel then neither zeroes the
        page first nor faults once per 4 KiB (measured a third faster), and nothing has to be
        unmapped before the seal.

        Raises:
            RuntimeFault: `memory_unavailable`.
        """
        try:
            while len(data):
                written = os.pwrite(self._descriptor, data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            raise self._fault(error) from error

    def freeze(self) -> None:
        """Put every seal on; from here on a write, by anyone, fails.

        The kernel answers EBUSY while anything holds one of the pages, itself included: compaction
        and the per-processor lists of fresh pages do for a moment on a busy machine. So EBUSY is
        tried again for some seconds, and only then an error.

        Raises:
            RuntimeFault: `memory_unavailable` if the kernel did not set them all.
        """
        try:
            for left in reversed(range(_SEAL_TRIES)):
                try:
                    fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, ALL_SEALS)
                    break
                except OSError as error:
                    if error.errno != errno.EBUSY or not left:
                        raise
                time.sleep(_SEAL_PAUSE)
            seals = fcntl.fcntl(self._descriptor, fcntl.F_GET_SEALS)
        except OSError as error:
            raise self._fault(error) from error
        if seals & ALL_SEALS != ALL_SEALS:
            raise RuntimeFault(Fault.MEMORY_UNAVAILABLE, f"{self.path}: memory could not be sealed")

    def fileno(self) -> int:
        """Return the descriptor, for `SCM_RIGHTS` and `/proc/self/fd`; it stays ours to close."""
        return self._descriptor

    def close(self) -> None:
        """Give the memory back, unless someone else holds the descriptor too."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _fault(self, error: OSError) -> RuntimeFault:
        return RuntimeFault(Fault.MEMORY_UNAVAILABLE, f"{self.path}: {error.strerror}")
