"""Seconds to load a checkpoint sealed, beside loading the same one plain, outside vLLM and in it.

Outside, the limit is the plain load on as many processors: every tensor copied out of a mapping of
its file, which is what safetensors' `safe_open` and a copy do. "fresh" copies into memory that the
kernel has not given yet, as a load does; "touched" into memory that was used before. Peers are
other encrypted checkpoints, `tensorizer` and `cryptotensors`, each from its own files to tensors.
In vLLM the limit is its default loader on the plain folder, the peer the same with a thread for
each processor, both by the line that vLLM itself logs. "starts" is from nothing to the first
answer; the stages are ours. Memory is anonymous pages and memfds at the peak, above the start; its
limit is the checkpoint and two of its files, or in vLLM what the plain load took and two files.
With a CUDA device, a pinned ring to the device is measured at the end.

The checkpoint (384 MiB unless OSTIARY_BENCH_MIB says otherwise) is made in the temporary folder and
read from the page cache. vLLM runs in the environment whose Python OSTIARY_BENCH_VLLM names
(.venv-vllm/bin/python unless it is set), OSTIARY_BENCH_VLLM_ROUNDS times in each way, at the
tensor parallel sizes of OSTIARY_BENCH_VLLM_RANKS, such as 1,2. What cannot run here is named on
standard error.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import cuda_load, load_peers, loads, vllm_rows
from benchmarks.common import Row, duration, main, measure
from benchmarks.loads import Bytes
from benchmarks.memory_use import Sampler
from benchmarks.sealed_house import MIB, House, checkpoint, counts, kind_of, processors

_MIB: Final = int(os.environ.get("OSTIARY_BENCH_MIB", "384"))
_ROUNDS: Final = 5


def rows() -> Sequence[Row]:
    """Make a checkpoint, and load it in every way that this machine can."""
    with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as folder:
        root = Path(folder)
        house = checkpoint(root, _MIB)
        size = sum(house.sizes) // MIB
        print(f"sealed_load: {size} MiB on {kind_of(root)}", file=sys.stderr)
        found: list[Row] = []
        for count in counts():
            with processors(count):
                found += _outside(house, count)
                found += _peers(house, root, count)
        found.append(_memory(house))
        return [*found, *vllm_rows.rows(house), *cuda_load.rows(house)]


def _outside(house: House, count: int) -> list[Row]:
    pool = _Touched(house)
    on = f"on {count} processor{'s' if count > 1 else ''}"
    return [
        measure(
            f"load {on}, {memory}",
            "s",
            ours=lambda a=allocate: duration(lambda: loads.sealed(house, count, a)),  # type: ignore[misc]  # bound per row
            limit=lambda a=allocate: duration(lambda: loads.plain(house, count, a)),  # type: ignore[misc]  # same
            rounds=_ROUNDS,
            better="lower",
        )
        for memory, allocate in (("fresh", loads.fresh), ("touched", pool.allocate))
    ]


def _peers(house: House, root: Path, count: int) -> list[Row]:
    found: list[Row] = []
    for name in load_peers.NAMES:
        with load_peers.peer(name, house.plain, root / f"{name}-{count}", count) as sample:
            if sample is not None:
                row = measure(
                    f"load beside {name} encrypted, {count}",
                    "s",
                    ours=lambda: duration(partial(loads.sealed, house, count)),
                    peer=sample,
                    rounds=_ROUNDS,
                    better="lower",
                )
                found.append(row)
    return found


def _memory(house: House) -> Row:
    """Return the memory of one load with the next file opened meanwhile."""
    with Sampler() as sampler:
        loads.sealed(house, 2, sampler=sampler)
    ours = (sampler.peak - sampler.start) / MIB
    limit = (sum(house.sizes) + 2 * max(house.sizes)) / MIB
    return Row("memory at the peak", "MiB", ours, None, limit, None, limit / ours, 0.0, 1)


class _Touched:
    """Memory for every tensor that was written before, and is used again in each load."""

    def __init__(self, house: House) -> None:
        self._by_size: dict[int, list[Bytes]] = {}
        for tensors in loads.plain(house, 1):
            for tensor in tensors:
                self._by_size.setdefault(len(tensor), []).append(tensor)
        self._next = dict.fromkeys(self._by_size, 0)

    def allocate(self, size: int) -> Bytes:
        """Give the next piece of that size, round and round."""
        known = self._by_size[size]
        self._next[size] = (self._next[size] + 1) % len(known)
        return known[self._next[size]]


if __name__ == "__main__":
    main(rows)
