"""The table of hostile inputs names tests that exist, and leaves no pitfall out."""

from __future__ import annotations

import ast
import re

import pytest

from tests.kit.documents import ROOT

TABLE = (ROOT / "docs/hostile-inputs.md").read_text()
ROWS = [line for line in TABLE.splitlines() if re.match(r"\| (?!item |-)", line)]
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE)))


def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_named_test_exists(file: str) -> None:
    """Each test that the table names is a function of its file."""
    assert {name for each, name in NAMED if each == file} <= functions(file)


def test_every_row_names_a_test() -> None:
    """No bad input stands there without a test."""
    assert len(ROWS) > 80
    assert [row for row in ROWS if "::test_" not in row] == []


def test_no_pitfall_is_left_out() -> None:
    """All thirty pitfalls of CPU verifiers stand there, once each."""
    numbers = [int(number) for number in re.findall(r"^\| 4\.(\d+) \|", TABLE, re.MULTILINE)]

    assert numbers == list(range(1, 31))
