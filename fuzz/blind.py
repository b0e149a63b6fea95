"""Inputs without a guide: mutations of seeds that repeat by number, and seeds in folders."""

from __future__ import annotations

import random  # noqa: TID251 - a mutator must be able to repeat itself
from pathlib import Path
from typing import Final

MAX_INPUT: Final = 64 * 1024
"""Longest input in bytes."""
_MAX_SEED: Final = 256 * 1024


def mutate(raw: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return `raw` with a few bytes flipped, cut, doubled, or replaced by a piece of `other`."""
    bent = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(bent) + 1)
        step = rng.randrange(6)
        if step == 0 and at < len(bent):
            bent[at] ^= 1 << rng.randrange(8)
        elif step == 1 and at < len(bent):
            bent[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif step == 2:  # noqa: PLR2004 - one of six
            del bent[at : at + rng.randint(1, 32)]
        elif step == 3:  # noqa: PLR2004 - same
            bent[at:at] = bent[at : at + rng.randint(1, 32)]
        elif step == 4 and other:  # noqa: PLR2004 - same
            start = rng.randrange(len(other))
            bent[at : at + rng.randint(0, 16)] = other[start : start + rng.randint(1, 64)]
        else:
            bent[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x80\0\0\0", b"\0\0\0\x80"))
    return bytes(bent[:MAX_INPUT])


def recorded(folder: Path | None) -> list[bytes]:
    """Return the files of a corpus that are small enough to be seeds."""
    files = sorted(folder.rglob("*")) if folder is not None else []
    return [f.read_bytes() for f in files if f.is_file() and f.stat().st_size <= _MAX_SEED]
