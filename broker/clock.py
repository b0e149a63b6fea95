"""The broker's one reader of the clock.

Guarantees: whole unix seconds, UTC. Everything else takes `now` as an argument; the log keeps times
from going back (`broker.log.draft.TreeHead.not_before`), this does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], int]
"""Anything that returns unix seconds; tests pass their own."""


def system_clock() -> int:
    """Return the unix seconds now."""
    return int(time.time())
