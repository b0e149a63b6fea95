"""Memory that processes hold and the kernel cannot take back: anonymous pages and memfds.

Guarantees: a memfd counts once, mapped or not, in however many processes; pages of files on a disk
do not count, since the kernel drops them when it needs room. Read from /proc/PID/status and from
the descriptors of this process: cheap enough to run beside what is measured. Processes are those
that descend from this one. A peak shorter than the pause between two samples may be missed.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, Self, final

_PAUSE: Final = 0.02  # seconds
_BLOCK: Final = 512  # bytes, as stat(2) counts


@final
class Sampler:
    """Samples until it is closed; `peak` is the most that was seen, in bytes."""

    def __init__(self) -> None:
        self.start = in_use()
        self.peak = self.start
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def take(self) -> None:
        """Take one sample now."""
        self.peak = max(self.peak, in_use())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_PAUSE):
            self.take()


def in_use() -> int:
    """Return the bytes of anonymous memory of this process and its children, and of its memfds."""
    return sum(_anonymous(pid) for pid in _family(os.getpid())) + _memfds()


def _anonymous(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    return 0


def _memfds() -> int:
    found: dict[int, int] = {}
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if str(entry.readlink()).startswith("/memfd:"):
                status = entry.stat()
                found[status.st_ino] = status.st_blocks * _BLOCK
    return sum(found.values())


def _family(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                with suppress(OSError):
                    found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found
