"""A sealed model that an engine opens file by file, and the key with it, until the load is done.

Guarantees: a file comes out only as `open.ModelOpener` gives it: authentic, whole, of the manifest,
frozen. When `close` has returned the key is zeros, buffers are wiped and nothing can be opened any
more; a file that was being opened meanwhile is given up, and not waited for to its end. What `head`
gives was authenticated at its place, but not compared with the manifest's digest: who uses it has
to compare it with the file once that is open.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event, Lock
from typing import Self, final

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed.manifest import SealedFile, TrustedManifest
from inference_runtime.sealed.memory import MemoryFile
from inference_runtime.sealed.open import ModelOpener, OpenedModel
from inference_runtime.sealed.paths import FILES
from inference_runtime.sealed.reader import SealedReader
from inference_runtime.sealed.secret import SecretKey
from inference_runtime.sealed.source import Source
from inference_runtime.sealed.stream import associated_data


@final
class StreamedModel:
    """One trusted manifest, its sealed files and its key. May be closed from any thread."""

    def __init__(
        self,
        trusted: TrustedManifest,
        source: Source,
        dek: SecretKey,
        *,
        threads: int | None = None,
    ) -> None:
        """Take over `dek`: it is wiped by `close`. Arguments as in `open.open_model`."""
        self._trusted = trusted
        self._source = source
        self._dek = dek
        self._closing = Event()
        self._busy = Lock()
        self._opener = ModelOpener(trusted, source, dek, threads=threads, progress=self._tick)

    @property
    def files(self) -> Sequence[SealedFile]:
        """Every file of the manifest, in its order."""
        return self._trusted.manifest.files

    @property
    def digest(self) -> bytes:
        """The model digest."""
        return self._trusted.digest

    def open(self, path: str) -> MemoryFile:
        """Return file `path`, authenticated and frozen; the caller closes it.

        Raises:
            RuntimeFault: see `open.ModelOpener.open`; `key_wiped` once it is closed.
        """
        with self._busy:
            self._require_open()
            return self._opener.open(path)

    def open_all(self) -> OpenedModel:
        """Return every file, for engines that want them all at once; the caller closes them.

        Raises:
            RuntimeFault: as `open`.
        """
        with self._busy:
            self._require_open()
            return self._opener.open_all()

    def head(self, path: str, length: int) -> bytes:
        """Return the first `length` bytes of file `path`, fewer if it is shorter.

        Raises:
            RuntimeFault: as `open`, but for the digest, which only the whole file shows.
        """
        with self._busy:
            self._require_open()
            if all(entry.path != path for entry in self.files):
                raise RuntimeFault(Fault.SEALED_MISSING, f"{path}: not in the manifest")
            associated = associated_data(self._trusted.manifest.model_version_id, path)
            reader = SealedReader(self._source, FILES + path, self._dek, associated)
            return reader.read(0, length)

    def close(self) -> None:
        """Wipe the key and the buffers; what was opened stays open. A second call does nothing."""
        self._closing.set()
        with self._busy:
            self._dek.wipe()
            self._opener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._closing.is_set():
            raise RuntimeFault(Fault.KEY_WIPED, "the model's key is gone: its load is over")

    def _tick(self, _count: int) -> None:
        # Called for each segment: a load that was called off ends within one.
        self._require_open()
