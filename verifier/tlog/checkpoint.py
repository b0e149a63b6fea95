"""Checkpoints: the head of a log, as a signed note.

Guarantees: a `Checkpoint` that exists can be printed and reads back as itself; `open_checkpoint`
returns one only if the given key signed it and it names the expected origin. Says nothing about
witnesses: without one, a log can show two trees to two people.
Specification: C2SP tlog-checkpoint (c2sp.org/tlog-checkpoint).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

from verifier.errors import Reason, VerifierError
from verifier.tlog import note
from verifier.tlog.encoding import (
    decimal,
    has_control,
    hash_line,
    print_base64,
    require_count,
    require_hash,
)
from verifier.tlog.merkle import EMPTY_ROOT

MAX_TEXT = 16 * 1024
"""Most bytes of checkpoint text. Ours have some 200."""

_FIXED_LINES = 3


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tree size and root hash of the log named `origin`.

    `extensions` are the opaque extension lines. Our logs write none, because monitors cannot audit
    them and ML-DSA cosignatures do not cover them. They are read and kept nevertheless: the
    specification allows them, the signature covers them, and a reader that dropped them could not
    print what was signed. Nothing of ours gives them a meaning.

    Raises:
        VerifierError: `malformed` or `too_large`, on making one that could not be printed, or whose
            root is not that of the empty tree where the size is 0.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for line in (self.origin, *self.extensions):
            if not line or has_control(line):
                raise VerifierError(
                    Reason.MALFORMED, "checkpoint line is empty or has a control character"
                )
        require_count(self.size, "tree size")
        require_hash(self.root, "root hash")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise VerifierError(
                Reason.MALFORMED, "tree of no leaves with another root than its own"
            )
        try:
            length = len(self.text())
        except UnicodeEncodeError as error:
            raise VerifierError(Reason.MALFORMED, "checkpoint is not Unicode text") from error
        if length > MAX_TEXT:
            raise VerifierError(Reason.TOO_LARGE, f"checkpoint of {length} bytes, limit {MAX_TEXT}")

    def text(self) -> bytes:
        """Return the note text: the very bytes that the log signs."""
        lines = (self.origin, str(self.size), print_base64(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines).encode()

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Return the checkpoint whose note text is `text`. The caller has verified the note.

        Raises:
            VerifierError: `malformed` or `too_large`.
        """
        if len(text) > MAX_TEXT:
            raise VerifierError(
                Reason.TOO_LARGE, f"checkpoint of {len(text)} bytes, limit {MAX_TEXT}"
            )
        lines = text.split(b"\n")
        if lines.pop() or len(lines) < _FIXED_LINES:
            raise VerifierError(Reason.MALFORMED, "not a checkpoint: origin, size, root")
        origin, size, root, *extensions = lines
        try:
            return cls(
                origin.decode(),
                decimal(size, "tree size"),
                hash_line(root, "root hash"),
                tuple(line.decode() for line in extensions),
            )
        except UnicodeDecodeError as error:
            raise VerifierError(Reason.MALFORMED, "checkpoint is not UTF-8") from error


def open_checkpoint(raw: bytes, origin: str, vkey: note.VerifierKey) -> Checkpoint:
    """Return the checkpoint in the note `raw`.

    Args:
        raw: the signed note.
        origin: the log that it must be of. The reader knows it from elsewhere, never from `raw`.
        vkey: the key that signs for that log.

    Raises:
        VerifierError: `malformed`, `too_large`, `log_signature` or `log_origin`.
    """
    text, _ = note.open_note(raw, [vkey])
    found = Checkpoint.parse(text)
    if found.origin != origin:
        raise VerifierError(
            Reason.LOG_ORIGIN, f"log origin: expected {origin!r}, seen {found.origin!r}"
        )
    return found
