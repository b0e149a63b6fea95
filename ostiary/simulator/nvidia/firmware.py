"""What simulated firmware measures to, and so what RIMs say of it.

Guarantees: the same version gives the same values in device and RIM, another version others; the
active indices and the number of alternatives are those of NVIDIA's RIMs. The values are hashes of
names: no firmware exists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, Literal

from ostiary.simulator.nvidia.report import Block

RimKind = Literal["driver", "vbios", "switch"]
RIM_SIZE: Final = 64
"""Every RIM lists 64 indices, active or not."""
BLOCKS: Final[Mapping[str, int]] = {"GH100": 64, "LS10": 31}
ACTIVE: Final[Mapping[RimKind, tuple[int, ...]]] = {
    "driver": (7, *range(21, 41)),
    "vbios": (*range(7), *range(8, 13)),
    "switch": tuple(range(31)),
}
"""Indices with golden values, from 0."""
_ALTERNATIVES: Final[Mapping[RimKind, Mapping[int, int]]] = {
    "driver": {23: 2, 24: 2, 32: 2, 34: 2, 35: 4, 36: 2},
    "vbios": {12: 4},
    "switch": dict.fromkeys(range(9, 26), 4),
}
_ZERO: Final[Mapping[RimKind, frozenset[int]]] = {
    "driver": frozenset({28}),
    "vbios": frozenset({0, 8, 10, 12}),
    "switch": frozenset({5, 7, 9, 12, 13, 15, 16, 17}),
}
"""Indices whose first golden value is zero: nothing was measured."""
_DOMAIN: Final = "ostiary/simulated-gpu-measurement/v1"
MEASUREMENT_SIZE: Final = 48


def golden(kind: RimKind, version: str, index: int, salt: str = "") -> tuple[bytes, ...]:
    """Return the golden values of one active index; any of them is right.

    `salt` makes another issue of the same version, with other values.
    """
    count = _ALTERNATIVES[kind].get(index, 1)
    names = (f"{_DOMAIN}/{kind}/{version}/{salt}/{index}/{number}" for number in range(count))
    values = [hashlib.sha384(each.encode()).digest() for each in names]
    if index in _ZERO[kind]:
        values[0] = bytes(MEASUREMENT_SIZE)
    return tuple(values)


def table(kind: RimKind, version: str, salt: str = "") -> dict[int, tuple[bytes, ...]]:
    """Return all golden values of a version, by index."""
    return {index: golden(kind, version, index, salt) for index in ACTIVE[kind]}


def measured(*running: tuple[RimKind, str], blocks: int) -> tuple[Block, ...]:
    """Return the blocks of a device that runs these; where nothing is measured, zero.

    Of several right values, a device has one: here the last.
    """
    values = {
        index: values[-1]
        for kind, version in running
        for index, values in table(kind, version).items()
    }
    return tuple(
        Block(index + 1, values.get(index, bytes(MEASUREMENT_SIZE))) for index in range(blocks)
    )


def fwid(chip: str, version: str) -> bytes:
    """Return the digest of the firmware that holds the attestation key; 48 bytes."""
    return hashlib.sha384(f"{_DOMAIN}/fwid/{chip}/{version}".encode()).digest()
