"""The one reader of the clock for what runs on a person's workstation."""

from __future__ import annotations

import time


def now() -> int:
    """Return unix seconds, UTC."""
    return int(time.time())


def monotonic() -> float:
    """Return seconds of a clock that only runs forward; for durations."""
    return time.monotonic()
