from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.tlog import ORIGIN, Log, outcome, refused
from verifier.errors import Reason
from verifier.tlog import checkpoint, encoding, note
from verifier.tlog.checkpoint import Checkpoint, open_checkpoint
from verifier.tlog.merkle import EMPTY_ROOT

# The example of C2SP tlog-checkpoint; it comes without a vkey, so only its text is a vector.
C2SP = b"example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
ROOT_LINE = C2SP.split(b"\n")[2]

lines = st.text(st.characters(codec="utf-8", min_codepoint=0x20), min_size=1, max_size=40)
checkpoints = st.builds(
    Checkpoint,
    lines,
    st.integers(1, encoding.MAX_SIZE),
    st.binary(min_size=32, max_size=32),
    st.lists(lines, max_size=3).map(tuple),
)


def test_c2sp_example():
    """The specification's example reads and prints as itself."""
    found = Checkpoint.parse(C2SP)
    assert (found.origin, found.size) == ("example.com/behind-the-sofa", 20852163)
    assert found.root.hex().startswith("0ac5186a91863e8e1d90c808")
    assert found.text() == C2SP


@settings(deadline=None)
@given(checkpoints)
def test_round_trip(made):
    """A checkpoint, extension lines and odd origins included, reads back as itself."""
    assert Checkpoint.parse(made.text()) == made


@settings(deadline=None)
@given(
    st.binary(max_size=120)
    | st.builds(lambda a, b: C2SP[:a] + b + C2SP[a:], st.integers(0, 90), st.binary(max_size=5))
)
def test_any_bytes(raw):
    """Any bytes either read as a checkpoint that prints as them, or are refused."""
    assert outcome(lambda: Checkpoint.parse(raw).text()) in {raw, Reason.MALFORMED}


@pytest.mark.parametrize(
    "size",
    [b"01", b"+1", b" 1", b"1 ", b"1_0", b"-1", b"", b"0x1", "\N{ARABIC-INDIC DIGIT ONE}".encode()],
)
def test_sizes_have_one_spelling(size):
    """What Python's int() would take and the specification does not is refused."""
    refused(Reason.MALFORMED, Checkpoint.parse, b"origin\n" + size + b"\n" + ROOT_LINE + b"\n")


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (Reason.MALFORMED, b""),
        (Reason.MALFORMED, b"origin\n1\n"),
        (Reason.MALFORMED, b"\n1\n" + ROOT_LINE + b"\n"),
        (Reason.MALFORMED, b"\xff\n1\n" + ROOT_LINE + b"\n"),
        (Reason.MALFORMED, b"a\tb\n1\n" + ROOT_LINE + b"\n"),
        (Reason.MALFORMED, b"origin\n1\n" + ROOT_LINE),
        (Reason.MALFORMED, C2SP + b"\n"),
        (Reason.MALFORMED, C2SP + b"extension\n\n"),
        (Reason.MALFORMED, C2SP + b"\xff\n"),
        (Reason.MALFORMED, C2SP + b"no newline"),
        (Reason.MALFORMED, b"origin\n9223372036854775808\n" + ROOT_LINE + b"\n"),
        (Reason.MALFORMED, b"origin\n99999999999999999999\n" + ROOT_LINE + b"\n"),
        (Reason.MALFORMED, b"origin\n1\n" + ROOT_LINE.replace(b"q2I=", b"q2J=") + b"\n"),
        (Reason.MALFORMED, b"origin\n1\n" + ROOT_LINE.rstrip(b"=") + b"\n"),
        (Reason.MALFORMED, b"origin\n1\nAAAA\n"),
        (Reason.MALFORMED, b"origin\n0\n" + ROOT_LINE + b"\n"),
        (Reason.TOO_LARGE, C2SP + b"x" * checkpoint.MAX_TEXT + b"\n"),
    ],
)
def test_malformed_checkpoints(reason, text):
    """Missing, empty, loose or leftover parts are refused."""
    refused(reason, Checkpoint.parse, text)


@pytest.mark.parametrize(
    ("reason", "args"),
    [
        (Reason.MALFORMED, ("", 1, EMPTY_ROOT)),
        (Reason.MALFORMED, ("a\nb", 1, EMPTY_ROOT)),
        (Reason.MALFORMED, ("\ud800", 1, EMPTY_ROOT)),
        (Reason.MALFORMED, ("a", -1, EMPTY_ROOT)),
        (Reason.MALFORMED, ("a", 1, b"")),
        (Reason.MALFORMED, ("a", 1, EMPTY_ROOT, ("",))),
        (Reason.TOO_LARGE, ("a" * checkpoint.MAX_TEXT, 1, EMPTY_ROOT)),
    ],
)
def test_what_cannot_be_printed_is_not_made(reason, args):
    """No checkpoint exists in a form that would not read back."""
    refused(reason, Checkpoint, *args)


def test_largest_size():
    """The largest tree that can be named reads back."""
    made = Checkpoint("a", encoding.MAX_SIZE, EMPTY_ROOT)
    assert Checkpoint.parse(made.text()) == made


def test_open():
    """A signed head of the expected log opens, of an empty log too."""
    log = Log()
    assert open_checkpoint(log.signed(), ORIGIN, log.vkey) == Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    log.append(b"a", b"b")
    assert open_checkpoint(log.signed(), ORIGIN, log.vkey) == log.checkpoint()


def test_another_log_of_the_same_key_is_refused():
    """A head that the right key signed for another origin is of another log."""
    log = Log().append(b"a")
    refused(Reason.LOG_ORIGIN, open_checkpoint, log.signed(), "another", log.vkey)
    text = Checkpoint("another", 1, log.checkpoint().root).text()
    raw = note.assemble(text, [note.sign(text, ORIGIN, log.key)])
    refused(Reason.LOG_ORIGIN, open_checkpoint, raw, ORIGIN, log.vkey)


def test_another_key_is_refused():
    """A head that only a stranger signed is refused, under the log's own name too."""
    log, stranger = Log().append(b"a"), Log(seed=8).append(b"a")
    refused(Reason.LOG_SIGNATURE, open_checkpoint, stranger.signed(), ORIGIN, log.vkey)


def test_a_signed_text_that_is_no_checkpoint_is_refused():
    """The right key over some other text is malformed, not a head."""
    log = Log()
    raw = note.assemble(b"hello\n", [note.sign(b"hello\n", ORIGIN, log.key)])
    refused(Reason.MALFORMED, open_checkpoint, raw, ORIGIN, log.vkey)
