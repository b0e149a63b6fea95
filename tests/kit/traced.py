"""What a process and its children write, and where, by strace: system calls and not promises.

Only calls that can put bytes into a file are followed, with the path of each descriptor.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_CALLS = (
    "write,writev,pwrite64,pwritev,pwritev2,sendfile,splice,copy_file_range,"
    "mmap,open,openat,openat2,creat,truncate,ftruncate,fallocate"
)
_DESCRIPTOR = re.compile(r"(?:\d+|AT_FDCWD)<((?:[^<>]|<[^<>]*>)*)>")
_CALL = re.compile(r"\d+ +(\w+)\((.*)")
_OPENED = re.compile(r'"((?:[^"\\]|\\.)*)", (?:\{flags=)?([A-Z_|0-9x]+)')
_MEMORY = ("/dev/shm/", "/memfd:")  # noqa: S108 - tmpfs, as the engine's home checks
_DEVICES = ("/dev/", "/proc/", "/sys/")
_WRITES = ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC")


def available() -> bool:
    """Tell whether strace is here."""
    return shutil.which("strace") is not None


def command(log: Path, *words: str) -> list[str]:
    """Return the command that runs `words` and all their children under strace."""
    return [
        *("strace", "-f", "--seccomp-bpf", "-y", "-s", "256", "-o", str(log)),
        *("-e", f"trace={_CALLS}", "-e", "signal=none", *words),
    ]


def on_disk(log: Path) -> set[str]:
    """Return the paths of files, outside memory and devices, that were opened to be written to,
    or written to, or mapped so that writing memory writes the file."""  # fmt: skip
    found: set[str] = set()
    for line in log.read_text(errors="replace").splitlines():
        if (call := _CALL.match(line)) is None:
            continue  # the end of a call that was interrupted, a signal, an exit
        name, arguments = call[1], call[2]
        if name in {"open", "openat", "openat2", "creat", "truncate"}:
            opened = _OPENED.search(arguments)
            # `creat` and `truncate` need no flag to write.
            flags = opened[2] if opened is not None and name.startswith("open") else _WRITES[0]
            if (
                opened is not None
                and any(flag in flags for flag in _WRITES)
                and " = -1 " not in line
            ):
                found.add(_absolute(opened[1], arguments))
        elif name == "mmap":
            if "PROT_WRITE" in arguments and "MAP_SHARED" in arguments:
                found.update(_DESCRIPTOR.findall(arguments))
        else:
            found.update(_DESCRIPTOR.findall(arguments.partition(', "')[0]))
    return {path for path in found if _is_file(path)}


def _absolute(path: str, arguments: str) -> str:
    folder = _DESCRIPTOR.search(arguments.partition('"')[0])
    return path if path.startswith("/") or folder is None else f"{folder[1]}/{path}"


def _is_file(path: str) -> bool:
    # Pipes, sockets and anonymous descriptors have no path that begins with a slash.
    return path.startswith("/") and not path.startswith((*_MEMORY, *_DEVICES))
