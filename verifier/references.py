"""Finds reference values by what must be equal, so that their number costs nothing.

Guarantees: every reference all of whose values are those of the evidence is among the candidates.
Where there is none, the candidates are some near ones, at most `MAX_TOLD`, so that a refusal can
tell how they differ; their number does not grow with the policy. Does not judge: whoever asks
compares each candidate, with what is not a plain value too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar, final

MAX_TOLD: Final = 64
"""How many references a refusal looks at to find the nearest."""


class Valued(Protocol):
    """A reference that names values, at least some of them by equality."""

    def values(self) -> Mapping[str, bytes | int]:
        """Return each value that the reference gives, by the name of the evidence's field."""
        ...


R = TypeVar("R", bound=Valued)

_Seen = Callable[[str], object]


@final
class ReferenceIndex(Generic[R]):
    """The references of one kind, in the policy's order."""

    __slots__ = ("_all", "_first", "_shapes")

    def __init__(self, references: Iterable[R]) -> None:
        self._all: tuple[R, ...] = tuple(references)
        # Which fields are given differs from reference to reference, but seldom: for each such
        # shape, and for the first field alone, a dictionary from the values to who names them.
        self._shapes: dict[tuple[str, ...], dict[tuple[object, ...], list[R]]] = {}
        self._first: dict[str, dict[object, list[R]]] = {}
        for reference in self._all:
            given = reference.values()
            shape = self._shapes.setdefault(tuple(given), {})
            shape.setdefault(tuple(given.values()), []).append(reference)
            for name, value in list(given.items())[:1]:
                self._first.setdefault(name, {}).setdefault(value, []).append(reference)

    def candidates(self, seen: _Seen) -> Sequence[R]:
        """Return the references that the evidence fits by value, else at most 64 near ones.

        Args:
            seen: gives the evidence's value of a field by name.
        """
        equal = [
            reference
            for shape, by_value in self._shapes.items()
            for reference in by_value.get(tuple(map(seen, shape)), ())
        ]
        return equal or self._near(seen)

    def _near(self, seen: _Seen) -> Sequence[R]:
        near: list[R] = []
        for name, by_value in self._first.items():
            near += by_value.get(seen(name), ())[: MAX_TOLD // 2]
        told = {id(each): each for each in (*near, *self._all[:MAX_TOLD])}
        return list(told.values())[:MAX_TOLD]
