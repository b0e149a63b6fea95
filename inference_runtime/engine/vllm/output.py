"""What vLLM prints: its last lines while it starts, and nothing of it once it serves.

Guarantees: nothing is kept after `forget`, which comes before the first caller's request; what is
kept stays in memory unless `save` is asked for. `cause` gives the names of exceptions only, since
their texts may hold anything.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, final

_KEPT: Final = 400  # lines
_LINE: Final = 4096  # bytes
_CAUSE: Final = re.compile(rb"\b((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception))\b")
_MEMORY: Final = re.compile(
    rb"out of memory|OutOfMemory|MemoryError|cannot allocate memory|not enough memory|"
    # vLLM's own words, of a processor's memory and of a GPU's.
    rb"(?:available|free) memory .{0,200} is less than|no available memory|"
    rb"larger than the available kv cache memory",
    re.IGNORECASE,
)


@final
class Output:
    """The output of one process and its children."""

    def __init__(self) -> None:
        self._lines: deque[bytes] | None = deque(maxlen=_KEPT)
        self._task: asyncio.Task[None] | None = None

    def follow(self, pipe: int) -> None:
        """Read what comes out of `pipe`, and close it when nobody can print there any more.

        A pipe of our own: asyncio's makes `Process.wait` wait until all children have closed it.
        """
        self._task = asyncio.create_task(self._read(pipe))

    def forget(self) -> None:
        """Drop what was kept, and everything that comes."""
        self._lines = None

    async def ended(self) -> None:
        """Return when everything was read, at most a second after the process has ended."""
        if self._task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await asyncio.wait({self._task})
            self._task.cancel()

    def cause(self) -> str:
        """Return the name of the exception that was printed last, empty if there is none."""
        for line in reversed(self._lines or ()):
            if found := _CAUSE.search(line):
                return found[1].decode()
        return ""

    def short_of_memory(self) -> bool:
        """Tell whether it said that memory was short, the processor's or a GPU's."""
        return any(_MEMORY.search(line) for line in self._lines or ())

    def save(self, path: Path) -> None:
        """Write what is kept to a file of this user alone.

        Raises:
            OSError: it cannot be written.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.writelines(self._lines or ())

    async def _read(self, pipe: int) -> None:
        loop = asyncio.get_running_loop()
        stream = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(pipe, "rb", buffering=0)
        )
        try:
            rest = b""
            while piece := await stream.read(_LINE):
                rest = self._keep(rest + piece)
            self._keep(rest + b"\n")
        finally:
            transport.close()

    def _keep(self, text: bytes) -> bytes:
        """Keep the whole lines of `text` if anything is kept; return what is left of it."""
        if self._lines is None:
            return b""
        *whole, rest = text.split(b"\n")
        if len(rest) > _LINE:
            whole.append(rest)
            rest = b""
        self._lines.extend(line + b"\n" for line in whole)
        return rest
