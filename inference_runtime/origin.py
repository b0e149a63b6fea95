"""Where a sealed model is fetched from: the broker's registry, a bucket, or a local folder.

Guarantees: whoever watches hears how many sealed bytes have come; once it is called off, no read
begins any more and one that waits for a server is given up. Believes nothing that it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock
from typing import Final, Protocol, final

from inference_runtime.bucket import Bucket
from inference_runtime.client import is_address
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed.source import BufferedSource, LocalFolder, Source

Tell = Callable[[int], None]
"""Told how many sealed bytes came just now; from any thread, never twice at once."""
_MANIFEST: Final = "manifest.json"


class Fetched(Source, Protocol):
    """A source that has the manifest too."""

    def manifest(self) -> bytes:
        """Return the signed manifest, unchecked.

        Raises:
            RuntimeFault: it cannot be had.
        """
        ...


@final
class Origin:
    """A `sealed.source.BufferedSource` that counts, and can be called off."""

    def __init__(self, inner: Fetched | LocalFolder, stopping: Event, folder: str = "") -> None:
        self._inner = inner
        self._stopping = stopping
        self._folder = folder
        self._lock = Lock()
        self.tell: Tell = lambda _: None
        """Told of every read."""

    def manifest(self) -> bytes:
        """Return the signed manifest, unchecked.

        Raises:
            RuntimeFault: it cannot be had.
        """
        if not isinstance(self._inner, LocalFolder):
            return self._inner.manifest()
        try:
            return self._inner.read(_MANIFEST, 0, self._inner.size(_MANIFEST))
        except RuntimeFault as fault:
            raise RuntimeFault(fault.code, f"{self._folder}: {fault}") from fault

    def size(self, name: str) -> int:
        """Return the bytes of `name`; see `Source.size`."""
        self._require_wanted(name)
        return self._inner.size(name)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of `name`; see `Source.read`."""
        self._require_wanted(name)
        found = self._inner.read(name, offset, length)
        self._count(len(found))
        return found

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer`; see `BufferedSource.read_into`."""
        self._require_wanted(name)
        if isinstance(self._inner, BufferedSource):
            filled = self._inner.read_into(name, offset, buffer)
        else:
            found = self._inner.read(name, offset, len(buffer))
            filled = min(len(found), len(buffer))
            buffer[:filled] = found[:filled]
        self._count(filled)
        return filled

    def call_off(self) -> None:
        """Begin no read any more; one that waits for a server ends."""
        self._stopping.set()

    def close(self) -> None:
        """Call it off, and close connections of its own."""
        self.call_off()
        if isinstance(self._inner, Bucket):
            self._inner.__exit__()

    def _require_wanted(self, name: str) -> None:
        if self._stopping.is_set():
            raise RuntimeFault(Fault.SOURCE_UNAVAILABLE, f"{name}: the load was called off")

    def _count(self, count: int) -> None:
        with self._lock:
            self.tell(count)


def origin(sealed: Path | str | None, registry: Callable[[], Fetched]) -> Origin:
    """Return where the sealed model is.

    Args:
        sealed: a folder, an http(s) address, or None for the broker's registry.
        registry: makes that one, if it is wanted.

    Raises:
        RuntimeFault: `source_unavailable` if text is no address.
    """
    stopping = Event()
    if sealed is None:
        return Origin(registry(), stopping)
    if isinstance(sealed, str):
        return Origin(Bucket(sealed, stopping=stopping), stopping)
    return Origin(LocalFolder(sealed), stopping, str(sealed))


def place(text: str) -> Path | str:
    """Return what a person named: an http(s) address as it is, anything else as a folder."""
    return text if is_address(text) else Path(text)
