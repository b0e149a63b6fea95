"""AR4SI's trustworthiness vector and its tiers.

Guarantees: every entry is an int8 and has exactly one tier; 258 is refused, never taken for 2.
"Worse" has one meaning here: first by tier, in the order affirming, none, warning, contraindicated,
then by value; so that what could not be judged is never hidden behind what was affirmed.

Source: draft-ietf-rats-ar4si §2.3 (values), §3.1 (vector), §3.2 (tiers).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeAlias, final

import msgspec

from verifier.errors import Reason, VerifierError

Member: TypeAlias = Literal[
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
]
"""What a vector speaks of; the order is that of its CBOR keys."""
Int8: TypeAlias = Annotated[int, msgspec.Meta(ge=-128, le=127)]


@final
class Tier(StrEnum):
    """How far something is to be trusted."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"


_WORSE: Final = (Tier.AFFIRMING, Tier.NONE, Tier.WARNING, Tier.CONTRAINDICATED)
_TRUST: Final = (Tier.NONE, Tier.AFFIRMING, Tier.WARNING, Tier.CONTRAINDICATED)
"""Within one vector, no claim of one thing takes nothing from what is affirmed of another."""
_STARTS: Final = ((96, Tier.CONTRAINDICATED), (32, Tier.WARNING))


def tier(value: int) -> Tier:
    """Return the tier of an entry.

    Raises:
        VerifierError: `malformed` outside -128 to 127.
    """
    if not -128 <= value <= 127:  # noqa: PLR2004 - int8
        raise VerifierError(Reason.MALFORMED, f"trustworthiness claim {value}: an int8 expected")
    size = value if value >= 0 else -value - 1  # -32 is as far out as 31
    if value in {-1, 0, 1}:
        return Tier.NONE
    return next((found for start, found in _STARTS if size >= start), Tier.AFFIRMING)


def worst(values: Iterable[int]) -> int:
    """Return the worst of several values for one member; 0, no claim, if there are none."""
    return max(values, key=lambda value: (_WORSE.index(tier(value)), value), default=0)


def overall(statuses: Iterable[Tier]) -> Tier:
    """Return the status that stands for several attesters: the worst of theirs."""
    return max(statuses, key=_WORSE.index, default=Tier.NONE)


def no_better(status: Tier, than: Tier) -> bool:
    """Tell whether one attester's status is as bad as another's, or worse."""
    return _WORSE.index(status) >= _WORSE.index(than)


@final
class Vector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What was found of one attester; 0 is no claim, which is also what a missing member says."""

    instance_identity: Int8 = 0
    configuration: Int8 = 0
    executables: Int8 = 0
    file_system: Int8 = 0
    hardware: Int8 = 0
    runtime_opaque: Int8 = 0
    storage_opaque: Int8 = 0
    sourced_data: Int8 = 0

    def tier(self) -> Tier:
        """Return the tier of the worst entry; members without a claim take nothing from others."""
        return max(map(tier, msgspec.structs.astuple(self)), key=_TRUST.index)

    def admits(self, status: Tier) -> bool:
        """Tell whether a status says no more good than the entries do."""
        seen = self.tier()
        if status in {Tier.NONE, Tier.AFFIRMING}:
            return seen in {status, Tier.AFFIRMING}
        return _TRUST.index(status) >= _TRUST.index(seen)
