"""The loads that are timed really load, and the memory that is counted is really held."""

from __future__ import annotations

import os

import numpy as np
import pytest

from benchmarks import loads, memory_use
from benchmarks.cuda_load import Ring, _plain, _sealed
from benchmarks.sealed_house import MIB, House, checkpoint, counts, processors
from inference_runtime.sealed.memory import MemoryFile


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Give the smallest checkpoint: one layer, four shards."""
    return checkpoint(tmp_path_factory.mktemp("house"), 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_both_loads_give_the_same_tensors(house: House, threads: int) -> None:
    """Sealed or plain, with one thread or two, every byte of every tensor arrives."""
    plain, sealed = loads.plain(house, threads), loads.sealed(house, threads)

    assert [len(file) for file in plain] == [len(file) for file in sealed]
    for one, other in zip(plain, sealed, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    data = sum(len(tensor) for file in plain for tensor in file)
    assert 0 < sum(house.sizes) - data < MIB  # the rest is headers


def test_the_ring_moves_every_byte(house: House) -> None:
    """Through the ring, sealed or plain, the last file arrives as it is: here without a device."""
    torch = pytest.importorskip("torch")
    for move in (_plain, _sealed):
        ring = Ring(torch, "cpu", 2, max(house.sizes))
        move(house, ring)
        last = (house.plain / house.weights[-1]).read_bytes()
        assert ring._target[: len(last)].numpy().tobytes() == last


def test_a_memfd_counts_once_mapped_or_not() -> None:
    """Pages of a memfd are held from the write to the close, and counted once."""
    size = 32 * MIB
    before = memory_use.in_use()
    with MemoryFile("x", size) as memory:
        block = memoryview(bytes(MIB))
        for start in range(0, size, MIB):
            memory.write(start, block)
        again = os.dup(memory.fileno())
        held = memory_use.in_use() - before
        os.close(again)
    after = memory_use.in_use() - before

    assert size <= held < size + 8 * MIB
    assert after < 8 * MIB


def test_the_sampler_keeps_the_peak() -> None:
    """What was held only in between is the peak, and stays it."""
    with memory_use.Sampler() as sampler:
        with MemoryFile("x", 16 * MIB) as memory:
            memory.write(0, memoryview(bytes(16 * MIB)))
            sampler.take()
        sampler.take()

    assert sampler.peak - sampler.start >= 16 * MIB


def test_processors_are_given_back() -> None:
    """A measurement on one processor leaves the process all that it had."""
    before = os.sched_getaffinity(0)
    with processors(1):
        assert len(os.sched_getaffinity(0)) == 1

    assert os.sched_getaffinity(0) == before
    assert counts()[0] == 1
