"""Looks for bytes in the memory of a running process, through /proc/PID/mem (Linux).

A scan sees what is there in the moment: several, while the process works, are needed to say that
something never is; and a positive control, where it must be found, to believe the scan at all.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (r)\S+ \S+ \S+ \S+\s*(.*)")
_SKIPPED = ("[vvar]", "[vsyscall]", "[vvar_vclock]")
_CHUNK = 4 << 20


def may_scan(pid: int) -> bool:
    """Tell whether this process may read that one's memory (ptrace rules, dumpable flag)."""
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
    except OSError:
        return False
    return True


def count(pid: int, needle: bytes) -> int:
    """Return how often `needle` stands in the readable memory of `pid`.

    Raises:
        OSError: where the memory may not be read at all.
    """
    if len(needle) < 8:
        raise ValueError("a shorter needle is found by chance")
    found = 0
    descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            region = _REGION.fullmatch(line)
            if region is not None and region[4] not in _SKIPPED:
                found += _in_region(descriptor, int(region[1], 16), int(region[2], 16), needle)
    finally:
        os.close(descriptor)
    return found


def _in_region(descriptor: int, start: int, end: int, needle: bytes) -> int:
    found = 0
    kept = b""
    while start < end:
        try:
            raw = os.pread(descriptor, min(_CHUNK, end - start), start)
        except OSError:  # unmapped meanwhile, or a device's page
            return found
        if not raw:
            return found
        found += (kept + raw).count(needle)
        kept = raw[-(len(needle) - 1) :]
        start += len(raw)
    return found
