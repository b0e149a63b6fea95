"""Which file names a sealed model may carry.

Guarantees: an accepted path is relative, stays inside its folder, reads the same to every person
and program, and has one spelling. Does not look at any file system.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import pairwise

from inference_runtime.errors import Fault, RuntimeFault

MAX_PATH = 512
"""Longest path in UTF-8 bytes."""
MAX_NAME = 255
"""Longest name between two slashes in UTF-8 bytes; Linux takes no more."""
FILES = "files/"
"""Where the sealed files lie, so that no model file can be taken for the manifest."""


def check_path(path: str, fault: Fault) -> str:
    """Return `path` if a sealed model may carry it (SPEC.md §2.3).

    Raises:
        RuntimeFault: `fault`, naming the path as `repr` shows it.
    """
    problem = _problem(path)
    if problem is not None:
        raise RuntimeFault(fault, f"path {path[:MAX_PATH]!r}: {problem}")
    return path


def check_paths(paths: Iterable[str], fault: Fault) -> None:
    """Refuse a list of paths that is not sorted and unique, or where one is another's folder.

    Raises:
        RuntimeFault: `fault`.
    """
    listed = list(paths)
    for before, path in pairwise(listed):
        if before >= path:
            raise RuntimeFault(fault, f"path {path!r} stands after {before!r}: not sorted, unique")
    known = set(listed)
    for path in listed:
        parts = path.split("/")
        for end in range(1, len(parts)):
            folder = "/".join(parts[:end])
            if folder in known:
                raise RuntimeFault(fault, f"path {folder!r} is a file and the folder of {path!r}")


def _problem(path: str) -> str | None:  # noqa: PLR0911 - one return per rule reads best
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        return "not UTF-8"
    if not 1 <= length <= MAX_PATH:
        return f"not between 1 and {MAX_PATH} bytes"
    if any(_unprintable(character) for character in path):
        return "holds a control, format, private or unassigned character"
    if unicodedata.normalize("NFC", path) != path:
        return "not in Unicode normalisation form C"
    if "\\" in path or any(part in {"", ".", ".."} for part in path.split("/")):
        return "not a plain relative path"
    if any(len(part.encode()) > MAX_NAME for part in path.split("/")):
        return f"a name longer than {MAX_NAME} bytes"
    return None


def _unprintable(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] == "C" or category in {"Zl", "Zp"}
