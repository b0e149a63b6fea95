"""Challenges: stateless, authenticated, short-lived."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BrokerError, Code
from broker.release import challenge

KEYS = {7: b"k" * 32, 6: b"j" * 32}
GENESIS, CALLER = b"g" * 32, b"c" * 32


def issued(key_id=7, now=1000, **changes):
    fields = {"purpose": "release", "genesis": GENESIS, "kind": "tdx", "caller": CALLER} | changes
    return challenge.issue(key_id=key_id, key=KEYS[key_id], now=now, **fields)


def test_a_challenge_says_what_it_was_issued_for():
    """Everything that the broker must remember stands in the challenge."""
    raw, expires = issued()
    found = challenge.open_challenge(raw, KEYS, now=1000)

    assert (found.purpose, found.genesis, found.kind, found.caller) == (
        "release",
        GENESIS,
        "tdx",
        CALLER,
    )
    assert expires == found.expires == 1000 + challenge.LIFETIME


def test_the_key_before_the_newest_still_opens():
    """Rotation does not strand challenges that are under way."""
    assert challenge.open_challenge(issued(6)[0], KEYS, now=1000).kind == "tdx"


def test_no_two_challenges_are_equal():
    """Every challenge has its own 32 random bytes."""
    assert len({issued()[0] for _ in range(100)}) == 100


@pytest.mark.parametrize(("now", "alive"), [(1000, True), (1059, True), (1060, False)])
def test_a_challenge_lives_sixty_seconds(now, alive):
    """At its expiry it is over."""
    raw, _ = issued()
    if alive:
        assert challenge.open_challenge(raw, KEYS, now=now).raw == raw
        return
    with pytest.raises(BrokerError) as caught:
        challenge.open_challenge(raw, KEYS, now=now)

    assert caught.value.code is Code.CHALLENGE_EXPIRED


def test_a_forgotten_key_opens_nothing():
    """After two rotations, or in another broker, the challenge is unknown."""
    with pytest.raises(BrokerError) as caught:
        challenge.open_challenge(issued()[0], {8: b"x" * 32, 7: b"y" * 32}, now=1000)

    assert caught.value.code is Code.CHALLENGE_UNKNOWN


@given(st.data())
def test_no_flipped_bit_survives_the_mac(data):
    """Purpose, tenant, kind, caller and expiry cannot be edited."""
    raw = bytearray(issued()[0])
    at = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[at // 8] ^= 1 << at % 8
    with pytest.raises(BrokerError) as caught:
        challenge.open_challenge(bytes(raw), KEYS, now=1000)

    assert caught.value.code is Code.CHALLENGE_UNKNOWN


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_but_a_refusal(raw):
    """Garbage and every truncation are unknown challenges."""
    for candidate in (raw, issued()[0][: len(raw)]):
        if len(candidate) < len(issued()[0]):
            with pytest.raises(BrokerError):
                challenge.open_challenge(candidate, KEYS, now=1000)
