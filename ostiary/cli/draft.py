"""How a drafted policy is written: TOML in which every value says where it came from.

Guarantees: one comment above every value, with its field and the file; text of the caller's cannot
leave a comment or a string. Does not look at any evidence.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from verifier import x509


@final
@dataclass(frozen=True, slots=True)
class Source:
    """A file that a draft was made from: its name without folders, and its SHA-256 in hex."""

    name: str
    sha256: str

    def __str__(self) -> str:
        return f"{_line(self.name)} (SHA-256 {self.sha256})"


@final
@dataclass(frozen=True, slots=True)
class Value:
    """One value: `toml` is written as it stands; `field` is the evidence's name for it, if any."""

    name: str
    toml: str
    said: str
    field: str = ""


@final
@dataclass(frozen=True, slots=True)
class Section:
    """A table; its `head` are strings that need no comment."""

    name: str
    values: tuple[Value, ...]
    head: tuple[tuple[str, str], ...] = ()


def write(
    sources: Sequence[Source],
    sections: Sequence[Section],
    *,
    at: int,
    simulated: bool,
    warning: str = "",
    waived: bool = False,
) -> str:
    """Return the draft.

    Args:
        sources: the evidence first, then what it was judged by.
        sections: the tables, in order.
        at: unix seconds at which the evidence was judged.
        simulated: the evidence chains to a simulator's root.
        warning: why the evidence is not genuine; empty for genuine evidence.
        waived: revocation was not judged.
    """
    evidence = sources[0]
    lines = ["# A draft: read every line, compare it with what you reviewed, then sign."]
    if warning:
        lines += [
            "#",
            "# !!! UNVERIFIED: THIS EVIDENCE IS NOT GENUINE. Nobody vouches for any value below.",
            f"# !!! {_line(warning)}",
            "# !!! Never sign this for anything but a test.",
            "#",
        ]
    if simulated:
        lines.append(
            "# SIMULATED: made by a simulator, proves nothing, opens no real tenant's key."
        )
    if waived:
        lines.append("# REVOCATION WAS NOT JUDGED: no revocation list was given (--no-crl).")
    lines.append(f"# Evidence: {evidence}")
    lines += [f"# Judged by: {source}" for source in sources[1:]]
    lines.append(f"# Judged at: {x509.rfc3339(at)}")
    for section in sections:
        lines += ["", f"[{section.name}]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in section.head]
        for value in section.values:
            lines.append(f"# {value.field}{': ' if value.field else ''}{_line(value.said)}")
            if value.field:
                lines.append(f"# From {evidence}.")
            lines.append(f"{value.name} = {value.toml}")
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    """Return text that stays in its comment: one line, printable, no longer than 300."""
    return "".join(c if c.isprintable() else "?" for c in text)[:300]
