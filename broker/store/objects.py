"""A folder of objects named by the SHA-256 of their bytes: sealed files, evidence, documents.

Guarantees: an object that has its name is whole and durable, since it gets the name last; the same
bytes twice are one object. Does not check objects when they are read (readers of sealed files check
BLAKE3, and who reads a document knows its digest), and never holds plaintext of a model.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, final

from broker.errors import BrokerError, Code
from broker.store.batch import Batcher

CHUNK: Final = 1 << 20
"""Bytes that are read at once, 1 MiB."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_BATCH: Final = 64
_KNOWN: Final = 1024
"""Digests of small objects that are remembered as durable."""
_NAMES: Final = "sha256"
_TEMPORARY: Final = "tmp"


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = "is full" if error.errno in _FULL else "failed"
        raise BrokerError(
            Code.DATABASE_UNAVAILABLE, f"object folder {full}: {error.strerror}"
        ) from error


@final
class Incoming:
    """An object that is being written. `Objects.incoming` makes it and cleans up."""

    __slots__ = ("_file", "_limit", "_sha256", "path", "size")

    def __init__(self, file: BinaryIO, path: Path, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._sha256 = hashlib.sha256()
        self.path = path
        self.size = 0

    async def write(self, piece: bytes) -> None:
        """Add bytes.

        Raises:
            BrokerError: `too_large` beyond the limit, `database_unavailable` if the disk is full.
        """
        self.size += len(piece)
        if self.size > self._limit:
            raise BrokerError(Code.TOO_LARGE, f"object is longer than {self._limit} bytes")
        with _translated():
            await asyncio.to_thread(self.add, piece)

    def add(self, piece: bytes) -> None:
        """Add bytes in this thread; the limit is the caller's."""
        self._sha256.update(piece)
        self._file.write(piece)

    def digest(self) -> bytes:
        """Return the SHA-256 of what was written so far."""
        return self._sha256.digest()

    def finish(self) -> None:
        """Make the bytes durable."""
        self._file.flush()
        os.fsync(self._file.fileno())


@final
class Objects:
    """The object folder at `root`, which is made if it is missing."""

    __slots__ = ("_durable", "_root", "_writer")

    def __init__(self, root: Path) -> None:
        self._root = root
        self._durable: set[bytes] = set()
        self._writer: Batcher[Mapping[bytes, bytes], None] = Batcher(self._write_all, limit=_BATCH)
        with _translated():
            for folder in (_NAMES, _TEMPORARY):
                (root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, digest: bytes) -> Path:
        """Return where the object `digest` lies, or would."""
        name = digest.hex()
        return self._root / _NAMES / name[:2] / name

    @asynccontextmanager
    async def incoming(self, *, limit: int) -> AsyncIterator[Incoming]:
        """Give an object to write to; `keep` it inside the block, or nothing of it stays.

        A crash while it is written leaves a file in `tmp`, which `sweep` removes.

        Args:
            limit: most bytes that it may have.
        """
        path = self._root / _TEMPORARY / secrets.token_hex(16)
        with _translated():
            file = await asyncio.to_thread(_create, path)
        try:
            yield Incoming(file, path, limit)
        finally:
            await asyncio.to_thread(_discard, file, path)

    async def keep(self, incoming: Incoming) -> bytes:
        """Give an object its name, durably, and return its SHA-256.

        Bytes first, then the name, then the folder that holds the name. A crash before the last of
        these may leave the object without its name: its writer had no answer, and writes it again.

        Raises:
            BrokerError: `database_unavailable`.
        """
        with _translated():
            return await asyncio.to_thread(self._keep, incoming)

    def _keep(self, incoming: Incoming) -> bytes:
        incoming.finish()
        digest = incoming.digest()
        target = self.path(digest)
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(target.parent.parent)
        incoming.path.rename(target)
        _sync_folder(target.parent)
        return digest

    async def put(self, data: bytes) -> bytes:
        """Store a small object whole, and return its SHA-256.

        Raises:
            BrokerError: `database_unavailable`.
        """
        return (await self.put_all((data,)))[0]

    async def put_all(self, data: Sequence[bytes]) -> tuple[bytes, ...]:
        """Store small objects whole, together with others that wait; return their SHA-256.

        Each goes the way of `incoming` and `keep`. A crash leaves some of them stored, none in
        part; their writer had no answer, and writes them again.

        Raises:
            BrokerError: `database_unavailable`.
        """
        digests = tuple(hashlib.sha256(each).digest() for each in data)
        missing = {
            digest: each
            for digest, each in zip(digests, data, strict=True)
            if digest not in self._durable or not self.path(digest).is_file()
        }
        if missing:
            await self._writer.submit(missing)
            if len(self._durable) > _KNOWN:
                self._durable.clear()
            self._durable.update(missing)
        return digests

    async def _write_all(self, batch: Sequence[Mapping[bytes, bytes]]) -> Sequence[None]:
        every = {digest: each for data in batch for digest, each in data.items()}
        with _translated():
            await asyncio.to_thread(self._put_all, every)
        return [None] * len(batch)

    def _put_all(self, data: Mapping[bytes, bytes]) -> None:
        for digest, each in data.items():
            if self.path(digest).is_file():
                # Somebody else may have named it just now, and not made the name durable yet.
                _sync_folder(self.path(digest).parent)
            else:
                self._put(each)

    def _put(self, data: bytes) -> None:
        path = self._root / _TEMPORARY / secrets.token_hex(16)
        file = _create(path)
        try:
            incoming = Incoming(file, path, len(data))
            incoming.add(data)
            self._keep(incoming)
        finally:
            _discard(file, path)

    async def get(self, digest: bytes, *, limit: int) -> bytes:
        """Return a small object whole, compared with its name.

        Raises:
            BrokerError: `not_found`, `too_large`, `internal` if it was damaged.
        """
        if self.size(digest) > limit:
            raise BrokerError(Code.TOO_LARGE, f"object {digest.hex()} is longer than {limit}")
        data = b"".join([piece async for piece in self.read(digest)])
        if hashlib.sha256(data).digest() != digest:
            raise BrokerError(Code.INTERNAL, f"object {digest.hex()} is damaged")
        return data

    def size(self, digest: bytes) -> int:
        """Return the size of an object in bytes.

        Raises:
            BrokerError: `not_found`.
        """
        try:
            return self.path(digest).stat().st_size
        except OSError as error:
            raise BrokerError(Code.NOT_FOUND, f"no object {digest.hex()}") from error

    async def read(
        self, digest: bytes, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Give the bytes [start, end) of an object, piece by piece.

        Raises:
            BrokerError: `not_found`, or `database_unavailable` while reading.
        """
        left = (self.size(digest) if end is None else end) - start
        with _translated():
            file = await asyncio.to_thread(self.path(digest).open, "rb")
        try:
            with _translated():
                await asyncio.to_thread(file.seek, start)
            while left > 0:
                with _translated():
                    piece = await asyncio.to_thread(file.read, min(left, CHUNK))
                if not piece:
                    return
                left -= len(piece)
                yield piece
        finally:
            await asyncio.to_thread(file.close)

    async def aclose(self) -> None:
        """Take no more small objects, and finish those that were taken."""
        await self._writer.aclose()

    def sweep(self, older_than: float) -> int:
        """Remove what crashes left in `tmp` before `older_than` (unix seconds); return how many."""
        removed = 0
        with _translated():
            for path in (self._root / _TEMPORARY).iterdir():
                if path.stat().st_mtime < older_than:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed


def _create(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "wb")


def _discard(file: BinaryIO, path: Path) -> None:
    """Close, and remove what was not kept; bytes that cannot be flushed are not wanted any more."""
    with suppress(OSError):
        file.close()
    path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
