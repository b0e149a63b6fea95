"""What is true of SoftHSM alone: its configuration, and a token file that it can tear.

SoftHSM 2.6.1 rewrites `token.object` in place at every login. A worker killed in that moment leaves
the file empty, and then every key of the token is out of reach (measured: 30 of 150 kills).
Any earlier copy brings all of them back, since it holds nothing but the label and the PINs' hashes
and wrapped token key, which never change here. So the worker keeps one copy and restores it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from broker.hsm.home import HsmHome

_TOKEN: Final = "token.object"  # noqa: S105 - a file name
_COPY: Final = "token.object.before-login"


def render_conf(tokens: Path) -> str:
    """Return a softhsm2.conf for the token folder `tokens` (an absolute path)."""
    return (
        f"directories.tokendir = {tokens}\n"
        "objectstore.backend = file\n"
        "objectstore.umask = 0077\n"
        "log.level = ERROR\n"
        "slots.removable = false\n"
    )


def keep_copies(home: HsmHome) -> None:
    """Copy each whole token file aside, before a login may tear it.

    A crash here leaves the token file as it was, and an older copy or none.
    """
    for token in home.tokens.glob(f"*/{_TOKEN}"):
        raw = token.read_bytes()
        copy = token.with_name(_COPY)
        if raw and (not copy.exists() or copy.read_bytes() != raw):
            write_durably(copy, raw)


def restore_torn(home: HsmHome) -> tuple[str, ...]:
    """Put the copy back where a token file is empty; return a line for each."""
    lines = []
    for copy in home.tokens.glob(f"*/{_COPY}"):
        token = copy.with_name(_TOKEN)
        if not token.exists() or token.stat().st_size == 0:
            write_durably(token, copy.read_bytes())
            lines.append("token file was torn by a crash during login; restored from its copy")
    return tuple(lines)


def write_durably(path: Path, raw: bytes | bytearray) -> None:
    """Write a private file so that after a crash it is whole or as it was before."""
    draft = path.with_name(f".{path.name}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, raw)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
