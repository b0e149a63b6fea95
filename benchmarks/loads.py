"""Loads of one checkpoint outside vLLM: plain, and sealed as the runtime does it.

Guarantees: both end with every tensor copied to memory of its own, from a mapping, as vLLM copies
into its parameters; the plain one has no check and no other work to do. The sealed one is the
runtime's: each file opened once into a frozen memfd, at most two alive, the next one opened while
one is copied where there is a second processor.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.memory_use import Sampler
from benchmarks.sealed_house import House
from inference_runtime.sealed.memory import MemoryFile
from inference_runtime.sealed.open import ModelOpener

Bytes = npt.NDArray[np.uint8]
Allocate = Callable[[int], Bytes]
"""Gives memory of so many bytes for one tensor."""

_LENGTH: Final = 8


def fresh(size: int) -> Bytes:
    """Return memory that the kernel has not given yet: the first write to each page costs."""
    # `np.empty` would give what an earlier load has freed.
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return np.frombuffer(mmap.mmap(-1, max(size, 1), private), np.uint8)[:size]


def plain(house: House, threads: int, allocate: Allocate = fresh) -> list[list[Bytes]]:
    """Load the plain files, `threads` of them at once."""

    def load(name: str) -> list[Bytes]:
        descriptor = os.open(house.plain / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _copy(descriptor, allocate)
        finally:
            os.close(descriptor)

    if threads == 1:
        return [load(name) for name in house.weights]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(load, house.weights))


def sealed(
    house: House, threads: int, allocate: Allocate = fresh, sampler: Sampler | None = None
) -> list[list[Bytes]]:
    """Load the sealed files, decrypting with `threads` threads."""
    loaded: list[list[Bytes]] = []
    with (
        house.dek() as dek,
        ModelOpener(house.trusted, house.source, dek, threads=threads) as opener,
    ):
        for file in _ahead(opener, house.weights, threads):
            with file:
                loaded.append(_copy(file.fileno(), allocate))
                if sampler is not None:
                    sampler.take()
    return loaded


def _ahead(opener: ModelOpener, names: list[str], threads: int) -> Iterator[MemoryFile]:
    """Open one file after the other; with several threads the next one is opened meanwhile."""
    if threads == 1:
        yield from map(opener.open, names)
        return
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(opener.open, names[0])
        for name in names[1:]:
            file, following = following.result(), reader.submit(opener.open, name)
            yield file
        yield following.result()


def _copy(descriptor: int, allocate: Allocate) -> list[Bytes]:
    """Copy every tensor of a safetensors file out of a mapping."""
    size = os.fstat(descriptor).st_size
    with mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
        start = _LENGTH + int.from_bytes(mapped[:_LENGTH], "little")
        header = json.loads(mapped[_LENGTH:start])
        tensors: list[Bytes] = []
        whole = np.frombuffer(mapped, np.uint8)
        for name, tensor in header.items():
            if name != "__metadata__":
                first, last = (start + offset for offset in tensor["data_offsets"])
                target = allocate(last - first)
                np.copyto(target, whole[first:last])
                tensors.append(target)
        del whole  # a view would keep the mapping open
    return tensors
