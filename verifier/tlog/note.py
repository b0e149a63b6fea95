"""Signed notes: a text and who signed it.

Guarantees: `open_note` returns the text only if a given key signed exactly these bytes, and no
given key's signature in the note is wrong. Signatures of unknown keys are not looked into, as the
specification demands: that is how witnesses and new keys join. Only type 0x01, Ed25519, is known.
Specification: C2SP signed-note (c2sp.org/signed-note).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from verifier.errors import Reason, VerifierError
from verifier.tlog.encoding import base64_line, has_control, print_base64

MAX_NOTE = 256 * 1024
"""Most bytes of a note: room for `MAX_SIGNATURES` post-quantum signatures of some 5 kB."""

MAX_SIGNATURES = 32
"""Most signature lines. The specification asks for at least 16."""

_ED25519 = b"\x01"
_ED25519_PUBLIC = 32
_KEY_ID = 4
_PREFIX = "\N{EM DASH} "


@final
@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A name and the Ed25519 key that signs under it; its text form is the vkey.

    Raises:
        VerifierError: `malformed`, on making one with a name or key that cannot be.
    """

    name: str
    public: bytes

    def __post_init__(self) -> None:
        _require_name(self.name)
        if len(self.public) != _ED25519_PUBLIC:
            raise VerifierError(Reason.MALFORMED, f"Ed25519 key of {len(self.public)} bytes")

    @property
    def key_id(self) -> bytes:
        """The four bytes that, with the name, tell which key signed. Not a commitment."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[
            :_KEY_ID
        ]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key of the vkey `text`: name, `+`, key id in hex, `+`, base64 of type and key.

        Raises:
            VerifierError: `malformed` unless it is exactly what `str` prints.
        """
        try:
            name, _, material = text.split("+", 2)
            raw = base64_line(material.encode(), "vkey")
        except ValueError as error:  # parts missing, or a lone surrogate
            raise VerifierError(Reason.MALFORMED, "not a vkey: name+id+key") from error
        if raw[:1] != _ED25519:
            raise VerifierError(Reason.MALFORMED, "vkey is not of type 0x01, Ed25519")
        key = cls(name, raw[1:])
        if str(key) != text:
            raise VerifierError(Reason.MALFORMED, "vkey has another key id than its name and key")
        return key

    def __str__(self) -> str:
        material = print_base64(_ED25519 + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{material}"

    def signature(self, raw: bytes) -> NoteSignature:
        """Return the signature line of this key for `raw`, made elsewhere (an HSM) over the text.

        Raises:
            VerifierError: `malformed` if `raw` is empty.
        """
        return NoteSignature(self.name, self.key_id, raw)

    def verify(self, text: bytes, raw: bytes) -> None:
        """Check the signature `raw` over the note text.

        Raises:
            VerifierError: `log_signature`.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(raw, text)
        except (InvalidSignature, ValueError) as error:
            raise VerifierError(Reason.LOG_SIGNATURE, f"wrong signature by {self.name}") from error


@final
@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line, not verified.

    Raises:
        VerifierError: `malformed`, on making one that could not be printed.
    """

    name: str
    key_id: bytes
    raw: bytes

    def __post_init__(self) -> None:
        _require_name(self.name)
        if len(self.key_id) != _KEY_ID or not self.raw:
            raise VerifierError(Reason.MALFORMED, "signature is shorter than key id and one byte")

    def encode(self) -> bytes:
        """Return the line, its newline included."""
        encoded = print_base64(self.key_id + self.raw).decode()
        return f"{_PREFIX}{self.name} {encoded}\n".encode()


@final
@dataclass(frozen=True, slots=True)
class Note:
    """A note taken apart, not verified: show nothing of it and decide nothing by it.

    Raises:
        VerifierError: `malformed` or `too_large`, on making one that could not be printed.
    """

    text: bytes
    signatures: tuple[NoteSignature, ...]

    def __post_init__(self) -> None:
        if len(self.signatures) > MAX_SIGNATURES:
            raise VerifierError(
                Reason.TOO_LARGE, f"{len(self.signatures)} signatures, limit {MAX_SIGNATURES}"
            )
        if not self.signatures:
            raise VerifierError(Reason.MALFORMED, "note without a signature")
        if not self.text.endswith(b"\n"):
            raise VerifierError(Reason.MALFORMED, "note text does not end in a newline")
        _decode(self.text)
        size = len(self.encode())
        if size > MAX_NOTE:
            raise VerifierError(Reason.TOO_LARGE, f"note of {size} bytes, limit {MAX_NOTE}")

    def encode(self) -> bytes:
        """Return the note: text, blank line, signature lines."""
        return self.text + b"\n" + b"".join(line.encode() for line in self.signatures)


def assemble(text: bytes, signatures: Sequence[NoteSignature]) -> bytes:
    """Return the note of `text` with signatures made elsewhere.

    What is to be signed is `text` itself, its last newline included. Nothing is verified here.

    Raises:
        VerifierError: `malformed` or `too_large`.
    """
    return Note(text, tuple(signatures)).encode()


def sign(text: bytes, name: str, key: Ed25519PrivateKey) -> NoteSignature:
    """Return the signature line of a key held in this process. The log's own key lives in the HSM.

    Raises:
        VerifierError: `malformed` if `name` is no key name.
    """
    vkey = VerifierKey(name, key.public_key().public_bytes_raw())
    return vkey.signature(key.sign(text))


def parse(raw: bytes) -> Note:
    """Take a note apart without verifying it.

    Raises:
        VerifierError: `malformed` or `too_large`.
    """
    if len(raw) > MAX_NOTE:
        raise VerifierError(Reason.TOO_LARGE, f"note of {len(raw)} bytes, limit {MAX_NOTE}")
    text, separator, block = raw.rpartition(b"\n\n")  # the last empty line of the note
    if not separator or not block.endswith(b"\n"):
        raise VerifierError(Reason.MALFORMED, "not a note: text, blank line, signature lines")
    lines = _decode(block[:-1]).split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise VerifierError(Reason.TOO_LARGE, f"{len(lines)} signatures, limit {MAX_SIGNATURES}")
    return Note(text + b"\n", tuple(_signature(line) for line in lines))


def open_note(raw: bytes, vkeys: Sequence[VerifierKey]) -> tuple[bytes, tuple[VerifierKey, ...]]:
    """Return the text of a note, and which of `vkeys` signed it.

    Raises:
        VerifierError: `malformed`, `too_large`, or `log_signature` if none of `vkeys` signed, if a
            signature of one of them is wrong, or if two of them cannot be told apart.
    """
    found = parse(raw)
    known = {(key.name, key.key_id): key for key in vkeys}
    if len(known) != len(vkeys):
        raise VerifierError(Reason.LOG_SIGNATURE, "two given vkeys share name and key id")
    signers: dict[VerifierKey, None] = {}
    for line in found.signatures:
        key = known.get((line.name, line.key_id))
        if key is not None:
            key.verify(found.text, line.raw)
            signers[key] = None
    if not signers:
        raise VerifierError(Reason.LOG_SIGNATURE, "no signature by an expected key")
    return found.text, tuple(signers)


def _signature(line: str) -> NoteSignature:
    name, separator, encoded = line.removeprefix(_PREFIX).partition(" ")
    if not line.startswith(_PREFIX) or not separator:
        raise VerifierError(Reason.MALFORMED, "not a signature line: dash, name, base64")
    raw = base64_line(encoded.encode(), "signature")
    return NoteSignature(name, raw[:_KEY_ID], raw[_KEY_ID:])


def _decode(raw: bytes) -> str:
    """Return `raw` as text; of the control characters below U+0020 only newline may stand in it."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise VerifierError(Reason.MALFORMED, "note is not UTF-8") from error
    if has_control(text.replace("\n", "")):
        raise VerifierError(Reason.MALFORMED, "note has a control character")
    return text


def _require_name(name: str) -> None:
    forbidden = "+" in name or any(char.isspace() for char in name) or has_control(name)
    if not name or forbidden or not _is_unicode(name):
        raise VerifierError(Reason.MALFORMED, "key name is empty, or has a space, plus or control")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
