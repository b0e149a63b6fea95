"""What must work, from a challenge to an opened key, in a broker that is all real but its TEEs."""

from __future__ import annotations

from typing import get_args

import pytest

from tests.kit.broker import House
from tests.kit.broker_home import MODEL, SECOND
from verifier.wire import leaf
from verifier.wire.messages import Kind


@pytest.mark.parametrize("kind", get_args(Kind))
def test_release(house: House, kind: Kind) -> None:
    """An attested machine of any kind gets the very key that the vendor handed in."""
    released = house.released(house.ask(kind=kind))

    assert bytes(released.deks[MODEL].view()) == house.prepared.dek
    entry = leaf.decode(released.answer.leaf)
    assert isinstance(entry, leaf.ReleaseLeaf)
    assert (entry.kind, entry.simulated) == (kind, True)


def test_two_keys(house: House) -> None:
    """Two keys under one policy go in one release, each to its own name."""
    released = house.released(house.ask(keys=(MODEL, SECOND)))

    assert set(released.deks) == {MODEL, SECOND}
    assert bytes(released.deks[MODEL].view()) == house.prepared.dek
    assert bytes(released.deks[SECOND].view()) != house.prepared.dek
