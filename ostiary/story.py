"""How the demo tells its story: one line per step, a bar where something takes long.

Guarantees: prints nothing secret; a step that fails ends the story with a line that says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from ostiary import clock
from ostiary.settings import in_terminal

_LINES: Final = 2
_LONGEST: Final = 400
_BELOW: Final = 7
"""Columns by which what explains a step is indented."""


class StoryError(Exception):
    """The demo did not go as it must; the text says what was expected and what was seen."""


@final
class Story:
    """A numbered tale in chapters."""

    def __init__(self) -> None:
        # Piped output is for a file or another program: one line a step, however long it is.
        self.console = Console(highlight=False, soft_wrap=True)
        self._chapter = 0
        self._started = clock.monotonic()

    def chapter(self, title: str) -> None:
        """Begin the next chapter."""
        self._chapter += 1
        self.console.print()
        self.console.print(Text(f"{self._chapter}. {title}", "bold"))

    def line(self, text: str, detail: str = "") -> None:
        """Tell one thing that happened."""
        self._step("✓", "green", text, detail, "dim")

    def refusal(self, attempt: str, code: str, reason: str) -> None:
        """Tell one thing that was refused, and why."""
        self._step("✗", "red", attempt, code, "bold")
        self.say(reason, "dim")

    def say(self, text: str, style: str = "") -> None:
        """Print a line below a step; at most two of the terminal's lines of it."""
        if self.console.is_terminal:
            room = max(20, self.console.width - _BELOW - 1)
            lines = Text(_shorten(text), style).wrap(self.console, room)
            if len(lines) > _LINES:
                kept = lines[_LINES - 1].plain[: room - 2].rstrip()
                lines[_LINES - 1] = Text(f"{kept} …", style)
            for line in lines[:_LINES]:
                self.console.print(Text(" " * _BELOW).append_text(line))
        else:
            self.console.print(Text(" " * _BELOW + _cut(text, _LONGEST), style))

    @contextmanager
    def wait(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Show a spinner, or a bar of `total` parts, until the block ends; gone afterwards.

        Where nobody watches (no terminal), nothing is shown: a step's line says what was done.
        """
        columns = [SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()]
        if total is not None:
            columns[2:2] = [BarColumn(), DownloadColumn()]
        watched = self.console.is_terminal and not self.console.is_dumb_terminal
        shown = watched and in_terminal()
        with Progress(*columns, console=self.console, transient=True, disable=not shown) as bar:
            task = bar.add_task(f"  {what}", total=total)
            yield lambda more: bar.update(task, advance=more)

    @property
    def seconds(self) -> float:
        """Seconds since the story began."""
        return clock.monotonic() - self._started

    def _step(self, mark: str, colour: str, text: str, detail: str, style: str) -> None:
        told = Text.assemble("   ", (mark, colour), f" {text}")
        if detail:
            told.append("  ").append(
                _shorten(detail) if self.console.is_terminal else detail, style
            )
        if self.console.is_terminal:
            told.truncate(self.console.width, overflow="ellipsis")
        self.console.print(told)


def _shorten(text: str) -> str:
    """Return `text` with long digests cut; whoever wants to compare them pipes the output."""
    return re.sub(r"\b([0-9a-f]{16})[0-9a-f]{16,}\b", r"\1…", text)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"
