"""What the kernel tells of a process and its children (Linux): who they are and what they hold."""

from __future__ import annotations

import os
import re
from pathlib import Path

_SOCKET = re.compile(r"socket:\[(\d+)\]")
_LISTENING = "0A"


def tree(pid: int) -> list[int]:
    """Return `pid` and every process below it that runs."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in {"Z", "X"}:
                parents[int(entry.name)] = int(fields[1])
    found = [pid] if pid in parents else []
    for each in found:
        found.extend(child for child, parent in parents.items() if parent == each)
    return found


def descriptors(pid: int) -> list[str]:
    """Return what the descriptors of a process name."""
    found: list[str] = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except OSError:  # closed meanwhile
            continue
    return found


def listening(pid: int) -> list[str]:
    """Return the addresses, in the kernel's hexadecimal, at which a process takes connections."""
    inodes = {found[1] for name in descriptors(pid) if (found := _SOCKET.fullmatch(name))}
    addresses: list[str] = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and fields[9] in inodes:
                addresses.append(fields[1].rpartition(":")[0])
    return addresses


def core_limit(pid: int) -> list[str]:
    """Return soft and hard limit of a core dump's size."""
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max core file size"):
            return line.split()[4:6]
    raise AssertionError("no such limit")


def holding(folder: Path, needle: bytes) -> list[str]:
    """Return the files below `folder` that hold `needle`."""
    found: list[str] = []
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            if path.is_file() and not path.is_symlink() and needle in path.read_bytes():
                found.append(str(path))
    return found
