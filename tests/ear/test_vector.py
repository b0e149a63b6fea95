"""AR4SI's numbers: ranges, tiers, and what is worse than what."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.ear.vector import Tier, Vector, no_better, overall, tier, worst
from verifier.errors import Reason, VerifierError

EDGES = {
    Tier.NONE: (-1, 0, 1),
    Tier.AFFIRMING: (2, 31, -2, -32),
    Tier.WARNING: (32, 95, -33, -96),
    Tier.CONTRAINDICATED: (96, 99, 127, -97, -128),
}
INT8 = st.integers(-128, 127)


@pytest.mark.parametrize(("expected", "values"), EDGES.items())
def test_every_value_has_the_tier_of_its_range(expected: Tier, values: tuple[int, ...]) -> None:
    """The ends of each range, on both sides of zero."""
    assert {tier(value) for value in values} == {expected}


@pytest.mark.parametrize("value", [128, -129, 258, 1 << 40])
def test_what_is_no_int8_has_no_tier(value: int) -> None:
    """258 is not 2, and nothing is cut to eight bits."""
    with pytest.raises(VerifierError) as caught:
        tier(value)

    assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("value", [128, -129, 258, True, 2.0, "2", None])
def test_a_vector_takes_only_int8(value: object) -> None:
    """Out of range, a boolean, a float and text are all refused where a vector is read."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"hardware": value}, Vector, strict=True)


def test_a_vector_has_no_other_members() -> None:
    """A member that AR4SI does not have is refused, not passed over."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"hardware": 2, "software": 2}, Vector, strict=True)


def test_what_could_not_be_judged_is_worse_than_what_was_affirmed() -> None:
    """No claim about one thing beats an affirmation of the same thing; nothing at all is 0."""
    assert worst([2, 0]) == 0
    assert worst([2, 1, 0]) == 1
    assert worst([2, 32, 97, 96]) == 97
    assert worst([]) == 0


@given(st.lists(INT8, min_size=8, max_size=8), st.sampled_from(Tier))
@settings(max_examples=200, deadline=None)
def test_a_status_is_never_better_than_the_worst_entry(values: list[int], status: Tier) -> None:
    """Whatever the entries, an admitted status is as bad as the worst of them, or worse."""
    vector = Vector(*values)
    tiers = {tier(value) for value in values}

    if vector.admits(status):
        assert status is Tier.CONTRAINDICATED or Tier.CONTRAINDICATED not in tiers
        assert status in {Tier.CONTRAINDICATED, Tier.WARNING} or Tier.WARNING not in tiers
        assert status is not Tier.AFFIRMING or Tier.AFFIRMING in tiers
    assert vector.admits(vector.tier())
    assert vector.admits(Tier.CONTRAINDICATED)


def test_several_attesters_are_as_good_as_the_worst() -> None:
    """One of whom nothing is known takes the affirmation from all."""
    assert overall([Tier.AFFIRMING, Tier.NONE]) is Tier.NONE
    assert overall([Tier.AFFIRMING, Tier.WARNING, Tier.NONE]) is Tier.WARNING
    assert overall([]) is Tier.NONE
    assert no_better(Tier.NONE, Tier.AFFIRMING)
    assert not no_better(Tier.AFFIRMING, Tier.NONE)
