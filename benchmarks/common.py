"""What every benchmark shares: one row per measured thing, and rounds that take turns.

Guarantees: ours, peer and limit are measured in the same run and in turns, so a slow minute of the
machine meets all three. A ratio above 1 always means that ours is better, for rates and for times.
Does not guarantee a quiet machine: `spread` says how far the rounds lay apart.

A benchmark is a module with a function that returns rows, and at its end
`if __name__ == "__main__": common.main(rows)`. The first paragraph of its docstring says what is
measured, who the peer is and what the limit stands for; tables and plots show it.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal, TypeAlias, final

Better: TypeAlias = Literal["higher", "lower"]
Sample: TypeAlias = Callable[[], float]
"""Takes one measurement and returns it, in the row's unit."""

ROUNDS: Final = 7
"""Rounds where nothing else is said: enough for a median, few enough to wait for."""


class BenchmarkError(Exception):
    """A measurement that means nothing: zero, negative, infinite, or no rounds at all."""


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One measured thing. Numbers are medians over the rounds, in `unit`.

    `peer` and `limit`, and the ratios to them, are None where there is none. `spread` is (largest
    minus smallest) / median of our own rounds: 0.05 means that they lay 5 % apart.
    """

    name: str
    unit: str
    ours: float
    peer: float | None
    limit: float | None
    ratio_to_peer: float | None
    ratio_to_limit: float | None
    spread: float
    rounds: int


def measure(
    name: str,
    unit: str,
    *,
    ours: Sample,
    peer: Sample | None = None,
    limit: Sample | None = None,
    rounds: int = ROUNDS,
    better: Better = "higher",
) -> Row:
    """Return a row for what the callables measure, taken in turns.

    Each round calls ours, peer and limit once; every second round in reverse order, so that none
    always goes first. One uncounted round before them warms all three.

    Args:
        name: what is measured, unique in its benchmark.
        unit: of every number, e.g. "1/s" or "ms".
        ours: takes one measurement of ours.
        peer: the same work done by somebody else's code.
        limit: the part of the work that nobody can avoid.
        rounds: how many rounds are counted.
        better: whether a higher number is better (rates) or a lower one (times).

    Raises:
        BenchmarkError: `rounds` is below 1, or a measurement is not a positive number.
    """
    if rounds < 1:
        raise BenchmarkError(f"{name}: {rounds} rounds, at least 1 needed")
    turns = {"ours": ours, "peer": peer, "limit": limit}
    samples: dict[str, list[float]] = {who: [] for who, sample in turns.items() if sample}
    for number in range(rounds + 1):
        for who in samples if number % 2 else reversed(samples):
            sample = turns[who]
            value = _checked(name, who, sample() if sample else math.nan)
            if number:  # round 0 only warms up
                samples[who].append(value)
    medians = {who: statistics.median(values) for who, values in samples.items()}
    mine = medians["ours"]
    return Row(
        name=name,
        unit=unit,
        ours=mine,
        peer=medians.get("peer"),
        limit=medians.get("limit"),
        ratio_to_peer=ratio(mine, medians.get("peer"), better),
        ratio_to_limit=ratio(mine, medians.get("limit"), better),
        spread=(max(samples["ours"]) - min(samples["ours"])) / mine,
        rounds=rounds,
    )


def ratio(ours: float, other: float | None, better: Better) -> float | None:
    """Return how many times better ours is; None without another number."""
    if other is None:
        return None
    return ours / other if better == "higher" else other / ours


def rate(work: Callable[[], object], *, seconds: float = 0.25) -> float:
    """Return calls of `work` per second, over at least `seconds` and at least one call.

    The garbage collector runs before and not during the measurement.
    """
    calls, batch, elapsed = 0, 1, 0.0
    with _Quiet():
        start = time.perf_counter()
        while elapsed < seconds:
            for _ in range(batch):
                work()
            calls += batch
            elapsed = time.perf_counter() - start
            left = (seconds - elapsed) * calls / elapsed if elapsed else batch
            batch = max(1, min(2 * batch, int(left)))
    return calls / elapsed


def duration(work: Callable[[], object]) -> float:
    """Return the seconds that one call of `work` takes."""
    with _Quiet():
        start = time.perf_counter()
        work()
        return time.perf_counter() - start


class _Quiet:
    """Collects garbage first, then keeps the collector out of the measurement."""

    def __enter__(self) -> None:
        gc.collect()
        self._enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._enabled:
            gc.enable()


def main(rows: Callable[[], Sequence[Row]], arguments: Sequence[str] | None = None) -> None:
    """Run one benchmark from the command line: a table, or with `--json` the list of rows."""
    parser = argparse.ArgumentParser(description="Runs one benchmark.")
    parser.add_argument("--json", action="store_true", help="print the rows as a JSON list")
    chosen = parser.parse_args(arguments)
    measured = rows()
    if chosen.json:
        json.dump([asdict(row) for row in measured], sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        print(table(measured))


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    head = (
        "what",
        "unit",
        "ours",
        "peer",
        "limit",
        "ratio to peer",
        "ratio to limit",
        "spread",
        "rounds",
    )
    body = [
        (
            row.name,
            row.unit,
            number(row.ours),
            number(row.peer),
            number(row.limit),
            number(row.ratio_to_peer),
            number(row.ratio_to_limit),
            f"{row.spread:.1%}",
            str(row.rounds),
        )
        for row in rows
    ]
    widths = [max(len(line[at]) for line in (head, *body)) for at in range(len(head))]
    left = 2  # name and unit stand left, numbers right
    rule = tuple(
        "-" * width if at < left else "-" * (width - 1) + ":" for at, width in enumerate(widths)
    )
    lines = (
        " | ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in (head, rule, *body)
    )
    return "\n".join(f"| {line} |" for line in lines)


def number(value: float | None) -> str:
    """Return a number with three significant digits, or a dash."""
    if value is None:
        return "-"
    value = float(f"{value:.3g}")
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, digits)}f}"


def _checked(name: str, who: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise BenchmarkError(f"{name}: {who} measured {value}, not a positive number")
    return value
