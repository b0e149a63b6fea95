"""Find the measured digests that a policy wants to know the origin of.

Guarantees: a digest counts only as an appraisal proved it: launch measurements from hardware
evidence, boot claims from a log that replays and, but for runtime events and images, shows the
whole boot. What another part of the machine says (a host's vTPM) does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from verifier.provenance.signed import SIZES, Digest

_BODY: Final = frozenset({"mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrenclave"})
_BY_SIZE: Final = {size: name for name, size in SIZES.items()}
_RUNTIME: Final = "runtime."


def measured(claims: Mapping[str, Any], subject: str) -> tuple[Digest, ...]:
    """Return the digests that the claims prove of a subject of `ProvenanceRules`; maybe none."""
    if subject == "measurement" or subject in _BODY:
        hardware = claims if subject == "measurement" else claims.get("body") or {}
        return _hex([hardware.get(subject)])
    boot = _proven(claims, "boot")
    if subject == "images":
        images = [*boot.get("images", ()), *_proven(claims, "runtime").get("images", ())]
        return _named(image["digest"] for image in images)
    if subject.startswith(_RUNTIME):
        return _hex([boot.get("runtime", {}).get(subject.removeprefix(_RUNTIME))])
    if not boot.get("complete"):
        return ()
    # Digests of the log's bank, of which SHA-1 is none that anybody signs; root hashes by length.
    value = boot.get(subject)
    return _hex(value if isinstance(value, list) else [value])


def _proven(claims: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = claims.get(name) or {}
    return found if found.get("proven") else {}


def _hex(values: Iterable[str | None]) -> tuple[Digest, ...]:
    """Return digests by their length; none at all where one is missing or of another length."""
    raw = [bytes.fromhex(value or "") for value in values]
    if not all(len(value) in _BY_SIZE for value in raw):
        return ()
    return tuple((_BY_SIZE[len(value)], value) for value in raw)


def _named(digests: Iterable[str]) -> tuple[Digest, ...]:
    """Return digests written as `sha256:…`; none at all where one is written otherwise."""
    found: list[Digest] = []
    for text in digests:
        name, _, value = text.partition(":")
        try:
            raw = bytes.fromhex(value)
        except ValueError:
            return ()
        if len(raw) != SIZES.get(name):
            return ()
        found.append((name, raw))
    return tuple(found)
