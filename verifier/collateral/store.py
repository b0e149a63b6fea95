"""Collateral on disk: parts by name, their bytes by SHA-256.

    objects/<2 hex digits>/<SHA-256>     exact bytes of a body or a chain
    parts/<name>.json                    digests, when it was fetched, and the dates of all in it
    lock                                 held while something is written

Guarantees: what `get` returns has the digests that the index names, and its signatures and dates
were read again from those bytes: an index that says something else is refused. `put` never steps
back to an older part unless told to, and a reader sees the old part or the new one, whole. The
folder *is not* trusted: who can write it can at most make releases fail.
Crash: temporary files and objects that no index names may be left; both are harmless. Objects that
a newer part replaced stay: a few megabytes a year.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

from verifier.anchors import Anchors
from verifier.collateral.parts import Name, Part
from verifier.collateral.vet import MAX_BODY, vet
from verifier.errors import Reason, VerifierError
from verifier.wire import canonical
from verifier.wire.canonical import Hex

_MAX_ENTRY: Final = 64 * 1024
_Stamp = tuple[int, int, int]


@final
class Dates(canonical.Struct, frozen=True):
    """From when to when one thing in a part is valid; unix seconds, ends included."""

    what: str
    start: int
    end: int


@final
class Entry(canonical.Struct, frozen=True):
    """What the index holds of a part. `body` and `chain` are SHA-256."""

    v: int
    name: str
    body: Hex
    chain: Hex
    fetched: int
    number: int
    issued: int
    dates: tuple[Dates, ...]


def dates_of(part: Part) -> tuple[Dates, ...]:
    """Return the dates of everything in a part."""
    return tuple(Dates(window.what, window.start, window.end) for window in part.windows.each)


@final
class Store:
    """One folder of parts. One process may read while another writes.

    Args:
        root: the folder; made when something is first written.
        anchors: the roots that what is kept must chain to.
    """

    __slots__ = ("_anchors", "_known", "root")

    def __init__(self, root: Path, anchors: Anchors) -> None:
        self.root = root
        self._anchors = anchors
        self._known: dict[str, tuple[_Stamp, Part]] = {}

    def get(self, name: Name) -> Part | None:
        """Return the part of this name, or None if there is none.

        Raises:
            VerifierError: `collateral_malformed` if what is there was damaged or changed, or the
                reason why its signatures do not hold; `collateral_unavailable` if it cannot be
                read.
        """
        path = self._index(name)
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unavailable(path, error) from error
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        known = self._known.get(name.text)
        if known is not None and known[0] == stamp:
            return known[1]
        part = self._load(name, path)
        self._known[name.text] = (stamp, part)
        return part

    def put(self, part: Part, *, allow_older: bool = False) -> None:
        """Keep a part, durably, in the place of the one of its name.

        Raises:
            VerifierError: `collateral_too_old` if a newer one is there and `allow_older` is not
                set; `collateral_unavailable` if it cannot be written, and then nothing changed.
        """
        try:
            with self._locked():
                if not allow_older:
                    self.check_not_older(part)
                body, chain = (self._write_object(raw) for raw in (part.body, part.chain))
                entry = Entry(
                    v=1,
                    name=part.name.text,
                    body=body,
                    chain=chain,
                    fetched=part.fetched,
                    number=part.number,
                    issued=part.issued,
                    dates=dates_of(part),
                )
                # Objects first: a crash before this line leaves objects that nothing names.
                _write(self._index(part.name), canonical.encode(entry))
        except OSError as error:
            raise _unavailable(self.root, error) from error

    def check_not_older(self, part: Part) -> None:
        """Check that this part is no step back from what is kept.

        A kept part that is damaged holds nothing back.

        Raises:
            VerifierError: `collateral_too_old`.
        """
        try:
            held = self.get(part.name)
        except VerifierError:
            return
        if held is not None and part.is_older_than(held):
            raise VerifierError(
                Reason.COLLATERAL_TOO_OLD,
                f"{part.name.text}: number {part.number} issued {part.issued}, "
                f"but number {held.number} issued {held.issued} is there",
            )

    def names(self) -> list[Name]:
        """Return the names of all parts, sorted.

        Raises:
            VerifierError: `malformed` for a file that no part is called by.
        """
        folder = self.root / "parts"
        found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.json"))
        return [Name.parse(text.removesuffix(".json")) for text in found]

    def _index(self, name: Name) -> Path:
        return self.root / "parts" / f"{name.text}.json"

    def _object(self, digest: bytes) -> Path:
        return self.root / "objects" / digest.hex()[:2] / digest.hex()

    def _load(self, name: Name, path: Path) -> Part:
        raw = _read(path, _MAX_ENTRY)
        try:
            entry = canonical.decode(raw, Entry, limit=_MAX_ENTRY)
        except VerifierError as error:
            raise VerifierError(
                Reason.COLLATERAL_MALFORMED, f"store: {name.text}: index: {error}"
            ) from error
        body, chain = (self._read_object(digest) for digest in (entry.body, entry.chain))
        part = vet(name, body, chain, self._anchors, fetched=entry.fetched)
        said = (entry.v, entry.name, entry.number, entry.issued, entry.dates)
        if said != (1, name.text, part.number, part.issued, dates_of(part)):
            raise VerifierError(
                Reason.COLLATERAL_MALFORMED,
                f"store: {name.text}: the index says something else than what was signed",
            )
        return part

    def _read_object(self, digest: bytes) -> bytes:
        path = self._object(digest)
        raw = _read(path, MAX_BODY)
        if hashlib.sha256(raw).digest() != digest:
            raise VerifierError(
                Reason.COLLATERAL_MALFORMED, f"store: {path.name} does not have its own SHA-256"
            )
        return raw

    def _write_object(self, raw: bytes) -> Hex:
        digest = hashlib.sha256(raw).digest()
        # Written again even if it is there, so that a damaged object heals.
        _write(self._object(digest), raw)
        return Hex(digest)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock: comparing and replacing are one step between processes."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _unavailable(path: Path, error: OSError) -> VerifierError:
    return VerifierError(Reason.COLLATERAL_UNAVAILABLE, f"store: {path}: {error.strerror}")


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except FileNotFoundError as error:
        raise VerifierError(
            Reason.COLLATERAL_MALFORMED, f"store: {path.name} is named and not there"
        ) from error
    except OSError as error:
        raise _unavailable(path, error) from error
    if len(raw) > limit:
        raise VerifierError(Reason.TOO_LARGE, f"store: {path.name}: more than {limit} bytes")
    return raw


def _write(path: Path, raw: bytes) -> None:
    """Put bytes into a file at once: all of them or, after a crash, what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
