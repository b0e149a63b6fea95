"""Reference values are found by what must be equal, and nobody matching is missed."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.references import MAX_TOLD, ReferenceIndex


@dataclass(frozen=True)
class Named:
    """A reference of the tests."""

    given: dict[str, int] = field(hash=False)

    def values(self) -> dict[str, int]:
        return self.given


FIELDS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2))


@settings(deadline=None)
@given(
    st.lists(FIELDS, max_size=12), st.fixed_dictionaries(dict.fromkeys("abcd", st.integers(0, 2)))
)
def test_every_match_is_a_candidate(known: list[dict[str, int]], seen: dict[str, int]) -> None:
    """Candidates are exactly the references that fit, and only where none does, others."""
    references = [Named(each) for each in known]
    found = ReferenceIndex(references).candidates(seen.get)
    fitting = [each for each in references if each.given.items() <= seen.items()]

    if fitting:
        assert sorted(map(id, found)) == sorted(map(id, fitting))
    else:
        assert set(map(id, found)) == set(map(id, references))


def test_a_refusal_looks_at_few() -> None:
    """Where nothing fits, those that share the first value come first, and 64 in all at most."""
    references = [Named({"a": number % 10, "b": number}) for number in range(1000)]
    found = ReferenceIndex(references).candidates({"a": 7, "b": -1}.get)

    assert len(found) == MAX_TOLD
    assert all(each.given["a"] == 7 for each in found[: MAX_TOLD // 2])
    assert ReferenceIndex(list[Named]()).candidates({}.get) == []
