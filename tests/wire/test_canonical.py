"""Canonical JSON: one value, one encoding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.errors import Reason, VerifierError
from verifier.wire import canonical, leaf, messages
from verifier.wire.canonical import B64, Hex

GOOD = messages.ChallengeRequest(
    v=1, tenant="acme", purpose="release", kind="tdx", caller=Hex(bytes(32))
)
RAW = canonical.encode(GOOD)


def test_a_message_decodes_from_its_own_encoding():
    """Parse is the inverse of print."""
    assert canonical.decode(RAW, messages.ChallengeRequest) == GOOD


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(RAW.replace(b'"v":1', b'"v":"1"'), id="string for an integer"),
        pytest.param(RAW.replace(b'"v":1', b'"v":1.0'), id="float for an integer"),
        pytest.param(RAW.replace(b'"v":1', b'"v":1,"v":1'), id="duplicate key"),
        pytest.param(RAW.replace(b'"v":1', b'"v": 1'), id="white space"),
        pytest.param(RAW + b"\n", id="trailing newline"),
        pytest.param(b"\xef\xbb\xbf" + RAW, id="byte order mark"),
        pytest.param(RAW[:-1] + b',"x":1}', id="unknown field"),
        pytest.param(RAW.replace(b"acme", b"\\u0061cme"), id="needless escape"),
        pytest.param(RAW.replace(b"acme", b"ACME"), id="upper-case identifier"),
        pytest.param(RAW.replace(b"acme", b"acm\xc3\xa9"), id="identifier beyond ASCII"),
        pytest.param(RAW.replace(b"00", b"0A", 1), id="upper-case hex"),
        pytest.param(RAW.replace(b'"tdx"', b'"sample"'), id="a kind that nobody has"),
        pytest.param(RAW.replace(b'{"v":1,"tenant":"acme"', b'{"tenant":"acme","v":1'), id="order"),
        pytest.param(b"[" * 100_000, id="deep nesting"),
        pytest.param(b'{"v":1', id="cut off"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"NaN", id="not a number"),
        pytest.param(RAW.replace(b"acme", b"\xff"), id="not UTF-8"),
        pytest.param(RAW.replace(b"acme", b"\\ud800"), id="lone surrogate"),
    ],
)
def test_anything_but_the_one_encoding_is_refused(raw):
    """Two byte strings never mean the same message."""
    with pytest.raises(VerifierError) as caught:
        canonical.decode(raw, messages.ChallengeRequest)

    assert caught.value.reason is Reason.MALFORMED


def test_a_message_over_the_limit_is_refused_before_it_is_parsed():
    """The size cap comes first."""
    with pytest.raises(VerifierError) as caught:
        canonical.decode(b" " * (canonical.MAX_MESSAGE + 1), messages.ChallengeRequest)

    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("text", ["bm5=", "bm5", "bm4=", "b+4", "b m4", "bm4\n", "é"])
def test_loose_base64_is_refused(text):
    """Only what `b64encode` prints is read; `bm5` has loose trailing bits."""
    with pytest.raises(VerifierError):
        canonical.b64decode(text)


@given(st.binary(max_size=200))
def test_base64_and_hex_are_inverse_to_their_print(raw):
    """Bytes survive both ways of writing them."""
    assert canonical.b64decode(canonical.b64encode(raw)) == raw
    assert canonical.hexdecode(raw.hex()) == raw


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_our_error(raw):
    """A hostile message is an error of ours, for every type of message."""
    for kind in (messages.ReleaseRequest, messages.RenewRequest, messages.ChallengeAnswer):
        with pytest.raises(VerifierError):
            canonical.decode(raw, kind)
    with pytest.raises(VerifierError):
        leaf.decode(raw)


@given(st.data())
def test_mutating_one_byte_never_gives_the_same_message(data):
    """A message's bytes are as good a name for it as the message."""
    at = data.draw(st.integers(0, len(RAW) - 1))
    mutated = bytearray(RAW)
    mutated[at] ^= data.draw(st.integers(1, 255))
    try:
        other = canonical.decode(bytes(mutated), messages.ChallengeRequest)
    except VerifierError:
        return

    assert other != GOOD


def test_values_say_what_they_are():
    """B64 and Hex are bytes everywhere but in JSON."""
    assert B64(b"\xff") == b"\xff" == Hex(b"\xff")
