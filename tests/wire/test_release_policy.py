"""A release policy's own rules: one chain of versions, keys and manifests in one order."""

from __future__ import annotations

from typing import Any

import pytest

from verifier.policy import AppraisalPolicy, ReleasePolicy
from verifier.wire import canonical
from verifier.wire.canonical import Hex
from verifier.wire.documents import Release
from verifier.wire.messages import KeyRef

ONE, TWO = Hex(bytes(31) + b"\1"), Hex(bytes(31) + b"\2")
GOOD: dict[str, Any] = {
    "v": 1,
    "genesis": ONE,
    "name": "prod",
    "version": 1,
    "predecessor": Hex(bytes(32)),
    "keys": (KeyRef("a", 1), KeyRef("b", 1)),
    "manifests": (ONE, TWO),
    "release": Release(),
    "appraisal": AppraisalPolicy(),
}


def test_what_it_prints_it_reads() -> None:
    """Printing and reading a policy gives it again."""
    policy = ReleasePolicy(**GOOD)

    assert canonical.decode(canonical.encode(policy), ReleasePolicy) == policy


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": 2},
        {"predecessor": ONE},
        {"keys": ()},
        {"keys": (KeyRef("b", 1), KeyRef("a", 1))},
        {"keys": (KeyRef("a", 1), KeyRef("a", 1))},
        {"manifests": ()},
        {"manifests": (TWO, ONE)},
        {"genesis": Hex(b"short")},
    ],
)
def test_other_forms_are_refused(change: dict[str, Any]) -> None:
    """Versions without their predecessor, and lists out of order, repeated or empty."""
    with pytest.raises(ValueError, match=r"version 1|sorted|bytes"):
        ReleasePolicy(**GOOD | change)
