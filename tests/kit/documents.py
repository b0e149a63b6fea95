"""Finds what documents say: links, headings, paths in backticks, commands in code blocks."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_SKIP: Final = {".git", ".venv", "node_modules", ".ostiary", ".hypothesis", ".pytest_cache"}


def documents() -> list[Path]:
    """Return every Markdown file of the tree, relative to it."""
    found = []
    for folder, names, files in os.walk(ROOT):
        names[:] = sorted(name for name in names if name not in _SKIP and not name.startswith(".v"))
        found += [Path(folder, name).relative_to(ROOT) for name in files if name.endswith(".md")]
    return sorted(path for path in found if path != Path("benchmarks/results/results.md"))


def links(text: str) -> list[str]:
    """Return the targets of inline links outside code."""
    return re.findall(r"\]\(([^)\s]+)\)", _without_code(text))


def anchors(text: str) -> set[str]:
    """Return the anchors that a page's headings make."""
    heads = re.findall(r"^#{1,6} +(.+)$", _without_code(text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", head.replace("`", "").lower()) for head in heads)
    return {head.strip().replace(" ", "-") for head in plain}


def paths(text: str) -> set[str]:
    """Return what stands in backticks and looks like a path of this tree."""
    # What runs leave in folders of their own need not be there.
    tops = {path.name for path in ROOT.iterdir()} - {".git", ".ostiary", ".venv"}
    found = set()
    for word in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        top, slash, _ = word.partition("/")
        if re.fullmatch(r"[\w./-]+", word) and slash and top in tops:
            found.add(word)
    return found


def commands(text: str) -> list[str]:
    """Return the lines of `sh` code blocks and of indented code, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(
        r"^    (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


def make_targets() -> set[str]:
    """Return the Makefile's own targets."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def example_policies() -> list[tuple[Path, dict[str, object]]]:
    """Return every example policy with its parsed TOML."""
    return [
        (path, tomllib.loads(path.read_text()))
        for path in sorted((ROOT / "policies").glob("*.toml"))
    ]


def _without_code(text: str) -> str:
    return re.sub(
        r"`[^`\n]*`",
        lambda m: m[0].replace("](", ""),
        re.sub(r"```.*?```", "", text, flags=re.DOTALL),
    )
