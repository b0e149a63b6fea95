"""Sealing a folder: every file becomes one sealed file, and a signed manifest names them all.

Guarantees: the sealed model appears whole or not at all, under a name that did not exist before; a
crash leaves at most a hidden `.NAME.partial-...` folder without a manifest, which nothing opens.
Links and special files are refused, and so is a file that changes meanwhile. Does not know formats:
any file is bytes. The plaintext stays where it was; the data key is the caller's to wipe.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import final

from blake3 import blake3

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed import manifest as manifests
from inference_runtime.sealed.folder import PlainFile, create, list_folder, sync_folders
from inference_runtime.sealed.layout import HEADER, Layout
from inference_runtime.sealed.manifest import MANIFEST, Manifest, SealedFile
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
from inference_runtime.sealed.source import read_fully
from inference_runtime.sealed.stream import SegmentCipher, associated_data, split
from verifier import dsse
from verifier.errors import VerifierError
from verifier.wire import canonical
from verifier.wire.canonical import Hex

MODEL_VERSION_ID_SIZE = 32


@final
@dataclass(frozen=True, slots=True)
class ModelName:
    """What the manifest says about the model beside its files."""

    model: str
    version: int
    genesis: bytes
    key_id: str
    key_version: int


@final
@dataclass(frozen=True, slots=True)
class SealedModel:
    """A sealed model as it was written: manifest, its signed envelope, and the model digest."""

    manifest: Manifest
    envelope: bytes
    digest: bytes


def seal_model(
    folder: Path,
    out: Path,
    dek: SecretKey,
    name: ModelName,
    sign: Callable[[bytes], bytes],
    *,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> SealedModel:
    """Seal every file under `folder` into the new folder `out`.

    Args:
        folder: the model as it is.
        out: where the sealed model shall be; must not exist, its parent must.
        dek: the data key, made for this model version and no other; the caller wipes it.
        name: what the manifest says beside the files.
        sign: makes the DSSE envelope of the manifest's payload,
            such as `lambda payload: dsse.sign(manifest.PAYLOAD_TYPE, payload, key)`.
        threads: how many segments, or small files, are worked on at once.
        progress: told how many more plaintext bytes are sealed; never called twice at once.

    Raises:
        RuntimeFault: `seal_input`, `seal_changed`, `seal_output`, `manifest_invalid` or
            `key_wiped`; nothing is left behind then.
    """
    # 1. What is there? Every name is judged before any byte is read.
    files = list_folder(folder)
    # 2. A hidden folder beside the target, so that the last step is one rename.
    _require_new(out)
    if out.resolve().is_relative_to(folder.resolve()):
        raise RuntimeFault(Fault.SEAL_OUTPUT, f"{out.name}: lies inside the folder that is sealed")
    partial = out.with_name(f".{out.name}.partial-{secrets.token_hex(8)}")
    try:
        # 3. Seal the files.
        version_id = secrets.token_bytes(MODEL_VERSION_ID_SIZE)
        sealer = _Sealer(
            folder,
            partial,
            dek=dek,
            version_id=version_id,
            threads=threads or default_threads(),
            progress=progress,
        )
        entries = sealer.run(files)
        # 4. Name them all, and sign.
        sealed = _sign(_manifest(name, version_id, entries), sign)
        create(partial / MANIFEST, lambda fd: _write(fd, memoryview(sealed.envelope)))
        # 5. Durable, then visible. A crash before the rename leaves only the hidden folder.
        sync_folders(partial)
        _publish(partial, out)
    except OSError as error:
        raise RuntimeFault(Fault.SEAL_OUTPUT, f"{out.name}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sealed


def _require_new(out: Path) -> None:
    if out.is_symlink() or out.exists():
        raise RuntimeFault(Fault.SEAL_OUTPUT, f"{out.name}: exists already")
    if not out.parent.is_dir():
        raise RuntimeFault(Fault.SEAL_OUTPUT, f"{out.name}: the folder it goes into does not exist")


def _publish(partial: Path, out: Path) -> None:
    _require_new(out)  # rename would replace an empty folder that someone made meanwhile
    partial.rename(out)
    descriptor = os.open(out.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest(name: ModelName, version_id: bytes, entries: list[SealedFile]) -> Manifest:
    return Manifest(
        v=1,
        model=name.model,
        version=name.version,
        genesis=Hex(name.genesis),
        model_version_id=Hex(version_id),
        key_id=name.key_id,
        key_version=name.key_version,
        files=tuple(entries),
    )


def _sign(manifest: Manifest, sign: Callable[[bytes], bytes]) -> SealedModel:
    payload = manifests.encode(manifest)
    envelope = sign(payload)
    # Look at what came back: a signer that signed something else must not be published.
    try:
        found = canonical.decode(envelope, dsse.Envelope, limit=manifests.MAX_ENVELOPE)
    except VerifierError as error:
        raise RuntimeFault(Fault.MANIFEST_SIGNATURE, f"the signer's answer: {error}") from error
    same = found.payload == base64.b64encode(payload).decode()
    if not same or found.payload_type != manifests.PAYLOAD_TYPE or not found.signatures:
        raise RuntimeFault(Fault.MANIFEST_SIGNATURE, "the signer signed something else")
    return SealedModel(manifest, envelope, manifests.digest(payload))


def _write(descriptor: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(descriptor, data) :]


@final
class _Sealer:
    """Seals the files of one folder; lives for one call of `seal_model`."""

    def __init__(
        self,
        folder: Path,
        out: Path,
        *,
        dek: SecretKey,
        version_id: bytes,
        threads: int,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._folder = folder
        self._out = out
        self._dek = dek
        self._version_id = version_id
        self._threads = threads
        self._buffers = Buffers(threads + 2)
        self._progress = Progress(progress)

    def run(self, files: list[PlainFile]) -> list[SealedFile]:
        """Seal small files many at a time, then large ones in parts; return them as listed."""
        small = [file for file in files if file.size <= INLINE]
        done: dict[str, SealedFile] = {}
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="sealed-seal")
        try:
            futures = [pool.submit(self._seal, file, None) for file in small]
            for future in futures:
                entry = future.result()
                done[entry.path] = entry
            for file in files:
                if file.path not in done:
                    done[file.path] = self._seal(file, pool)
        finally:
            pool.shutdown(cancel_futures=True)
            self._buffers.wipe()
        return [done[file.path] for file in files]

    def _seal(self, file: PlainFile, pool: ThreadPoolExecutor | None) -> SealedFile:
        target = self._out / FILES / file.path
        hasher = blake3()
        with file.opened(self._folder) as plain:

            def copy(sealed: int) -> None:
                self._segments(file, plain, sealed, hasher, pool)

            create(target, copy)
        layout = Layout.of(file.size)
        return SealedFile(file.path, file.size, layout.sealed_size, Hex(hasher.digest()))

    def _segments(
        self,
        file: PlainFile,
        plain: int,
        sealed: int,
        hasher: blake3,
        pool: ThreadPoolExecutor | None,
    ) -> None:
        layout = Layout.of(file.size)
        cipher = SegmentCipher.fresh(
            self._dek, associated_data(self._version_id, file.path), file.path
        )

        def work(index: int, slot: Slot) -> memoryview:
            start, length = layout.plain(index)
            data = slot.plain[:length]
            if read_fully(plain, start, data) != length:
                raise RuntimeFault(Fault.SEAL_CHANGED, f"{file.path}: became shorter")
            out = slot.sealed[: layout.sealed(index)[1]]
            if index == 0:
                out[:HEADER] = cipher.header
            cipher.seal(index, data, split(out, index), last=layout.last(index))
            return out

        def then(index: int, out: memoryview) -> None:
            hasher.update(out)
            _write(sealed, out)
            self._progress.add(layout.plain(index)[1])

        in_order(pool, self._buffers, range(layout.count), work, then)
