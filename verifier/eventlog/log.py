"""What every kind of event log is parsed into, and the names of event types.

Guarantees nothing by itself: parsers fill it, `replay` and `boot` use it.

Source: TCG PC Client Platform Firmware Profile, event types; UEFI 2.10 §38.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Literal, NamedTuple, TypeAlias, final

MAX_LOG: Final = 4 * 1024 * 1024
"""Largest event log in bytes, padding included."""
MAX_EVENTS: Final = 16384

Format: TypeAlias = Literal["tcg1.2", "tcg2", "ccel", "dstack", "aael"]

NO_REGISTER: Final = 0xFFFFFFFF
"""Stands for the register in EV_NO_ACTION events that belong to none (Windows writes them)."""


@final
class Kind(IntEnum):
    """Event types that are read here (PFP, "Event Types"), and dstack's runtime type."""

    NO_ACTION = 0x3
    SEPARATOR = 0x4
    EVENT_TAG = 0x6
    IPL = 0xD
    VARIABLE_DRIVER_CONFIG = 0x80000001
    BOOT_SERVICES_APPLICATION = 0x80000003
    PARTITION_TABLE = 0x80000006
    EFI_ACTION = 0x80000007
    DSTACK_RUNTIME = 0x08000001


@final
class Event(NamedTuple):
    """One event. `digests` stand in the order of the log's banks; `data` is what it says of itself.

    `register` is a PCR, or an RTMR by its index from 0; -1 for MRTD, which no event extends.
    `number` counts from 0, the header included, for messages.
    """

    number: int
    register: int
    kind: int
    digests: tuple[bytes, ...]
    data: bytes
    name: str = ""


@final
@dataclass(frozen=True, slots=True)
class EventLog:
    """A parsed log. `used` is bytes before padding; `initial` are registers that start elsewhere.

    `count` are all events, a header included.
    """

    format: Format
    banks: tuple[str, ...]
    events: tuple[Event, ...]
    used: int
    count: int
    initial: dict[tuple[str, int], bytes] = field(default_factory=dict)
