"""Measurements of a report against the golden values of its RIMs.

Guarantees: every active golden value is compared, but index 35 where the report says that the video
decoder is off; a block that is missing or of another size is a mismatch, like a wrong one. Indices
that no RIM names, or only as inactive, are not judged and are told. Nothing is ever relaxed: NVIDIA
knows of drivers whose index 9 or 52 differs in the field, and those are refused with the index.
Does not look at MSRSCNT, the counters of changes: nobody says what they should be.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from verifier.errors import Reason, VerifierError
from verifier.nvgpu.rim import Golden, Kind, Rim

NVDEC0_INDEX: Final = 35
"""The index that is not measured while the first video decoder is off."""
NVDEC0_ENABLED: Final = 0xAA
NVDEC0_DISABLED: Final = 0x55


@final
@dataclass(frozen=True, slots=True)
class Mismatch:
    """One index whose measurement is none of its golden values; `seen` is None without a block."""

    index: int
    source: Kind
    name: str
    seen: bytes | None

    def __str__(self) -> str:
        seen = "no measurement" if self.seen is None else self.seen.hex()
        return f"{self.source} index {self.index} ({self.name}): {seen}"


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, all by RIM index: counted from 0, one less than the report's block.

    `compared` are the indices that were judged, mismatches among them. `skipped` were not because
    of NVDEC0; `unnamed` are measured and no RIM has an active value for them.
    """

    mismatches: tuple[Mismatch, ...]
    compared: tuple[int, ...]
    skipped: tuple[int, ...]
    unnamed: tuple[int, ...]

    @property
    def ok(self) -> bool:
        """Tell whether something was compared, and nothing differs."""
        return bool(self.compared) and not self.mismatches


def compare(
    blocks: Mapping[int, bytes], driver: Rim | None, vbios: Rim, nvdec0: int | None
) -> Comparison:
    """Compare a report's measurements with its RIMs.

    Args:
        blocks: measurement values by block index, as in the report: counted from 1.
        driver: the driver's RIM; None for a switch, which has none.
        vbios: the RIM of the VBIOS, or of the switch's BIOS.
        nvdec0: NVDEC0_STATUS; None for a switch.

    Raises:
        VerifierError: `collateral_mismatch` if both RIMs claim an index, or are not of these
            kinds; `no_reference_values` if one has none; `malformed` for an unknown NVDEC0_STATUS.
    """
    golden = _golden(driver, vbios)
    states = {NVDEC0_ENABLED, NVDEC0_DISABLED} if driver is not None else {None}
    if nvdec0 not in states:
        raise VerifierError(Reason.MALFORMED, f"NVDEC0_STATUS {nvdec0!r}: AA or 55 expected")
    mismatches: list[Mismatch] = []
    compared: list[int] = []
    skipped: list[int] = []
    for index, (source, value) in sorted(golden.items()):
        if index == NVDEC0_INDEX and nvdec0 == NVDEC0_DISABLED:
            skipped.append(index)
            continue
        compared.append(index)
        seen = blocks.get(index + 1)
        if seen is None or not _is_one_of(seen, value):
            mismatches.append(Mismatch(index, source, value.name, seen))
    unnamed = tuple(sorted(block - 1 for block in blocks if block - 1 not in golden))
    return Comparison(tuple(mismatches), tuple(compared), tuple(skipped), unnamed)


def _golden(driver: Rim | None, vbios: Rim) -> dict[int, tuple[Kind, Golden]]:
    """Return the active golden values by index, with whose they are."""
    kinds = (None if driver is None else driver.kind, vbios.kind)
    if kinds not in {("driver", "vbios"), (None, "switch")}:
        raise VerifierError(Reason.COLLATERAL_MISMATCH, f"RIMs of {kinds}")
    golden: dict[int, tuple[Kind, Golden]] = {}
    for rim in (driver, vbios):
        if rim is None:
            continue
        active = {index: value for index, value in rim.golden.items() if value.active}
        if not active:
            raise VerifierError(Reason.NO_REFERENCE_VALUES, f"RIM {rim.id}: no active values")
        both = sorted(active.keys() & golden.keys())
        if both:
            raise VerifierError(
                Reason.COLLATERAL_MISMATCH, f"driver and VBIOS RIM both claim index {both[0]}"
            )
        golden |= {index: (rim.kind, value) for index, value in active.items()}
    return golden


def _is_one_of(seen: bytes, value: Golden) -> bool:
    """Tell whether a measurement is one of the alternatives, sizes included."""
    return any(hmac.compare_digest(seen, each) for each in value.alternatives)
