"""The object folder: whole and durable, or not there."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.errors import Code
from broker.store.objects import CHUNK, Objects
from tests.kit.store import in_loop, no_more_than, refusal


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@in_loop
async def test_object_is_named_by_its_digest(tmp_path: Path) -> None:
    """Bytes go in under their SHA-256, readable by us alone, and come out again."""
    objects = Objects(tmp_path)
    digest = await objects.put(b"some bytes")

    path = objects.path(digest)
    assert digest == hashlib.sha256(b"some bytes").digest()
    assert (path.stat().st_mode & 0o777, files(tmp_path)) == (0o600, [path])
    assert await objects.get(digest, limit=100) == b"some bytes"
    assert await objects.put(b"some bytes") == digest


@in_loop
async def test_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """A write that does not fit is our error, and no part of it stays."""
    objects = Objects(tmp_path)
    with no_more_than(100_000):
        error = await refusal(objects.put(bytes(200_000)))

    assert error.code is Code.DATABASE_UNAVAILABLE
    assert "is full" in str(error)
    assert files(tmp_path) == []
    assert await objects.put(bytes(200_000))


@in_loop
async def test_object_that_is_not_kept_is_gone(tmp_path: Path) -> None:
    """Leaving the block without `keep` leaves no file."""
    objects = Objects(tmp_path)
    async with objects.incoming(limit=10) as incoming:
        await incoming.write(b"abc")
        during = len(files(tmp_path))

    assert (during, files(tmp_path)) == (1, [])


@in_loop
async def test_limit_holds_while_writing(tmp_path: Path) -> None:
    """More bytes than announced are refused as they come."""
    objects = Objects(tmp_path)

    async def write() -> None:
        async with objects.incoming(limit=10) as incoming:
            await incoming.write(bytes(10))
            await incoming.write(b"x")

    assert (await refusal(write())).code is Code.TOO_LARGE
    assert files(tmp_path) == []


@in_loop
async def test_missing_large_and_damaged_objects_are_refused(tmp_path: Path) -> None:
    """Reading whole compares the bytes with the name."""
    objects = Objects(tmp_path)
    digest = await objects.put(b"some bytes")

    missing = await refusal(objects.get(bytes(32), limit=10))
    large = await refusal(objects.get(digest, limit=9))
    objects.path(digest).write_bytes(b"same size!")
    damaged = await refusal(objects.get(digest, limit=10))

    assert [e.code for e in (missing, large, damaged)] == [
        Code.NOT_FOUND,
        Code.TOO_LARGE,
        Code.INTERNAL,
    ]


DATA = hashlib.shake_128(b"data").digest(2 * CHUNK + 5)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Objects, bytes]:
    """Give a folder with one object of more than two pieces, `DATA`."""
    objects = Objects(tmp_path_factory.mktemp("objects"))
    return objects, asyncio.run(objects.put(DATA))


@settings(max_examples=20, deadline=None)
@given(bounds=st.tuples(st.integers(0, len(DATA)), st.integers(0, len(DATA))))
@example(bounds=(0, len(DATA)))
@example(bounds=(CHUNK, CHUNK))
@example(bounds=(CHUNK - 1, 2 * CHUNK + 1))
def test_every_range_is_the_bytes_between(
    large: tuple[Objects, bytes], bounds: tuple[int, int]
) -> None:
    """A range gives exactly the bytes that are there."""
    objects, digest = large
    start, end = sorted(bounds)

    async def read() -> bytes:
        return b"".join([piece async for piece in objects.read(digest, start, end)])

    assert asyncio.run(read()) == DATA[start:end]


def test_sweep_removes_only_what_is_old(tmp_path: Path) -> None:
    """What a crash left in `tmp` goes after a while; objects and fresh uploads stay."""
    objects = Objects(tmp_path)
    old, fresh = tmp_path / "tmp" / "old", tmp_path / "tmp" / "fresh"
    for path in (old, fresh):
        path.write_bytes(b"x")
    os.utime(old, (1000, 1000))

    assert objects.sweep(older_than=2000) == 1
    assert files(tmp_path) == [fresh]


@in_loop
async def test_small_objects_of_many_callers_go_in_together(tmp_path: Path) -> None:
    """Every caller gets its digests in its order; equal bytes are one object."""
    objects = Objects(tmp_path)
    shared = b"collateral that all of them name"
    wanted = [(f"evidence {n}".encode(), shared, f"result {n}".encode()) for n in range(20)]
    found = await asyncio.gather(*(objects.put_all(each) for each in wanted))
    await objects.aclose()

    assert found == [tuple(hashlib.sha256(raw).digest() for raw in each) for each in wanted]
    assert sorted(path.read_bytes() for path in files(tmp_path)) == sorted(
        {raw for each in wanted for raw in each}
    )


@in_loop
async def test_name_that_somebody_else_just_gave_is_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object that lies there already has its folder synced, once, before its writer goes on."""
    await Objects(tmp_path).put(b"bytes")
    objects, synced = Objects(tmp_path), 0

    def sync(descriptor: int) -> None:
        nonlocal synced
        synced += 1
        real(descriptor)

    real = os.fsync
    monkeypatch.setattr(os, "fsync", sync)
    await objects.put(b"bytes")
    await objects.put(b"bytes")

    assert synced == 1
