"""Opening a sealed model: from a signed manifest and a data key to frozen files in memory.

Guarantees: a `MemoryFile` comes out only if the manifest is the expected one, every segment is
authentic and the whole sealed file has the manifest's BLAKE3 digest. Plaintext is written to
memory of this process and of the memfd only, never to a disk, and to nothing at all when a check
fails. Uses a bounded number of buffers beside the files themselves. Does not wipe the data key:
its holder does, when the load is done.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self, final

from blake3 import blake3

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed import manifest as manifests
from inference_runtime.sealed.layout import HEADER, Layout
from inference_runtime.sealed.manifest import SealedFile, TrustedManifest
from inference_runtime.sealed.memory import MemoryFile
from inference_runtime.sealed.paths import FILES
from inference_runtime.sealed.pipeline import (
    INLINE,
    Buffers,
    Progress,
    Slot,
    default_threads,
    in_order,
)
from inference_runtime.sealed.secret import SecretKey
from inference_runtime.sealed.source import Source, fetch
from inference_runtime.sealed.stream import SegmentCipher, associated_data, split


@final
@dataclass(frozen=True, slots=True)
class OpenedModel:
    """All files of a model, in memory. Close it, or use it as a context manager."""

    trusted: TrustedManifest
    files: Mapping[str, MemoryFile]

    def close(self) -> None:
        """Give the memory of every file back."""
        for file in self.files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_model(
    manifest_envelope: bytes,
    source: Source,
    dek: SecretKey,
    signers: Sequence[bytes],
    threshold: int,
    *,
    expected_digest: bytes,
    expected_genesis: bytes,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> OpenedModel:
    """Verify the manifest, then open every file of the model into memory.

    Args:
        manifest_envelope: the bytes of `manifest.json`.
        source: where the sealed files are.
        dek: the data key of this model version; the caller wipes it.
        signers: DER SPKIs of the keys that may sign the manifest.
        threshold: how many distinct ones of them must have signed.
        expected_digest: the model digest of policy and release answer, 32 bytes.
        expected_genesis: digest of the vendor's tenant genesis, 32 bytes.
        threads: how many segments, or small files, are read and decrypted at once.
        progress: told how many more plaintext bytes are open; never called twice at once.

    Raises:
        RuntimeFault: a `manifest_...`, `sealed_...`, `key_...`, `source_...` or `memory_...` code.
    """
    trusted = manifests.verify(
        manifest_envelope,
        signers,
        threshold,
        expected_digest=expected_digest,
        expected_genesis=expected_genesis,
    )
    with ModelOpener(trusted, source, dek, threads=threads, progress=progress) as opener:
        return opener.open_all()


@final
class ModelOpener:
    """Opens files of one trusted manifest, one by one or all. Use it as a context manager.

    A supervisor that wants few files alive at a time calls `open` for each, in its own order.
    """

    def __init__(
        self,
        trusted: TrustedManifest,
        source: Source,
        dek: SecretKey,
        *,
        threads: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Start the threads; arguments as in `open_model`."""
        count = threads or default_threads()
        self._trusted = trusted
        self._source = source
        self._dek = dek
        self._entries = {entry.path: entry for entry in trusted.manifest.files}
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="sealed-open")
        self._buffers = Buffers(count)
        self._progress = Progress(progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads and zero the buffers; files that were opened stay open."""
        self._pool.shutdown()
        self._buffers.wipe()

    def open(self, path: str) -> MemoryFile:
        """Return file `path` of the manifest, authenticated and frozen; the caller closes it.

        Raises:
            RuntimeFault: `sealed_missing` if the manifest has no such file, or as `open_model`.
        """
        entry = self._entries.get(path)
        if entry is None:
            raise RuntimeFault(Fault.SEALED_MISSING, f"{path}: not in the manifest")
        return self._open(entry, self._pool)

    def open_all(self) -> OpenedModel:
        """Return every file of the manifest: small ones many at a time, large ones in parts.

        Raises:
            RuntimeFault: as `open_model`; no file is left open then.
        """
        files = self._trusted.manifest.files
        small = [entry for entry in files if entry.sealed_size <= INLINE]
        futures = {e.path: self._pool.submit(self._open, e, None) for e in small}
        opened: dict[str, MemoryFile] = {}
        try:
            for path, future in futures.items():
                opened[path] = future.result()
            for entry in files:
                if entry.path not in futures:
                    opened[entry.path] = self._open(entry, self._pool)
        except BaseException:
            for future in futures.values():
                future.cancel()
            wait(futures.values())
            for future in futures.values():
                if not future.cancelled() and future.exception() is None:
                    future.result().close()
            for file in opened.values():
                file.close()
            raise
        ordered = {entry.path: opened[entry.path] for entry in files}
        return OpenedModel(self._trusted, MappingProxyType(ordered))

    def _open(self, entry: SealedFile, pool: ThreadPoolExecutor | None) -> MemoryFile:
        memory = MemoryFile(entry.path, entry.size)
        try:
            self._fill(memory, entry, pool)
            memory.freeze()
        except BaseException:
            memory.close()
            raise
        return memory

    def _fill(self, memory: MemoryFile, entry: SealedFile, pool: ThreadPoolExecutor | None) -> None:
        name = FILES + entry.path
        layout = Layout.of(entry.size)
        # 1. As many bytes as the manifest says?
        self._check_size(name, layout)
        # 2. The first segment: its header makes the cipher, so it comes before all others.
        hasher = blake3()
        slot = self._buffers.take()
        try:
            sealed = fetch(self._source, name, layout.sealed(0), slot.sealed)
            associated = associated_data(self._trusted.manifest.model_version_id, entry.path)
            cipher = SegmentCipher(self._dek, bytes(sealed[:HEADER]), associated, name)
            target = _Target(layout, cipher, memory)
            target.decrypt(0, sealed, slot.plain)
            hasher.update(sealed)
        finally:
            self._buffers.give(slot)
        self._progress.add(layout.plain(0)[1])

        # 3. The others: each thread reads, decrypts and, when all before were, hashes what it read.
        def work(index: int, slot: Slot) -> memoryview:
            sealed = fetch(self._source, name, layout.sealed(index), slot.sealed)
            target.decrypt(index, sealed, slot.plain)
            return sealed

        def then(index: int, sealed: memoryview) -> None:
            hasher.update(sealed)
            self._progress.add(layout.plain(index)[1])

        in_order(pool, self._buffers, range(1, layout.count), work, then)
        # 4. The very file of the manifest, and not another that the same key opens?
        if not hmac.compare_digest(hasher.digest(), entry.blake3):
            raise RuntimeFault(
                Fault.SEALED_DIGEST,
                f"{name}: expected BLAKE3 {entry.blake3.hex()}, seen {hasher.hexdigest()}",
            )

    def _check_size(self, name: str, layout: Layout) -> None:
        seen = self._source.size(name)
        if seen != layout.sealed_size:
            short = seen < layout.sealed_size
            raise RuntimeFault(
                Fault.SEALED_TRUNCATED if short else Fault.SEALED_EXTRA,
                f"{name}: expected {layout.sealed_size} bytes, seen {seen}",
            )


@final
@dataclass(frozen=True, slots=True)
class _Target:
    """Where the segments of one file go."""

    layout: Layout
    cipher: SegmentCipher
    memory: MemoryFile

    def decrypt(self, index: int, sealed: memoryview, scratch: memoryview) -> None:
        """Authenticate segment `index` in `scratch`, then write it to its place."""
        start, length = self.layout.plain(index)
        plain = scratch[:length]
        last = self.layout.last(index)
        self.cipher.open(index, split(sealed, index), plain, last=last)
        self.memory.write(start, plain)
