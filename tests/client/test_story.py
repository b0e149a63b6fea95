"""How the demo tells its story: in a terminal, in a file, in CI."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from ostiary.story import Story

DIGEST = "0123456789abcdef" * 6


def told(width: int | None) -> str:
    """Return what a short story looks like, in a terminal of that width or piped."""
    story, out = Story(), io.StringIO()
    terminal = {"force_terminal": True, "width": width} if width else {}
    story.console = Console(file=out, highlight=False, soft_wrap=True, _environ={}, **terminal)  # type: ignore[arg-type]  # one of two kinds
    story.chapter("A chapter")
    with story.wait("waiting", 100) as moved:
        moved(100)
    story.line("a step", f"[not markup] {DIGEST}")
    story.refusal("an attempt", "a_code", f"because of {DIGEST}; " + "of many things; " * 100)
    return out.getvalue()


def test_piped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Piped: one line a step, whole digests, no escape codes, nothing of a bar that went by."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    text = told(None)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[:2] == ["", "1. A chapter"]
    assert lines[2] == f"   ✓ a step  [not markup] {DIGEST}"
    assert lines[3] == "   ✗ an attempt  a_code"
    assert len(lines) == 5
    assert lines[4].endswith("…")
    assert len(lines[4]) < 450


@pytest.mark.parametrize("width", [40, 80])
def test_terminal(width: int) -> None:
    """In a terminal nothing is wider than it, a reason takes two lines, long digests are cut."""
    text = told(width)
    assert "\x1b[" in text
    assert DIGEST not in text
    steps = text[text.rindex("✓") - 20 :]
    lines = [Text.from_ansi(line).plain for line in steps.splitlines()]
    assert all(len(line) <= width for line in lines)
    below = lines[next(i for i, line in enumerate(lines) if "✗" in line) + 1 :]
    assert len(below) == 2
    assert below[1].endswith(" …")
