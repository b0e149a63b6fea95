"""What `ostiary verify` reads: files, hexadecimal and times, each named by its option.

Guarantees: files are read up to a bound; whatever cannot be read is `UnreadableError`, which names
the option and becomes exit status 2.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Final

from verifier import policy as policies
from verifier import x509
from verifier.errors import VerifierError
from verifier.policy import AppraisalPolicy

MAX_FILE: Final = 8 * 1024 * 1024
"""Most bytes read of any file."""
_PEM_START: Final = b"-----BEGIN CERTIFICATE-----"
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


class UnreadableError(Exception):
    """An input that is not what its option says; the text names the option."""


def parse_time(text: str) -> int:
    """Return the unix seconds of an RFC 3339 date and time with `Z` or an offset.

    Raises:
        UnreadableError: it is not that.
    """
    if _TIME.fullmatch(text) is None:
        raise UnreadableError("--at: a time like 2026-02-25T00:45:50Z expected (RFC 3339)")
    try:
        return int(datetime.fromisoformat(text.upper()).timestamp())
    except (ValueError, OverflowError) as error:
        raise UnreadableError(f"--at: {error}") from error


def read(option: str, path: Path) -> bytes:
    """Return the bytes of the file that an option names.

    Raises:
        UnreadableError: there is none, or it is too large.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{option}: {error}") from error
    if len(raw) > MAX_FILE:
        raise UnreadableError(f"{option}: {path}: more than {MAX_FILE} bytes")
    return raw


def certificate(option: str, path: Path) -> bytes:
    """Return a certificate's DER; PEM with exactly one certificate is turned into it.

    Raises:
        UnreadableError: the file cannot be read, or is PEM with anything else.
    """
    raw = read(option, path)
    if _PEM_START not in raw[:1024]:
        return raw
    try:
        blocks = x509.split_pem(raw, option, limit=1)
    except VerifierError as error:
        raise UnreadableError(str(error)) from error
    return blocks[0]


def policy(path: Path | None) -> AppraisalPolicy | None:
    """Return the policy of `--policy`, or None where there is none.

    Raises:
        UnreadableError: the file cannot be read or is no policy.
    """
    if path is None:
        return None
    try:
        return policies.from_toml(read("--policy", path))
    except VerifierError as error:
        raise UnreadableError(f"--policy: {error}") from error


def hexadecimal(option: str, text: str) -> bytes:
    """Return the bytes of hexadecimal without spaces, in either case.

    Raises:
        UnreadableError: it is not that.
    """
    try:
        raw = bytes.fromhex(text)
    except ValueError as error:
        raise UnreadableError(f"{option}: {error}") from error
    if len(text) != 2 * len(raw):
        raise UnreadableError(f"{option}: hexadecimal without spaces expected")
    return raw
