"""Replay a log: what each register must hold after these events.

Guarantees: R = H(R || digest) in the order of the log; EV_NO_ACTION and MRTD's events extend
nothing; registers start at zero (PCR 17 to 22 at FF), or where StartupLocality says. Does not say
what the events mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

from verifier.eventlog.log import EventLog, Kind
from verifier.eventlog.tcg import SIZES

_HASHES: Final[dict[str, Callable[[bytes], Any]]] = {
    "sha1": hashlib.sha1,
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
}
_DYNAMIC = range(17, 23)


def initial(log: EventLog, bank: str, register: int) -> bytes:
    """Return what the register holds before any event (PFP; PTP for the dynamic PCRs)."""
    started = log.initial.get((bank, register))
    if started is not None:
        return started
    ones = log.format in ("tcg1.2", "tcg2") and register in _DYNAMIC
    return (b"\xff" if ones else b"\0") * SIZES[bank]


def replay(log: EventLog, bank: str) -> dict[int, bytes]:
    """Return the final value of each register that the log extends, in one of its banks."""
    which = log.banks.index(bank)
    make = _HASHES[bank]
    registers: dict[int, bytes] = {}
    for event in log.events:
        register = event.register
        if event.kind == Kind.NO_ACTION or register < 0:
            continue
        value = registers.get(register)
        if value is None:
            value = initial(log, bank, register)
        registers[register] = make(value + event.digests[which]).digest()
    for (other, register), value in log.initial.items():
        if other == bank:
            registers.setdefault(register, value)
    return registers
