"""Rows of loads inside a real vLLM on the processor, where its environment is installed.

Guarantees: plain, plain with several threads, and sealed start in turns, each in a fresh process
tree. Without the environment there are no rows, and standard error says how to make it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.common import Row, ratio
from benchmarks.sealed_house import MIB, House

_ROOT: Final = Path(__file__).parent.parent
_PYTHON: Final = Path(os.environ.get("OSTIARY_BENCH_VLLM", _ROOT / ".venv-vllm/bin/python"))
_ROUNDS: Final = int(os.environ.get("OSTIARY_BENCH_VLLM_ROUNDS", "2"))
_RANKS: Final = tuple(map(int, os.environ.get("OSTIARY_BENCH_VLLM_RANKS", "1").split(",")))
_CODE: Final = "from benchmarks.vllm_load import main; main()"
_KINDS: Final = {"plain": 1, "plain, threads": os.cpu_count() or 1, "sealed": 1}

Measured = dict[str, Any]


def rows(house: House) -> list[Row]:
    """Start vLLM some times in each way."""
    if not _PYTHON.exists():
        print(f"SKIPPED: in vLLM: no {_PYTHON.name} of it; deploy/vllm-cpu.sh", file=sys.stderr)
        return []
    found: list[Row] = []
    for ranks in _RANKS:
        starts: dict[str, list[Measured]] = {kind: [] for kind in _KINDS}
        for number in range(_ROUNDS):
            for kind in _KINDS if number % 2 else reversed(_KINDS):
                starts[kind].append(_start(house, kind, ranks))
        found += _rows(house, f"in vLLM, TP {ranks}", starts)
    return found


def _rows(house: House, where: str, starts: dict[str, list[Measured]]) -> list[Row]:
    sealed, plain, threads = starts["sealed"], starts["plain"], starts["plain, threads"]

    def row(name: str, of: Callable[[Measured], float], peer: list[Measured] | None = None) -> Row:
        mine = [of(start) for start in sealed]
        ours = statistics.median(mine)
        theirs = statistics.median(map(of, peer)) if peer else None
        limit = statistics.median(map(of, plain))
        return Row(
            name,
            "s",
            ours,
            theirs,
            limit,
            ratio(ours, theirs, "lower"),
            ratio(ours, limit, "lower"),
            (max(mine) - min(mine)) / ours,
            len(mine),
        )

    found = [
        row(f"{where}: weights load", lambda start: float(start["load"]), threads),
        row(f"{where}: starts", lambda start: sum(seconds for _, seconds in start["stages"])),
    ]
    for place, (name, _) in enumerate(sealed[0]["stages"]):
        spent = [start["stages"][place][1] for start in sealed]
        ours = statistics.median(spent)
        spread = (max(spent) - min(spent)) / ours
        found.append(
            Row(f"{where}: stage {name}", "s", ours, None, None, None, None, spread, len(spent))
        )
    ours, limit = (
        statistics.median(start["memory"] for start in those) / MIB for those in (sealed, plain)
    )
    limit += 2 * max(house.sizes) / MIB
    found.append(
        Row(
            f"{where}: memory at the peak",
            "MiB",
            ours,
            None,
            limit,
            None,
            limit / ours,
            0.0,
            len(sealed),
        )
    )
    return found


def _start(house: House, kind: str, ranks: int) -> Measured:
    request = house.request() | {
        "kind": kind.partition(",")[0],
        "threads": _KINDS[kind],
        "ranks": ranks,
    }
    done = subprocess.run(
        [_PYTHON, "-c", _CODE],
        input=json.dumps(request).encode(),
        stdout=subprocess.PIPE,
        cwd=_ROOT,
        check=True,
    )
    found: Measured = json.loads(done.stdout.splitlines()[-1])
    print(f"in vLLM, TP {ranks}, {kind}: {json.dumps(found)}", file=sys.stderr)
    return found
