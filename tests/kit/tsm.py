"""A kernel's configfs-tsm in memory: answers writes with computed reads, as a folder cannot.

Follows Linux' Documentation/ABI/testing/configfs-tsm-report and drivers/virt/coco/tsm.c: making a
folder makes a request, each write counts, `outblob` is computed on read and refused without input.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field

ROOT = "/sys/kernel/config/tsm/report"
Answer = Callable[[bytes], tuple[bytes, bytes]]


def os_error(number: int, path: str = "") -> OSError:
    """Return the OSError subclass that the kernel's number makes."""
    return OSError(number, os.strerror(number), path)


@dataclass
class FakeTsm:
    """`answer` maps report data to (outblob, auxblob). Knobs break what a test wants broken.

    `fails` gives an errno for (operation, last part of the path); `other_writer` writes to the
    request behind its maker's back, just before the output is read.
    """

    answer: Answer
    provider: str = "sev_guest"
    files: dict[str, bytes] = field(default_factory=dict)
    fails: dict[tuple[str, str], int] = field(default_factory=dict)
    privlevel_floor: int = 0
    other_writer: bytes | None = None
    texts: dict[str, bytes] = field(default_factory=dict)
    requests: dict[str, dict[str, bytes]] = field(default_factory=dict)
    generation: dict[str, int] = field(default_factory=dict)
    trace: list[tuple[str, str]] = field(default_factory=list)

    def _check(self, operation: str, path: str) -> str:
        name = path.rsplit("/", 1)[1]
        known = name if path.rsplit("/", 1)[0] != ROOT else "request"
        self.trace.append((operation, known))
        if (operation, known) in self.fails:
            raise os_error(self.fails[operation, known], path)
        return name

    def make_folder(self, path: str) -> None:
        self._check("make", path)
        if path in self.requests:
            raise os_error(errno.EEXIST, path)
        self.requests[path] = {}
        self.generation[path] = 0

    def remove_folder(self, path: str) -> None:
        self._check("remove", path)
        del self.requests[path]

    def write(self, path: str, data: bytes) -> None:
        name = self._check("write", path)
        request = self._request(path)
        if name == "privlevel" and (
            self.provider != "sev_guest" or int(data) < self.privlevel_floor
        ):
            raise os_error(errno.EINVAL, path)
        if name == "inblob" and not 0 < len(data) <= 64:
            raise os_error(errno.EINVAL, path)
        request[name] = data
        self.generation[path.rsplit("/", 1)[0]] += 1

    def read(self, path: str, limit: int) -> bytes:
        name = self._check("read", path)
        data = self._content(path, name)
        if len(data) > limit:
            raise os_error(errno.EFBIG, path)
        return data

    def _content(self, path: str, name: str) -> bytes:
        if not path.startswith(f"{ROOT}/"):
            if path not in self.files:
                raise os_error(errno.ENOENT, path)
            return self.files[path]
        request = self._request(path)
        folder = path.rsplit("/", 1)[0]
        if name in self.texts:
            return self.texts[name]
        if name == "provider":
            return f"{self.provider}\n".encode()
        if name == "generation":
            return f"{self.generation[folder]}\n".encode()
        if name == "privlevel_floor" and self.provider == "sev_guest":
            return f"{self.privlevel_floor}\n".encode()
        if name not in {"outblob", "auxblob"}:
            raise os_error(errno.ENOENT, path)
        if "inblob" not in request:
            raise os_error(errno.EINVAL, path)
        if self.other_writer is not None:
            request["inblob"] = self.other_writer
            self.generation[folder] += 1
        out, aux = self.answer(request["inblob"])
        return out if name == "outblob" else aux

    def _request(self, path: str) -> dict[str, bytes]:
        folder = path.rsplit("/", 1)[0]
        if folder not in self.requests:
            raise os_error(errno.ENOENT, path)
        return self.requests[folder]
