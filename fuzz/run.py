"""`python -m fuzz.run [--seconds N] [--corpus DIR] [--out DIR] [TARGET…]`.

Guarantees: each target runs in a process of its own, bounded in time and memory; the table says how
many inputs were tried and every distinct finding, and the exit status is 1 if there was one. With
atheris the inputs follow coverage; without it they are blind mutations of the seeds, which is said.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz.targets import TARGETS

_GRACE = 60
"""Seconds that a process may take beyond what its inputs may."""


def main(arguments: list[str] | None = None) -> int:
    """Run targets and print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.run")
    parser.add_argument("--seconds", type=int, default=30, help="per target")
    parser.add_argument("--corpus", type=Path, help="a folder whose files are seeds as well")
    parser.add_argument("--out", type=Path, help="where inputs of findings go; else a new folder")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    args = parser.parse_args(arguments)
    unknown = [name for name in args.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    guided = importlib.util.find_spec("atheris") is not None
    _say("atheris: inputs follow coverage" if guided else "NO atheris: blind mutations of seeds")
    out = args.out or Path(tempfile.mkdtemp(prefix="ostiary-fuzz-"))
    out.mkdir(parents=True, exist_ok=True)
    total = 0
    for name in args.targets or TARGETS:
        tried, findings = _child(name, args.seconds, args.corpus, out)
        total += len(findings)
        _say(f"{name:<18}{tried:>10} inputs  {len(findings)} findings")
        for finding in findings:
            _say(f"    {finding}")
    _say(f"{total} findings{f', inputs in {out}' if total else ''}")
    return 1 if total else 0


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a command line may print


def _child(name: str, seconds: int, corpus: Path | None, out: Path) -> tuple[int, list[str]]:
    report = out / f"{name}.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "fuzz.child", name, str(seconds), str(out)]
    command += [] if corpus is None else [str(corpus)]
    try:
        done = subprocess.run(  # noqa: S603 - ourselves
            command, capture_output=True, timeout=seconds + _GRACE, check=False
        )
    except subprocess.TimeoutExpired:
        return 0, ["the process did not end: an input that takes too long"]
    if done.returncode != 0 or not report.is_file():
        tail = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        return 0, [f"the process ended with status {done.returncode}: {' | '.join(tail)}"]
    told = json.loads(report.read_bytes())
    return int(told["tried"]), [str(each) for each in told["findings"]]


if __name__ == "__main__":
    sys.exit(main())
