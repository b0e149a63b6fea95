"""Hold what a log proves against what a policy names.

Guarantees: a value that is named and not proven is a difference; so is any value where the log does
not show the whole boot. Decides nothing else: references are whole tuples, judged by their kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, TypeAlias

from verifier.eventlog.boot import BootClaims
from verifier.policy import BootReference

Difference: TypeAlias = tuple[str, str, str]
"""Name, expected and seen."""


def differences(reference: BootReference, claims: BootClaims | None) -> list[Difference]:
    """Return every value that is named and not what the log proves.

    `claims` is None where there is no log, or none that replays.
    """
    if claims is None:
        return [("boot", "an event log that replays", "none")]
    pairs = [*_firmware(reference, claims), *_software(reference, claims)]
    return [
        (f"boot.{name}", _text(expected), _text(seen))
        for name, expected, seen in pairs
        if expected != seen
    ]


_Pairs: TypeAlias = Iterator[tuple[str, object, object]]
_EQUAL: Final = ("secure_boot", "dbx_present", "boot_applications", "uki_digest", "initrd_digest")


def _firmware(reference: BootReference, claims: BootClaims) -> _Pairs:
    """Yield what stands in a boot log, and that the log shows the whole boot."""
    named = [name for name in _EQUAL if getattr(reference, name) is not None]
    for name in named:
        yield name, getattr(reference, name), getattr(claims, name)
    line, root = reference.kernel_cmdline, reference.verity_root_hash
    if line is not None:
        seen = claims.load_options if claims.kernel_cmdline is None else claims.kernel_cmdline
        yield "kernel_cmdline", line, line if _cmdline(line, claims) else seen
    if root is not None:
        yield "verity_root_hash", (root,), claims.verity_root_hashes
    if named or line is not None or root is not None:
        yield "complete", True, claims.complete


def _software(reference: BootReference, claims: BootClaims) -> _Pairs:
    """Yield what stands in runtime logs."""
    for name, payload in (reference.runtime or {}).items():
        yield f"runtime.{name}", payload, claims.runtime.get(name)
    if reference.images is not None:
        pulled = tuple(sorted({digest for _, digest in claims.images}))
        known = bool(pulled) and set(pulled) <= set(reference.images)
        yield "images", reference.images, reference.images if known else pulled


def _cmdline(expected: str, claims: BootClaims) -> bool:
    """Tell whether the command line is proven: as text, or by the EFI stub's one digest of it."""
    if claims.kernel_cmdline is not None:
        return claims.kernel_cmdline == expected
    raw = expected.encode("utf-16-le")
    digests = {hashlib.new(claims.bank, each).digest() for each in (raw, raw + b"\0\0")}
    return len(claims.load_options) == 1 and claims.load_options[0] in digests


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return " ".join(map(_text, value)) or "none"
    return "not proven" if value is None else str(value)
