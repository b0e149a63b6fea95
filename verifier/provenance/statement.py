"""Read an in-toto statement: what it is about, by digest, and of which type it is.

Guarantees: one meaning for each document that is read; digests of other hashes than SHA-256, 384
and 512 are passed over, and a statement with none of these is refused. Does not read predicates.

Source: in-toto Attestation Framework, Statement v1 and v0.1, DigestSet.
"""

from __future__ import annotations

import json
from typing import Any, Final

from verifier.errors import Reason, VerifierError
from verifier.eventlog.runtime import once
from verifier.provenance.signed import SIZES, Digest
from verifier.wire.canonical import hexdecode

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_TYPES: Final = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")


def parse(payload: bytes) -> tuple[str, frozenset[Digest]]:
    """Return a statement's predicate type and the digests of all its subjects.

    Raises:
        VerifierError: `provenance_invalid`.
    """
    try:
        told: Any = json.loads(payload, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"not JSON: {error}") from error
    if not isinstance(told, dict) or told.get("_type") not in _TYPES:
        raise _invalid("an in-toto statement of version 1 expected")
    predicate, subjects = told.get("predicateType"), told.get("subject")
    if not isinstance(predicate, str) or not predicate:
        raise _invalid("no predicate type")
    if not isinstance(subjects, list):
        raise _invalid("a list of subjects expected")
    found = frozenset(digest for subject in subjects for digest in _digests(subject))
    if not found:
        raise _invalid("no subject with a digest that is judged here")
    return predicate, found


def _digests(subject: object) -> list[Digest]:
    named = subject.get("digest") if isinstance(subject, dict) else None
    if not isinstance(named, dict):
        raise _invalid("a subject without digests")
    found: list[Digest] = []
    for name in SIZES.keys() & named.keys():
        try:
            value = hexdecode(named[name]) if isinstance(named[name], str) else b""
        except VerifierError as error:
            raise _invalid(f"{name}: {error}") from error
        if len(value) != SIZES[name]:
            raise _invalid(f"{name}: {SIZES[name]} bytes expected")
        found.append((name, value))
    return found


def _invalid(message: str) -> VerifierError:
    return VerifierError(Reason.PROVENANCE_INVALID, f"statement: {message}")
