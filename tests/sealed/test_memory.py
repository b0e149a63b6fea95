"""Frozen memory: what the kernel refuses comes back as our own error."""

from __future__ import annotations

import resource

import pytest

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed.memory import MemoryFile


def test_a_frozen_file_takes_no_write() -> None:
    """Writing through our own interface after the freeze is refused with the file's name."""
    with MemoryFile("weights", 4) as file:
        file.write(0, memoryview(b"once"))
        file.freeze()
        with pytest.raises(RuntimeFault, match="weights") as caught:
            file.write(0, memoryview(b"more"))

    assert caught.value.code is Fault.MEMORY_UNAVAILABLE


def test_no_descriptor_left() -> None:
    """Where the kernel gives no memory file, that is our own error, with the file's name."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(RuntimeFault, match="weights") as caught:
            MemoryFile("weights", 4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert caught.value.code is Fault.MEMORY_UNAVAILABLE


def test_closing_twice_closes_once() -> None:
    """The second close does not close a descriptor that meanwhile belongs to someone else."""
    file = MemoryFile("weights", 4)
    number = file.fileno()
    file.close()
    with MemoryFile("other", 4) as other:
        assert number == other.fileno()
        file.close()
        other.write(0, memoryview(b"fine"))
