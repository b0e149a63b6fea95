"""PCR values as a host reports them, by bank. Worth nothing until a quote covers them.

Guarantees: known banks, indices from 0 to 23, full-length digests, no key twice. Does not guarantee
that any value is true.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from verifier.eventlog.registers import from_json
from verifier.eventlog.tcg import SIZES

__all__ = ["SIZES", "Banks", "from_json"]

Banks: TypeAlias = Mapping[str, Mapping[int, bytes]]
