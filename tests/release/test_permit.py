"""The permit: minted in one place, redeemed once, never copied."""

import copy
import pickle

import pytest

from broker import permit
from broker.permit import Permit

FIELDS = {
    "genesis": b"g",
    "leaf": b"l",
    "receipt": b"r",
    "state_map": b"s",
    "blobs": (b"b",),
    "recipient": b"k",
}


def test_nobody_else_mints_a_permit():
    """A permit made anywhere but in the release flow does not exist."""
    with pytest.raises(TypeError):
        Permit(object(), **FIELDS)


def test_a_permit_is_redeemed_once():
    """The second redeem is a mistake of ours, and stops."""
    held = Permit(permit._MINT, **FIELDS)
    held.redeem()
    with pytest.raises(RuntimeError):
        held.redeem()


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_permit_is_not_copied(way):
    """There is one of each."""
    with pytest.raises(TypeError):
        way(Permit(permit._MINT, **FIELDS))
