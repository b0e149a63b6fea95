"""Prints the corpus table at the end of the test run: every case, told and seen."""

from __future__ import annotations

import pytest

ROWS = pytest.StashKey[dict[str, tuple[str, ...]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}


@pytest.fixture
def row(request: pytest.FixtureRequest) -> dict[str, tuple[str, ...]]:
    """The table that a case writes its row into."""
    return request.config.stash[ROWS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = terminalreporter.config.stash.get(ROWS, {})
    if not rows:
        return
    table: list[tuple[str, ...]] = [
        ("case", "corpus says", "ostiary says", "TCB", "why, and what was compared")
    ]
    table += [(name, *rows[name]) for name in sorted(rows)]
    widths = [max(len(line[column]) for line in table) for column in range(5)]
    terminalreporter.section("evidence corpus, case by case")
    for line in table:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        terminalreporter.write_line(text.rstrip())
