"""`python -m fuzz.run [--seconds N | --total N] [--jobs N] [--corpus DIR] [--out DIR] [TARGET…]`.

Guarantees: each target runs in a process of its own, bounded in time and memory; the table says how
many inputs were tried and every distinct finding, and the exit status is 1 if there was one. With
atheris the inputs follow coverage; without it they are blind mutations of the seeds, which is said
first and last. The same `--number` and `--seeds` give the same inputs again; a finding's input is a
file in `--out`, and `--replay FILE TARGET` tries it alone and shows where it breaks.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fuzz import seeds
from fuzz.targets import TARGETS

_GRACE = 60
"""Seconds that a process may take beyond what its inputs may."""
_PRINTED = 4096
"""Bytes of a finding's input that are printed, so that a log is enough to try it again."""


@dataclass(frozen=True)
class Plan:
    """What every target of a run has in common."""

    seconds: int
    number: int
    out: Path
    seeds: Path
    corpus: Path | None


def main(arguments: list[str] | None = None) -> int:
    """Run targets and print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.run")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=int, default=30, help="per target")
    length.add_argument("--total", type=int, help="seconds for all targets together")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument(
        "--part", default="1/1", metavar="N/M", help="of the targets: those of machine N of M"
    )
    parser.add_argument("--number", type=int, default=1, help="what random choices start from")
    parser.add_argument("--seeds", type=Path, help="seeds of an earlier run; else made anew")
    parser.add_argument("--corpus", type=Path, help="a folder whose files are seeds as well")
    parser.add_argument("--out", type=Path, help="where seeds and findings go; else a new folder")
    parser.add_argument("--replay", type=Path, help="try this one input, and nothing else")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    args = parser.parse_args(arguments)
    unknown = [name for name in args.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    try:
        names = _part(args.targets or list(TARGETS), args.part)
    except ValueError as error:
        parser.error(str(error))
    if args.replay is not None:
        return replay(args.replay, names)
    out = args.out or Path(tempfile.mkdtemp(prefix="ostiary-fuzz-"))
    out.mkdir(parents=True, exist_ok=True)
    seconds = args.seconds if args.total is None else max(1, args.total * args.jobs // len(names))
    kept = args.seeds or write_seeds(out / "seeds", names)
    plan = Plan(seconds, args.number, out, kept, args.corpus)
    _say_how(plan, names, args.jobs)
    total = _table(plan, names, args.jobs)
    again = f"; the inputs lie in {out}, the seeds in {plan.seeds}" if total else ""
    _say(f"{total} findings{again}")
    _warn()
    return 1 if total else 0


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a command line may print


def guided() -> bool:
    """Tell whether inputs can follow coverage."""
    return importlib.util.find_spec("atheris") is not None


def _warn() -> None:
    if not guided():
        line = f"!!! NO atheris for Python {platform.python_version()}: inputs were blind !!!"
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - same


def _part(names: Sequence[str], part: str) -> list[str]:
    """Return every M-th name from the N-th on, so that M machines together fuzz all of them."""
    number, _, of = part.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of) <= len(names)):
        raise ValueError(f"--part: N/M with N from 1 to M expected, {part} seen")
    return list(names)[int(number) - 1 :: int(of)]


def _say_how(plan: Plan, names: Sequence[str], jobs: int) -> None:
    how = "atheris: inputs follow coverage" if guided() else "NO atheris: blind mutations of seeds"
    _say(f"{how}; {len(names)} targets, {plan.seconds} s each, {jobs} at a time, no. {plan.number}")
    _warn()


def write_seeds(folder: Path, names: Sequence[str]) -> Path:
    """Make seeds for these targets, a folder each, and return the folder that holds them."""
    made = seeds.make()
    for name in names:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for index, raw in enumerate(made[name]):
            (place / f"{index:04}").write_bytes(raw)
    return folder


def replay(file: Path, names: Sequence[str]) -> int:
    """Try one input with each of these targets; whatever it raises ends the program."""
    raw = file.read_bytes()
    for name in names:
        try:
            TARGETS[name](raw)
        except Exception as error:
            _say(f"{name}: {type(error).__module__}.{type(error).__name__}: {error}")
            raise
        _say(f"{name}: accepted")
    return 0


def _table(plan: Plan, names: Sequence[str], jobs: int) -> int:
    """Run the targets, print a row for each, and return the number of findings."""
    total = tried = 0
    _say(f"| {'target':<18} | {'inputs':>10} | {'per second':>10} | findings |")
    _say(f"|{'-' * 20}|{'-' * 11}:|{'-' * 11}:|---------:|")
    with ThreadPoolExecutor(jobs) as pool:
        for name, (count, findings) in zip(
            names, pool.map(lambda each: _child(each, plan), names), strict=True
        ):
            total += len(findings)
            tried += count
            _say(
                f"| {name:<18} | {count:>10,} | {count // plan.seconds:>10,} | {len(findings):>8} |"
            )
            for finding in findings:
                _say(f"    {finding}")
    _say(f"| {'all':<18} | {tried:>10,} | {'':>10} | {total:>8} |")
    return total


def _child(name: str, plan: Plan) -> tuple[int, list[str]]:
    report = plan.out / f"{name}.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "fuzz.child", name, str(plan.seconds), str(plan.out)]
    command += [str(plan.seeds), str(plan.number)]
    command += [] if plan.corpus is None else [str(plan.corpus)]
    environment = os.environ | {"PYTHONHASHSEED": "0"}  # noqa: TID251 - sets never choose the inputs
    try:
        done = subprocess.run(  # noqa: S603 - ourselves
            command,
            capture_output=True,
            timeout=plan.seconds + _GRACE,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return 0, ["the process did not end: an input that takes too long"]
    if done.returncode != 0 or not report.is_file():
        tail = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        return 0, [f"the process ended with status {done.returncode}: {' | '.join(tail)}"]
    told = json.loads(report.read_bytes())
    return int(told["tried"]), [_with_input(plan.out, each) for each in told["findings"]]


def _with_input(out: Path, finding: dict[str, str]) -> str:
    """Return the words for a finding, and its input where that is short."""
    raw = (out / finding["file"]).read_bytes()[: _PRINTED + 1]
    text = f"{finding['what']} ({finding['file']})"
    return text if len(raw) > _PRINTED else f"{text} base64: {base64.b64encode(raw).decode()}"


if __name__ == "__main__":
    sys.exit(main())
