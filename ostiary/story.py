"""How the demo tells its story: one line per step, a bar where something takes long.

Guarantees: prints nothing secret; a step that fails ends the story with a line that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from ostiary import clock


class StoryError(Exception):
    """The demo did not go as it must; the text says what was expected and what was seen."""


@final
class Story:
    """A numbered tale in chapters."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._chapter = 0
        self._started = clock.monotonic()

    def chapter(self, title: str) -> None:
        """Begin the next chapter."""
        self._chapter += 1
        self.console.print(f"\n[bold]{self._chapter}. {title}[/bold]")

    def line(self, text: str, detail: str = "") -> None:
        """Tell one thing that happened."""
        dim = f"  [dim]{detail}[/dim]" if detail else ""
        self.console.print(f"   [green]✓[/green] {text}{dim}")

    def refusal(self, attempt: str, code: str, reason: str) -> None:
        """Tell one thing that was refused, and why."""
        self.console.print(f"   [red]✗[/red] {attempt}  [bold]{code}[/bold]")
        self.console.print(f"       [dim]{reason}[/dim]")

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self.console.print(f"     {text}")

    @contextmanager
    def wait(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Show a spinner, or a bar of `total` parts, until the block ends; gone afterwards."""
        columns = [SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()]
        if total is not None:
            columns[2:2] = [BarColumn(), MofNCompleteColumn()]
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(f"  {what}", total=total)
            yield lambda more: bar.update(task, advance=more)

    @property
    def seconds(self) -> float:
        """Seconds since the story began."""
        return clock.monotonic() - self._started
