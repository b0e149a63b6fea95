"""Starts our own programs for demo and tests, and ends exactly those.

Guarantees: a program is started from this installation with an empty standard input, its output
goes to a file, and it is ended by its process id; nothing else is ever signalled.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, final

from ostiary import clock
from ostiary.story import StoryError

STOP_SECONDS = 10.0


@final
@dataclass(slots=True)
class Program:
    """One of our programs, running. Use it as a context manager."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, name: str, arguments: Sequence[str], log: Path) -> Self:
        """Start `python -m` with these arguments; output goes to `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out:
            process = subprocess.Popen(  # noqa: S603 - our own modules, no shell
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        return cls(name, log, process)

    def until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until `ready` says so.

        Raises:
            StoryError: it ended, or took longer; with the end of what it printed.
        """
        end = clock.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None:
                raise StoryError(f"{self.name} ended with {self.process.returncode}:\n{self.tail}")
            if clock.monotonic() > end:
                raise StoryError(f"{self.name} was not ready in {seconds:.0f} s:\n{self.tail}")
            time.sleep(0.05)

    @property
    def tail(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""

    def stop(self) -> None:
        """Ask it to end, and kill it if it does not."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
