"""Rows of a load to a CUDA device: decrypt, pinned ring, device, beside plain, pinned ring, device.

Guarantees: both sides move the same bytes through the same ring of pinned segments with the same
threads, each copy begun as soon as its segment is there; the clock stops when the device has all.
The sealed side authenticates every segment and hashes what it read. Without torch or a device
there are no rows, and standard error says that this is unmeasured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

from blake3 import blake3

from benchmarks.common import Row, duration, measure
from benchmarks.sealed_house import House, counts
from inference_runtime.sealed.layout import HEADER, SEGMENT, Layout
from inference_runtime.sealed.paths import FILES
from inference_runtime.sealed.pipeline import Buffers, Slot, in_order
from inference_runtime.sealed.source import LocalFolder, fetch
from inference_runtime.sealed.stream import SegmentCipher, associated_data, split

_ROUNDS: Final = 7


def rows(house: House) -> list[Row]:
    """Measure what is said above, with 1 thread and with more."""
    if find_spec("torch") is None:
        print("UNMEASURED: to a CUDA device: no torch here", file=sys.stderr)
        return []
    import torch  # noqa: PLC0415 - where it is installed

    if not torch.cuda.is_available():
        print("UNMEASURED: to a CUDA device: none here", file=sys.stderr)
        return []
    return [
        measure(
            f"to the device, {threads} thread{'s' if threads > 1 else ''}",
            "s",
            ours=partial(_timed, partial(_sealed, house, ring), ring),
            limit=partial(_timed, partial(_plain, house, ring), ring),
            rounds=_ROUNDS,
            better="lower",
        )
        for threads in counts()
        for ring in [Ring(torch, "cuda", threads, max(house.sizes))]
    ]


class Ring:
    """Pinned segments, and room on the device for one file. Copies run in their order."""

    def __init__(self, torch: ModuleType, device: str, threads: int, size: int) -> None:
        pinned = device != "cpu"
        self._torch = torch if pinned else None
        self._target = torch.empty(size, dtype=torch.uint8, device=device)
        self._tensors: dict[int, Any] = {}
        self._copied: dict[int, Any] = {}
        self.threads = threads
        self.buffers = Buffers(threads)
        self._slots: list[Slot] = []
        for _ in range(threads):
            tensor = torch.empty(SEGMENT, dtype=torch.uint8, pin_memory=pinned)
            slot = Slot(memoryview(bytearray(SEGMENT)), memoryview(tensor.numpy()))
            self._tensors[id(slot)] = tensor
            self._slots.append(slot)
            self.buffers.give(slot)

    def wait_for(self, slot: Slot) -> None:
        """Wait until what was in `slot` is on the device."""
        if (copied := self._copied.get(id(slot))) is not None:
            copied.synchronize()

    def send(self, slot: Slot, start: int, length: int) -> None:
        """Begin to copy the first `length` bytes of the plain half of `slot` to `start`."""
        source = self._tensors[id(slot)][:length]
        self._target[start : start + length].copy_(source, non_blocking=True)
        if self._torch is not None:
            self._copied[id(slot)] = event = self._torch.cuda.Event()
            event.record()

    def finish(self) -> None:
        """Wait until the device has everything."""
        if self._torch is not None:
            self._torch.cuda.synchronize()


def _timed(load: Callable[[], None], ring: Ring) -> float:
    def work() -> None:
        load()
        ring.finish()

    return duration(work)


def _sealed(house: House, ring: Ring) -> None:
    sizes = dict(zip(house.weights, house.sizes, strict=True))
    with house.dek() as dek, ThreadPoolExecutor(ring.threads) as pool:
        for entry in house.trusted.manifest.files:
            if entry.path not in sizes:
                continue
            name, layout, hasher = FILES + entry.path, Layout.of(entry.size), blake3()
            header = house.source.read(name, 0, HEADER)
            version = house.trusted.manifest.model_version_id
            cipher = SegmentCipher(dek, header, associated_data(version, entry.path), name)

            def work(
                index: int,
                slot: Slot,
                name: str = name,
                layout: Layout = layout,
                cipher: SegmentCipher = cipher,
            ) -> memoryview:
                ring.wait_for(slot)
                sealed = fetch(house.source, name, layout.sealed(index), slot.sealed)
                start, length = layout.plain(index)
                last = layout.last(index)
                cipher.open(index, split(sealed, index), slot.plain[:length], last=last)
                ring.send(slot, start, length)
                return sealed

            def then(_: int, sealed: memoryview, hasher: blake3 = hasher) -> None:
                hasher.update(sealed)

            in_order(pool, ring.buffers, range(layout.count), work, then)
            if hasher.digest() != entry.blake3:
                raise RuntimeError(f"{name}: another digest than the manifest's")


def _plain(house: House, ring: Ring) -> None:
    source = LocalFolder(house.plain)
    with ThreadPoolExecutor(ring.threads) as pool:
        for name, size in zip(house.weights, house.sizes, strict=True):

            def work(start: int, slot: Slot, name: str = name, size: int = size) -> None:
                ring.wait_for(slot)
                length = min(SEGMENT, size - start)
                fetch(source, name, (start, length), slot.plain)
                ring.send(slot, start, length)

            starts = range(0, size, SEGMENT)
            in_order(pool, ring.buffers, starts, work, lambda _, __: None)
