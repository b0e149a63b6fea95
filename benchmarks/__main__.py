"""Runs every benchmark and writes a table and plots into benchmarks/results/.

    python -m benchmarks [NAME ...]

Guarantees: each benchmark runs in a process of its own, one after another; one that fails is named,
the others still run, and the exit status is 1. Only what this run measured stands in the results.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from benchmarks import common, plots

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"


@final
@dataclass(frozen=True, slots=True)
class Report:
    """What one benchmark measured, and what it says about itself."""

    name: str
    about: str
    rows: tuple[common.Row, ...]


def names(folder: Path = FOLDER) -> list[str]:
    """Return the modules in `folder` that can be run as a benchmark, sorted."""
    return sorted(
        path.stem
        for path in folder.glob("*.py")
        if not path.stem.startswith("_") and '\nif __name__ == "__main__":' in path.read_text()
    )


def about(path: Path) -> str:
    """Return the first paragraph of a module's docstring as one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def run(name: str) -> Report:
    """Run one benchmark.

    Raises:
        subprocess.CalledProcessError: it failed; its own words are on standard error.
    """
    output = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--json"],
        check=True,
        stdout=subprocess.PIPE,
        cwd=FOLDER.parent,
    ).stdout
    rows = tuple(common.Row(**row) for row in json.loads(output))
    return Report(name, about(FOLDER / f"{name}.py"), rows)


def write(reports: Sequence[Report], failed: Sequence[str], folder: Path = RESULTS) -> Path:
    """Write the table, the rows as JSON and the plots; return the table's path."""
    folder.mkdir(exist_ok=True)
    machine = f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs"
    text = ["# Benchmark results", "", machine, ""]
    text += ["A ratio above 1 means that ours is better.", ""]
    for report in reports:
        text += [f"## {report.name}", "", report.about, "", common.table(report.rows), ""]
        if _draw(report, folder / f"{report.name}.png"):
            text += [f"![{report.name}]({report.name}.png)", ""]
    text += [f"FAILED: {name}" for name in failed]
    rows = {report.name: [asdict(row) for row in report.rows] for report in reports}
    (folder / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    path = folder / "results.md"
    path.write_text("\n".join(text).rstrip() + "\n")
    return path


def _draw(report: Report, path: Path) -> bool:
    """Draw the ratios, or what the benchmark's own `draw` makes of its rows."""
    name = f"benchmarks.{report.name}"
    module = importlib.import_module(name) if importlib.util.find_spec(name) else None
    draw = getattr(module, "draw", plots.draw)
    return bool(draw(report.rows, report.name, path))


def main() -> int:
    """Run what the command line names, or everything; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", help="benchmarks to run (all of them by default)")
    wanted: list[str] = parser.parse_args().name
    known = names()
    unknown = sorted(set(wanted) - set(known))
    if unknown or not known:
        parser.error(f"unknown: {', '.join(unknown) or '-'}; there are: {', '.join(known) or '-'}")
    reports, failed = [], []
    for name in wanted or known:
        print(f"\n{name}: running …", flush=True)
        try:
            report = run(name)
        except subprocess.CalledProcessError as error:
            print(f"{name}: FAILED with status {error.returncode}", flush=True)
            failed.append(name)
            continue
        print(f"{report.about}\n\n{common.table(report.rows)}", flush=True)
        reports.append(report)
    path = write(reports, failed)
    print(f"\nWritten: {path.relative_to(FOLDER.parent)}, with plots beside it.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
