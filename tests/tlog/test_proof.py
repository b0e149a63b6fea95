from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.tlog import ORIGIN, Log, outcome, refused
from verifier.errors import Reason, VerifierError
from verifier.tlog import proof
from verifier.tlog.merkle import MAX_PROOF
from verifier.tlog.note import VerifierKey
from verifier.tlog.proof import Receipt, verify_receipt

LOG = Log().append(*(b"leaf %d" % number for number in range(11)))
GOOD = LOG.receipt(6)
HEAD, SIGNED = GOOD.split(b"\n\n", 1)
HASH = base64.b64encode(bytes(32))

# Kept as bytes so that the format cannot drift: leaves "alpha", "beta", "gamma", the key whose seed
# is 32 zero bytes, the receipt of leaf 1. Hashes and root were computed by hand with SHA-256 alone.
PINNED_VKEY = "log.example/pinned+5f036fec+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
PINNED = """\
c2sp.org/tlog-proof@v1
extra aGVsbG8=
index 1
KhWNiv1I4/iMtBld/bKp5IF9lfpX/TREDZP5quXE+Cs=
THnQ1i989cqIdBVfLTuHXyYl2iuzq8hrvWgz8lupDlE=

log.example/pinned
3
OF2jDzkXKCyJOd/4UZV+UZqxhGsTUaFMCts7EWMnQqo=

— log.example/pinned \
XwNv7PBXH1n+jDHGKOk7mdL8DMDmZIp4Z/GmPefxAMRBhy9f4//BEd+6Ij6cQ1rtnTrXCUBf5b/MyZKNJTAYKt4NNwI=
""".encode()


def test_pinned_receipt():
    """A receipt kept as bytes verifies, and the same log makes the same bytes again."""
    vkey = VerifierKey.parse(PINNED_VKEY)
    index, head = verify_receipt(PINNED, b"beta", "log.example/pinned", vkey)
    assert (index, head.size) == (1, 3)
    log = Log("log.example/pinned", seed=0).append(b"alpha", b"beta", b"gamma")
    assert log.receipt(1, extra=b"hello") == PINNED


@pytest.mark.parametrize("index", range(11))
@pytest.mark.parametrize("extra", [None, b"extra"])
def test_receipts_verify(index, extra):
    """Every leaf's receipt verifies and says where the leaf stands, with extra data or without."""
    receipt = LOG.receipt(index, extra=extra)
    found = verify_receipt(receipt, b"leaf %d" % index, ORIGIN, LOG.vkey)
    assert found == (index, LOG.checkpoint())
    assert Receipt.parse(receipt).extra == extra


def test_the_spelling():
    """A receipt is the header, the index, the hashes, a blank line and the checkpoint verbatim."""
    lines = GOOD.split(b"\n")
    assert lines[:2] == [b"c2sp.org/tlog-proof@v1", b"index 6"]
    assert [len(line) for line in lines[2:7]] == [44, 44, 44, 44, 0]
    assert b"\n".join(lines[7:]) == LOG.signed()
    only = Log().append(b"only")
    assert only.receipt(0) == b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + only.signed()
    extra = only.receipt(0, extra=b"x").split(b"\n")
    assert extra[:3] == [b"c2sp.org/tlog-proof@v1", b"extra eA==", b"index 0"]


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_every_changed_byte_is_refused(at):
    """A receipt with any one byte changed does not verify."""
    raw = bytearray(GOOD)
    raw[at] ^= 1
    with pytest.raises(VerifierError) as caught:
        verify_receipt(bytes(raw), b"leaf 6", ORIGIN, LOG.vkey)
    assert caught.value.reason in {Reason.LOG_SIGNATURE, Reason.MALFORMED, Reason.LOG_PROOF}


def test_every_cut_is_refused():
    """A receipt cut short anywhere does not verify."""
    for end in range(len(GOOD)):
        with pytest.raises(VerifierError):
            verify_receipt(GOOD[:end], b"leaf 6", ORIGIN, LOG.vkey)


def test_refusals_have_their_reason():
    """Another leaf, origin or key, or a head that does not hold the leaf, is told apart."""
    refused(Reason.LOG_PROOF, verify_receipt, GOOD, b"leaf 7", ORIGIN, LOG.vkey)
    refused(Reason.LOG_ORIGIN, verify_receipt, GOOD, b"leaf 6", "another", LOG.vkey)
    renamed = VerifierKey("another", LOG.vkey.public)
    refused(Reason.LOG_SIGNATURE, verify_receipt, GOOD, b"leaf 6", ORIGIN, renamed)
    refused(Reason.LOG_SIGNATURE, verify_receipt, GOOD, b"leaf 6", ORIGIN, Log(seed=8).vkey)
    younger = HEAD + b"\n\n" + LOG.signed(6)
    refused(Reason.LOG_PROOF, verify_receipt, younger, b"leaf 6", ORIGIN, LOG.vkey)
    refused(
        Reason.LOG_SIGNATURE, verify_receipt, HEAD + b"\n\n\n" + SIGNED, b"leaf 6", ORIGIN, LOG.vkey
    )
    empty = HEAD + b"\n\n" + LOG.signed(0)
    refused(Reason.LOG_PROOF, verify_receipt, empty, b"leaf 6", ORIGIN, LOG.vkey)


@pytest.mark.parametrize(
    ("reason", "raw"),
    [
        (Reason.MALFORMED, b""),
        (Reason.MALFORMED, HEAD),
        (Reason.MALFORMED, GOOD.replace(b"@v1", b"@v2")),
        (Reason.MALFORMED, b"\n" + GOOD),
        (Reason.MALFORMED, GOOD.replace(b"index 6\n", b"")),
        (Reason.MALFORMED, b"c2sp.org/tlog-proof@v1\n\n" + SIGNED),
        (Reason.MALFORMED, b"c2sp.org/tlog-proof@v1\nextra eA==\n\n" + SIGNED),
        (Reason.MALFORMED, GOOD.replace(b"index 6", b"index 06")),
        (Reason.MALFORMED, GOOD.replace(b"index 6", b"index  6")),
        (Reason.MALFORMED, GOOD.replace(b"index 6", b"index 9223372036854775808")),
        (Reason.MALFORMED, GOOD.replace(b"index 6", b"index 6\nextra eA==")),
        (Reason.MALFORMED, GOOD.replace(b"index 6", b"extra \nindex 6")),
        (Reason.MALFORMED, GOOD.replace(b"index 6", b"extra eB==\nindex 6")),
        (Reason.MALFORMED, GOOD.replace(b"index 6", b"extra eA==\nextra eA==\nindex 6")),
        (Reason.MALFORMED, GOOD.replace(b"\n", b"\r\n")),
        (Reason.MALFORMED, HEAD + b"\nAAAA\n\n" + SIGNED),
        (Reason.TOO_LARGE, HEAD + (b"\n" + HASH) * MAX_PROOF + b"\n\n" + SIGNED),
        (Reason.TOO_LARGE, GOOD + b"x" * proof.MAX_RECEIPT),
    ],
)
def test_malformed_receipts(reason, raw):
    """What is not a receipt in its one spelling is refused before any key is looked at."""
    refused(reason, Receipt.parse, raw)


@pytest.mark.parametrize(
    "args",
    [
        (-1, (), SIGNED),
        (0, (b"short",), SIGNED),
        (0, (), b"not a note"),
        (0, (), SIGNED, b""),
        (0, (), SIGNED, bytes(proof.MAX_EXTRA + 1)),
    ],
)
def test_what_cannot_be_printed_is_not_made(args):
    """No receipt exists in a form that would not read back."""
    refused(Reason.MALFORMED, Receipt, *args)


def test_largest_extra_data():
    """The longest extra data that can be printed reads back."""
    made = Receipt(0, (bytes(32),) * MAX_PROOF, SIGNED, bytes(proof.MAX_EXTRA))
    assert Receipt.parse(made.encode()) == made


@settings(deadline=None)
@given(
    st.integers(0, (1 << 63) - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=4).map(tuple),
    st.none() | st.binary(min_size=1, max_size=40),
)
def test_round_trip(index, hashes, extra):
    """A receipt reads back as itself."""
    made = Receipt(index, hashes, SIGNED, extra)
    assert Receipt.parse(made.encode()) == made


@settings(deadline=None)
@given(
    st.binary(max_size=120)
    | st.builds(lambda a, b: GOOD[:a] + b + GOOD[a:], st.integers(0, 400), st.binary(max_size=9))
)
def test_any_bytes(raw):
    """Any bytes either read as a receipt that prints as them, or are refused."""
    assert outcome(lambda: Receipt.parse(raw).encode()) in {raw, Reason.MALFORMED}


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_verified_or_refused(raw):
    """No bytes make the whole verification raise anything but our error."""
    with pytest.raises(VerifierError):
        verify_receipt(raw, b"leaf", ORIGIN, LOG.vkey)
