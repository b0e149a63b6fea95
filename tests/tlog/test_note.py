from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.kit.tlog import outcome, refused
from verifier.errors import Reason, VerifierError
from verifier.tlog import note
from verifier.tlog.note import Note, NoteSignature, VerifierKey

# The vector of C2SP signed-note, section "Verifier keys".
C2SP_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP_NOTE = (
    "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ON"
    "ncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
# The vector of Go's golang.org/x/mod/sumdb/note; Ed25519 is deterministic, so signing is pinned.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
GO_TEXT = (
    b"If you think cryptography is the answer to your problem,\n"
    b"then you don't know what your problem is.\n"
)
GO_NOTE = (
    GO_TEXT
    + (
        "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdng"
        "otpRZb6KE6RyyBwJnAM=\n"
    ).encode()
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
VKEY = VerifierKey("log.example", KEY.public_key().public_bytes_raw())
TEXT = b"text\n"
STRANGER = NoteSignature("someone.example", b"\x00\x01\x02\x03", b"\xff" * 100)
CLASH = NoteSignature("log.example", b"\x00\x01\x02\x03", b"\xff" * 64)

names = st.text(
    st.characters(
        codec="utf-8", exclude_characters="+", exclude_categories=["Cc", "Zs", "Zl", "Zp"]
    ),
    min_size=1,
    max_size=20,
)
texts = st.text(st.characters(codec="utf-8", min_codepoint=0x20) | st.just("\n"), max_size=80)
signatures = st.builds(
    NoteSignature, names, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=80)
)


def test_c2sp_vector():
    """The specification's own vkey opens the specification's own note."""
    vkey = VerifierKey.parse(C2SP_VKEY)
    assert note.open_note(C2SP_NOTE, [vkey]) == (b"This is an example message.\n", (vkey,))


def test_go_vector():
    """Go's published note opens, and signing its text again gives the same bytes."""
    vkey = VerifierKey.parse(GO_VKEY)
    assert note.open_note(GO_NOTE, [vkey]) == (GO_TEXT, (vkey,))
    key = Ed25519PrivateKey.from_private_bytes(GO_SEED)
    line = note.sign(GO_TEXT, "PeterNeumann", key)
    assert note.assemble(GO_TEXT, [line]) == GO_NOTE


@pytest.mark.parametrize("at", range(len(GO_NOTE)))
def test_every_changed_byte_is_refused(at):
    """A published note with any one byte changed does not open."""
    raw = bytearray(GO_NOTE)
    raw[at] ^= 1
    with pytest.raises(VerifierError) as caught:
        note.open_note(bytes(raw), [VerifierKey.parse(GO_VKEY)])
    assert caught.value.reason in {Reason.LOG_SIGNATURE, Reason.MALFORMED}


def test_any_cut_or_changed_vkey_is_refused():
    """Every piece of a vkey, and every vkey with one byte moved up, is malformed."""
    assert str(VerifierKey.parse(GO_VKEY)) == GO_VKEY
    for start in range(len(GO_VKEY)):
        for end in range(start, len(GO_VKEY) + (start > 0)):
            refused(Reason.MALFORMED, VerifierKey.parse, GO_VKEY[start:end])
    for at, char in enumerate(GO_VKEY):
        changed = GO_VKEY[:at] + chr(ord(char) + 1) + GO_VKEY[at + 1 :]
        refused(Reason.MALFORMED, VerifierKey.parse, changed)


@pytest.mark.parametrize(
    "text",
    [
        "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        GO_VKEY + "\n",
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "\ud800+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "name+c74f20a3+\ud800",
        "a+b",
        "",
    ],
)
def test_malformed_vkeys(text):
    """Upper-case ids, other lengths and types, spaces and lone surrogates are malformed."""
    refused(Reason.MALFORMED, VerifierKey.parse, text)


def test_signing_elsewhere():
    """An HSM signs the text itself; the line made from its signature opens."""
    raw = note.assemble(TEXT, [VKEY.signature(KEY.sign(TEXT))])
    assert raw == note.assemble(TEXT, [note.sign(TEXT, VKEY.name, KEY)])
    assert note.open_note(raw, [VKEY]) == (TEXT, (VKEY,))


def test_unknown_signatures_are_ignored():
    """Lines of unknown keys, even under a known name, neither help nor hurt."""
    good = note.sign(TEXT, VKEY.name, KEY)
    raw = note.assemble(TEXT, [STRANGER, good, CLASH, good])
    assert note.open_note(raw, [VKEY]) == (TEXT, (VKEY,))
    refused(Reason.LOG_SIGNATURE, note.open_note, note.assemble(TEXT, [STRANGER, CLASH]), [VKEY])
    refused(Reason.LOG_SIGNATURE, note.open_note, raw, [])


def test_a_wrong_signature_of_a_known_key_spoils_the_note():
    """One bad line of an expected key is a refusal, though a good one of another stands beside."""
    other = VerifierKey("other.example", OTHER.public_key().public_bytes_raw())
    lines = [note.sign(TEXT, VKEY.name, KEY), other.signature(KEY.sign(TEXT))]
    raw = note.assemble(TEXT, lines)
    assert note.open_note(raw, [VKEY]) == (TEXT, (VKEY,))
    refused(Reason.LOG_SIGNATURE, note.open_note, raw, [VKEY, other])
    short = note.assemble(TEXT, [VKEY.signature(b"x")])
    refused(Reason.LOG_SIGNATURE, note.open_note, short, [VKEY])


def test_all_signers_are_named():
    """With several expected keys, those that signed are returned in the order of their lines."""
    other = VerifierKey("other.example", OTHER.public_key().public_bytes_raw())
    lines = [note.sign(TEXT, "other.example", OTHER), note.sign(TEXT, VKEY.name, KEY)]
    assert note.open_note(note.assemble(TEXT, lines), [VKEY, other])[1] == (other, VKEY)


def test_ambiguous_vkeys_are_refused():
    """Two expected keys with one name and id cannot be told apart, so neither counts."""
    raw = note.assemble(TEXT, [note.sign(TEXT, VKEY.name, KEY)])
    refused(Reason.LOG_SIGNATURE, note.open_note, raw, [VKEY, VKEY])


@pytest.mark.parametrize(
    ("reason", "raw"),
    [
        (Reason.MALFORMED, b""),
        (Reason.MALFORMED, b"\n\n"),
        (Reason.MALFORMED, GO_TEXT),
        (Reason.MALFORMED, GO_TEXT + b"\n"),
        (Reason.MALFORMED, GO_NOTE[:-1]),
        (Reason.MALFORMED, GO_NOTE + b"\n"),
        (Reason.MALFORMED, GO_NOTE + b"x"),
        (Reason.MALFORMED, GO_NOTE.removeprefix(GO_TEXT)),
        (Reason.MALFORMED, GO_NOTE.replace(b"\n", b"\r\n")),
        (Reason.MALFORMED, GO_NOTE.replace("—".encode(), b"-")),
        (Reason.MALFORMED, GO_NOTE.replace(b"Neumann ", b"Neumann  ")),
        (Reason.MALFORMED, GO_NOTE.replace(b"Neumann ", b"+ ")),
        (Reason.MALFORMED, GO_NOTE.replace(b"PeterNeumann ", "a\N{NO-BREAK SPACE}b ".encode())),
        (Reason.MALFORMED, GO_NOTE.replace(b"PeterNeumann ", b"PeterNeumann")),
        (Reason.MALFORMED, GO_NOTE.replace(b"PeterNeumann ", b" ")),
        (Reason.MALFORMED, GO_NOTE.replace(b"JnAM=", b"JnAN=")),
        (Reason.MALFORMED, GO_NOTE.replace(b"JnAM=", b"JnAM=\n=")),
        (Reason.MALFORMED, GO_TEXT + "\n— name AAAAAA==\n".encode()),
        (Reason.MALFORMED, GO_TEXT + "\n— name ää==\n".encode()),
        (Reason.MALFORMED, b"\xff" + GO_NOTE),
        (Reason.MALFORMED, b"\t" + GO_NOTE),
        (Reason.MALFORMED, GO_TEXT + b"\n\xff\n"),
        (Reason.TOO_LARGE, b" " * note.MAX_NOTE + GO_NOTE),
        (Reason.TOO_LARGE, GO_NOTE + GO_NOTE.removeprefix(GO_TEXT + b"\n") * note.MAX_SIGNATURES),
    ],
)
def test_malformed_notes(reason, raw):
    """What is not a note in its one spelling is refused before any key is looked at."""
    refused(reason, note.parse, raw)


def test_limits_leave_room_for_witnesses():
    """A note takes 32 signatures, and 16 post-quantum ones of 5 kB."""
    many = note.assemble(TEXT, [STRANGER] * (note.MAX_SIGNATURES - 1) + [VKEY.signature(b"x")])
    assert len(note.parse(many).signatures) == note.MAX_SIGNATURES
    large = NoteSignature("pq.example", b"abcd", bytes(5_000))
    assert len(note.parse(note.assemble(TEXT, [large] * 16)).signatures) == 16


@pytest.mark.parametrize(
    ("reason", "call", "args"),
    [
        (Reason.MALFORMED, note.assemble, (b"no newline", [STRANGER])),
        (Reason.MALFORMED, note.assemble, (b"", [STRANGER])),
        (Reason.MALFORMED, note.assemble, (TEXT, [])),
        (Reason.MALFORMED, note.assemble, (b"\x00\n", [STRANGER])),
        (Reason.MALFORMED, note.assemble, (b"\xff\n", [STRANGER])),
        (Reason.TOO_LARGE, note.assemble, (TEXT, [STRANGER] * 33)),
        (Reason.TOO_LARGE, note.assemble, (b"x" * note.MAX_NOTE + b"\n", [STRANGER])),
        (Reason.MALFORMED, NoteSignature, ("name", b"123", b"x")),
        (Reason.MALFORMED, NoteSignature, ("name", b"1234", b"")),
        (Reason.MALFORMED, NoteSignature, ("a b", b"1234", b"x")),
        (Reason.MALFORMED, NoteSignature, ("", b"1234", b"x")),
        (Reason.MALFORMED, NoteSignature, ("\ud800", b"1234", b"x")),
        (Reason.MALFORMED, VerifierKey, ("a+b", bytes(32))),
        (Reason.MALFORMED, VerifierKey, ("a\x1bb", bytes(32))),
        (Reason.MALFORMED, VerifierKey, ("name", bytes(31))),
        (Reason.MALFORMED, VKEY.signature, (b"",)),
    ],
)
def test_what_cannot_be_printed_is_not_made(reason, call, args):
    """Neither key, line nor note exists in a form that would not read back."""
    refused(reason, call, *args)


@settings(deadline=None)
@given(texts, st.lists(signatures, min_size=1, max_size=4))
@example("\n\n", [STRANGER])
def test_notes_round_trip(text, lines):
    """Any text, empty lines included, reads back with its signatures."""
    made = Note(f"{text}\n".encode(), tuple(lines))
    assert note.parse(made.encode()) == made


@settings(deadline=None)
@given(
    st.binary(max_size=120)
    | st.builds(
        lambda a, b: GO_NOTE[:a] + b + GO_NOTE[a:], st.integers(0, 200), st.binary(max_size=9)
    )
)
def test_any_bytes(raw):
    """Any bytes either read as a note that prints as them, or are refused."""
    assert outcome(lambda: note.parse(raw).encode()) in {raw, Reason.MALFORMED}


@settings(deadline=None)
@given(names, st.binary(min_size=32, max_size=32))
def test_vkeys_round_trip(name, public):
    """A vkey reads back as the key that printed it."""
    key = VerifierKey(name, public)
    assert VerifierKey.parse(str(key)) == key


@settings(deadline=None)
@given(st.text(max_size=60) | st.text("+ab=0", max_size=20))
def test_any_vkey_text(text):
    """Any text is refused as malformed unless it prints as itself."""
    assert outcome(lambda: str(VerifierKey.parse(text))) in {text, Reason.MALFORMED}


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_any_public_key_bytes(public):
    """Bytes that are no point on the curve refuse the signature and raise nothing else."""
    refused(Reason.LOG_SIGNATURE, VerifierKey("name", public).verify, TEXT, bytes(63) + b"\xff")
