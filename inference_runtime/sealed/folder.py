"""The plain folder that is sealed, and the durable files that sealing writes.

Guarantees: only regular files are listed, with names that a manifest can carry, and a file that is
read is still the one that was listed. Does not follow links, ever.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed.layout import MAX_SIZE
from inference_runtime.sealed.manifest import MAX_FILES
from inference_runtime.sealed.paths import check_path, check_paths


@final
@dataclass(frozen=True, slots=True)
class PlainFile:
    """A file to seal: its path in the folder, and what told it from every other when listed."""

    path: str
    size: int
    identity: tuple[int, ...]

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> Self:
        """Return the file that `status` describes."""
        return cls(path, status.st_size, _identity(status))

    @contextmanager
    def opened(self, folder: Path) -> Iterator[int]:
        """Open the file for reading; refuse it if it is, or becomes, another than was listed.

        Raises:
            RuntimeFault: `seal_input` or `seal_changed`.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(folder / self.path, flags)
        except OSError as error:
            raise RuntimeFault(Fault.SEAL_INPUT, f"{self.path}: {error.strerror}") from error
        try:
            self._require_same(descriptor)
            yield descriptor
            self._require_same(descriptor)
        finally:
            os.close(descriptor)

    def _require_same(self, descriptor: int) -> None:
        if _identity(os.fstat(descriptor)) != self.identity:
            raise RuntimeFault(Fault.SEAL_CHANGED, f"{self.path}: changed while it was sealed")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def list_folder(folder: Path) -> list[PlainFile]:
    """Return the files under `folder`, sorted by path. Empty folders leave no trace.

    Raises:
        RuntimeFault: `seal_input`, for a link, a special file, a name or number of files that a
            manifest cannot carry, or no file at all.
    """
    files: list[PlainFile] = []
    try:
        if folder.is_symlink():
            raise RuntimeFault(Fault.SEAL_INPUT, f"{folder.name}: a link")
        _walk(folder, "", files)
    except OSError as error:
        raise RuntimeFault(Fault.SEAL_INPUT, f"{folder.name}: {error.strerror}") from error
    if not files:
        raise RuntimeFault(Fault.SEAL_INPUT, f"{folder.name}: no file to seal")
    files.sort(key=lambda file: file.path)
    check_paths((file.path for file in files), Fault.SEAL_INPUT)
    return files


def _walk(folder: Path, prefix: str, files: list[PlainFile]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = check_path(prefix + entry.name, Fault.SEAL_INPUT)
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                _walk(folder / entry.name, path + "/", files)
            elif not stat.S_ISREG(status.st_mode):
                raise RuntimeFault(Fault.SEAL_INPUT, f"{path}: a link or a special file")
            elif status.st_size > MAX_SIZE:
                raise RuntimeFault(Fault.SEAL_INPUT, f"{path}: larger than {MAX_SIZE} bytes")
            else:
                files.append(PlainFile.of(path, status))
            if len(files) > MAX_FILES:
                raise RuntimeFault(Fault.SEAL_INPUT, f"more than {MAX_FILES} files")


def create(path: Path, fill: Callable[[int], None]) -> None:
    """Make the new file `path`, let `fill` write it, and return when it is on the disk.

    Raises:
        OSError: what the kernel says, also if the file exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fill(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folders(root: Path) -> None:
    """Make the names in `root` and all its folders durable.

    Raises:
        OSError: what the kernel says.
    """
    for folder, _, _ in os.walk(root):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
