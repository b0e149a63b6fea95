"""Opening a sealed file: GiB/s of a thread, AES-256-GCM in segments and BLAKE3 of what was read.

The peer is Tink's own Python on the same bytes, the limit bare OpenSSL AES-GCM (`decrypt_into` of
`cryptography`) from memory into one reused buffer. "AES-GCM" is our cipher alone, on the same bytes
in memory: what nonces, flags and errors cost. "with BLAKE3" adds the digest of the sealed bytes, to
the peer too; the limit never hashes. "file to buffer" reads a file at any offset, with no digest.
"file to memfd" is all of a load: the file is read, authenticated, hashed, written to fresh memory
and frozen; the peer does so with Tink, but from memory. One thread is measured by the processor's
time, which other programs do not disturb; two by the clock, on two processors, halved. Rows in "%
of opening" show where the processor's time of "file to memfd" goes; a fresh page has its price in
the kernel, whoever writes to it.

Files lie in the temporary folder and are read from the page cache. OSTIARY_BENCH_MIB sets the size.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Final, final

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from benchmarks import common
from benchmarks.common import Row, duration, measure
from benchmarks.sealed_house import GIB, MIB, House, counts, kind_of, one_file, processors
from benchmarks.tink_peer import TinkReader
from inference_runtime.sealed.layout import HEADER, SALT, TAG, Layout
from inference_runtime.sealed.memory import MemoryFile
from inference_runtime.sealed.open import ModelOpener
from inference_runtime.sealed.paths import FILES
from inference_runtime.sealed.pipeline import Buffers, Slot, in_order
from inference_runtime.sealed.reader import SealedReader
from inference_runtime.sealed.secret import KEY_SIZE
from inference_runtime.sealed.source import fetch
from inference_runtime.sealed.stream import SegmentCipher, associated_data, split

_MIB: Final = int(os.environ.get("OSTIARY_BENCH_MIB", "128"))
_ROUNDS: Final = 11

Work = Callable[[], object]


@final
@dataclass(frozen=True, slots=True)
class Bench:
    """One sealed file, and everything that opens it."""

    house: House
    name: str
    layout: Layout
    sealed: bytes
    segments: Sequence[memoryview]
    associated: bytes
    cipher: SegmentCipher
    bare: AESGCM
    nonces: Sequence[bytes]
    tink: TinkReader

    @classmethod
    def of(cls, house: House) -> Bench:
        """Read the file and derive its key, by the format's own words (SPEC.md 3.3)."""
        name = house.weights[0]
        sealed = (house.sealed / FILES / name).read_bytes()
        associated = associated_data(house.trusted.manifest.model_version_id, name)
        salt, prefix = sealed[1 : 1 + SALT], sealed[1 + SALT : HEADER]
        key = HKDF(SHA256(), KEY_SIZE, salt, info=associated).derive(house.raw_dek)
        layout = Layout.of_sealed(len(sealed), name)
        spans = [layout.sealed(index) for index in range(layout.count)]
        return cls(
            house=house,
            name=name,
            layout=layout,
            sealed=sealed,
            segments=[memoryview(sealed)[start : start + length] for start, length in spans],
            associated=associated,
            cipher=SegmentCipher(house.dek(), sealed[:HEADER], associated, name),
            bare=AESGCM(key),
            nonces=[
                prefix + index.to_bytes(4) + bytes([index == layout.count - 1])
                for index in range(layout.count)
            ],
            tink=TinkReader(house.raw_dek),
        )

    def open(self, index: int, slot: Slot) -> memoryview:
        """Decrypt segment `index` into `slot` by our cipher; return the sealed bytes."""
        sealed = self.segments[index]
        plain = slot.plain[: self.layout.plain(index)[1]]
        self.cipher.open(index, split(sealed, index), plain, last=self.layout.last(index))
        return sealed


def rows() -> Sequence[Row]:
    """Seal a file, and open it in every way."""
    with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as folder:
        root = Path(folder)
        print(f"decrypt: {_MIB} MiB on {kind_of(root)}", file=sys.stderr)
        bench = Bench.of(one_file(root, _MIB * MIB))
        found: list[Row] = []
        for threads in counts():
            with processors(threads), ThreadPoolExecutor(threads) as pool:
                found += _rates(bench, threads, pool)
        with processors(1):
            return [*found, *_shares(bench)]


def _rates(bench: Bench, threads: int, pool: ThreadPoolExecutor) -> list[Row]:
    source, dek = bench.house.source, bench.house.dek()
    buffers = Buffers(threads)
    reader = SealedReader(source, FILES + bench.name, dek, bench.associated)
    target = memoryview(bytearray(b"x") * bench.layout.size)  # touched beforehand

    def rate(work: Work) -> float:
        seconds = _processor_time(work) if threads == 1 else duration(work)
        return bench.layout.size / GIB / threads / seconds

    def row(name: str, ours: Work, peer: Work | None, *, limit: bool = True) -> Row:
        return measure(
            f"{name}, {threads} thread{'s' if threads > 1 else ''}",
            "GiB/s",
            ours=lambda: rate(ours),
            # Tink cannot share one file: each thread reads all of it.
            peer=None
            if peer is None
            else lambda: threads * rate(partial(_each, pool, threads, peer)),
            limit=partial(rate, partial(_bare, bench, pool, threads)) if limit else None,
            rounds=_ROUNDS,
        )

    with ModelOpener(bench.house.trusted, source, dek, threads=threads) as opener:
        found = [
            row("AES-GCM", lambda: _segments(bench, pool, buffers), partial(_tink, bench)),
            row(
                "AES-GCM with BLAKE3",
                lambda: _segments(bench, pool, buffers, blake3()),
                partial(_tink_hashed, bench),
            ),
            row(
                "file to buffer",
                lambda: reader.read_into(0, target, threads=threads),
                partial(_tink, bench),
            ),
            row(
                "file to memfd",
                lambda: opener.open(bench.name).close(),
                partial(_tink_whole, bench),
            ),
        ]
    if threads == 1:
        found.insert(2, row("BLAKE3 alone", partial(_hash, bench), None, limit=False))
    return found


def _segments(
    bench: Bench, pool: ThreadPoolExecutor, buffers: Buffers, hasher: blake3 | None = None
) -> None:
    """Open every segment by our cipher in our pipeline, into reused buffers."""

    def then(_: int, sealed: memoryview) -> None:
        if hasher is not None:
            hasher.update(sealed)

    in_order(pool, buffers, range(bench.layout.count), bench.open, then)


def _bare(bench: Bench, pool: ThreadPoolExecutor, threads: int) -> None:
    """Decrypt every segment by OpenSSL alone; each thread takes every n-th one."""

    def part(first: int) -> None:
        out = memoryview(bytearray(MIB))
        for index in range(first, bench.layout.count, threads):
            sealed = split(bench.segments[index], index)
            plain = out[: len(sealed) - TAG]
            bench.bare.decrypt_into(bench.nonces[index], sealed, b"", plain)

    for done in [pool.submit(part, first) for first in range(threads)]:
        done.result()


def _hash(bench: Bench) -> None:
    hasher = blake3()
    for sealed in bench.segments:
        hasher.update(sealed)


def _each(pool: ThreadPoolExecutor, threads: int, work: Work) -> None:
    for done in [pool.submit(work) for _ in range(threads)]:
        done.result()


def _tink(bench: Bench) -> None:
    bench.tink.read(BytesIO(bench.sealed), bench.associated, len)


def _tink_hashed(bench: Bench) -> None:
    _tink(bench)
    _hash(bench)


def _tink_whole(bench: Bench) -> None:
    """Do with Tink what `ModelOpener.open` does, but for reading the file."""
    with MemoryFile(bench.name, bench.layout.size) as memory:
        place = 0

        def take(piece: bytes) -> None:
            nonlocal place
            memory.write(place, memoryview(piece))
            place += len(piece)

        bench.tink.read(BytesIO(bench.sealed), bench.associated, take)
        _hash(bench)
        memory.freeze()


def _shares(bench: Bench) -> list[Row]:
    """Return the parts of "file to memfd" in its processor time, each measured alone."""
    source, name = bench.house.source, FILES + bench.name
    slot = Buffers(1).take()

    def read() -> None:
        for index in range(bench.layout.count):
            fetch(source, name, bench.layout.sealed(index), slot.sealed)

    def decrypt() -> None:
        for index in range(bench.layout.count):
            bench.open(index, slot)

    def write() -> None:
        with MemoryFile(bench.name, bench.layout.size) as memory:
            for index in range(bench.layout.count):
                start, length = bench.layout.plain(index)
                memory.write(start, slot.plain[:length])
            memory.freeze()

    with ModelOpener(bench.house.trusted, source, bench.house.dek(), threads=1) as opener:
        parts: dict[str, Work] = {
            "whole": lambda: opener.open(bench.name).close(),
            "reading the file": read,
            "AES-GCM": decrypt,
            "BLAKE3": partial(_hash, bench),
            "fresh memory: write, freeze, free": write,
        }
        taken = dict.fromkeys(parts, 0.0)
        for _ in range(_ROUNDS):  # in turns: a slow minute meets all parts
            for part, work in parts.items():
                taken[part] += _processor_time(work)
    whole = taken.pop("whole")
    taken["rest: threads, Python"] = max(whole - sum(taken.values()), 0.0)
    return [
        Row(f"share of {part}", "% of opening", 100 * spent / whole, None, None, None, None, 0.0, 1)
        for part, spent in taken.items()
    ]


def _processor_time(work: Work) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


if __name__ == "__main__":
    common.main(rows)
