"""Frozen memory: what the kernel refuses comes back as our own error."""

from __future__ import annotations

import os
import resource
import threading

import pytest

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed import memory
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


def test_a_page_in_use_for_a_moment_delays_the_freeze() -> None:
    """A page that somebody holds for a moment delays the freeze and does not fail it."""
    reader, writer = os.pipe()
    with MemoryFile("weights", 4096) as file:
        file.write(0, memoryview(bytes(4096)))
        held = os.splice(file.fileno(), writer, 4096, offset_src=0)
        release = threading.Timer(0.4, os.read, (reader, held))
        release.start()
        try:
            file.freeze()
        finally:
            release.join()
            os.close(reader)
            os.close(writer)
        with pytest.raises(RuntimeFault):
            file.write(0, memoryview(b"more"))


def test_a_page_in_use_for_good_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that somebody keeps ends in our own error, after a bounded number of tries."""
    monkeypatch.setattr(memory, "_SEAL_TRIES", 2)
    reader, writer = os.pipe()
    try:
        with MemoryFile("weights", 4096) as file:
            file.write(0, memoryview(bytes(4096)))
            os.splice(file.fileno(), writer, 4096, offset_src=0)
            with pytest.raises(RuntimeFault, match="busy") as caught:
                file.freeze()
    finally:
        os.close(reader)
        os.close(writer)

    assert caught.value.code is Fault.MEMORY_UNAVAILABLE
