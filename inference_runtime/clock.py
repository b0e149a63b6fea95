"""The runtime's one reader of the clock. The host may move it: leases are advisory by that much."""

from __future__ import annotations

import time


def now() -> int:
    """Return unix seconds, UTC."""
    return int(time.time())


def monotonic() -> float:
    """Return seconds of a clock that only runs forward; for durations."""
    return time.monotonic()
