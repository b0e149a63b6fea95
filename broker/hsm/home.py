"""Where the worker keeps its things: HOME/hsm, its marker, its lock and the PIN file.

Guarantees: a home is taken for whole, for never made, or for damaged, and never silently for new.
Only the user that runs the worker needs any right on the folder, and the PIN file is refused if
anybody else has one. Says nothing of what is in the token; `token.py` looks.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, final

from broker.hsm.errors import HsmError, HsmReason
from verifier.errors import VerifierError
from verifier.wire import canonical
from verifier.wire.canonical import Hex, Struct, require_id

FOLDER: Final = "hsm"
PATIENCE: Final = 1.0
"""Seconds to wait for a worker that is just ending."""

_MAX_PIN: Final = 256
_MAX_MARKER: Final = 4096


@final
class Marker(Struct, frozen=True, omit_defaults=True):
    """What the ceremony fixed for ever: HOME/hsm/marker, canonical JSON.

    `database` ties worker.db to this token, so that one of another home is not taken for it.
    `result` is the SHA-256 of the SPKI that signs results; a ceremony of before there was such a
    key left it out, and that home signs none: a key is made at a ceremony or not at all.
    """

    v: Literal[1]
    label: str
    simulated: bool
    broker: Hex
    database: Hex
    result: Hex | None = None

    def __post_init__(self) -> None:
        require_id(self.label, "token label")


@final
@dataclass(frozen=True, slots=True)
class HsmHome:
    """The paths below one broker home."""

    root: Path

    @property
    def folder(self) -> Path:
        """Everything that the worker's user owns."""
        return self.root / FOLDER

    @property
    def conf(self) -> Path:
        """SoftHSM's configuration."""
        return self.folder / "softhsm2.conf"

    @property
    def tokens(self) -> Path:
        """SoftHSM's token folder."""
        return self.folder / "tokens"

    @property
    def pin(self) -> Path:
        """The user PIN, mode 0600."""
        return self.folder / "pin"

    @property
    def database(self) -> Path:
        """Heads and burnt permits."""
        return self.folder / "worker.db"

    @property
    def lock(self) -> Path:
        """Held by the one worker that runs."""
        return self.folder / "lock"

    @property
    def marker(self) -> Path:
        """Says that a ceremony was held, and which."""
        return self.folder / "marker"

    def exists(self) -> bool:
        """Tell whether a ceremony was ever held here, whatever is left of it."""
        return self.folder.exists() or self.folder.is_symlink()

    def read_marker(self) -> Marker:
        """Return what the ceremony fixed.

        Raises:
            HsmError: `token_missing` where there was no ceremony or its marker is gone or damaged.
        """
        try:
            raw = self.marker.read_bytes()
            return canonical.decode(raw, Marker, limit=_MAX_MARKER)
        except FileNotFoundError as error:
            raise HsmError(
                HsmReason.TOKEN_MISSING,
                f"{self.marker} is not there: either no token was ever made here "
                "(`ostiary broker init` makes one), or part of the folder was lost (restore it)",
            ) from error
        except (OSError, VerifierError) as error:
            raise HsmError(
                HsmReason.TOKEN_MISSING, f"{self.marker} cannot be read: {error}"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the home for one worker: for its life, and so around its login.

        Two processes that log in to one SoftHSM token at once can damage it.

        Raises:
            HsmError: `unavailable` while another process holds it.
        """
        try:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HsmError(
                HsmReason.TOKEN_MISSING, f"{self.lock}: {error.strerror}; was a token made here?"
            ) from error
        try:
            if not _locked_in_time(descriptor):
                raise HsmError(HsmReason.UNAVAILABLE, f"another HSM worker holds {self.lock}")
            yield
        finally:
            os.close(descriptor)


def _locked_in_time(descriptor: int) -> bool:
    """Lock exclusively, after at most `PATIENCE` seconds in which a worker that ends may let go."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)
        else:
            return True


@contextmanager
def opened_pin(path: Path) -> Iterator[bytearray]:
    """Give the PIN in `path`, and overwrite it in memory afterwards.

    Raises:
        HsmError: `token_missing` if there is none; `refused` if others may read it.
    """
    pin = bytearray(_MAX_PIN)
    try:
        del pin[_read_private(path, pin) :]
        yield pin
    finally:
        wipe(pin)


def _read_private(path: Path, into: bytearray) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HsmError(HsmReason.TOKEN_MISSING, f"PIN file {path}: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid != os.geteuid():
            raise HsmError(
                HsmReason.REFUSED,
                f"PIN file {path} must be a file of this user with mode 0600",
            )
        length = os.readv(descriptor, [into])
    finally:
        os.close(descriptor)
    if not 0 < length < _MAX_PIN:
        raise HsmError(HsmReason.REFUSED, f"PIN file {path} has no PIN of 1 to 255 bytes")
    return length


def wipe(buffer: bytearray) -> None:
    """Overwrite `buffer` with zeros where it lies; its length stays."""
    if buffer:
        ctypes.memset((ctypes.c_char * len(buffer)).from_buffer(buffer), 0, len(buffer))
