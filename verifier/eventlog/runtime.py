"""Runtime logs, kept by software after boot: dstack's JSON log and CoCo's AAEL.

Guarantees: a runtime event's digest is recomputed from its type, name and payload (dstack) or from
its line (AAEL), so that none of these can be changed; sizes and counts are bounded. The boot events
that a dstack log repeats come with digests only: their payloads are cut, and prove nothing.

Source: dstack, runtime event digest SHA-384(u32le(type) ":" event ":" payload); CoCo guest
components, "Specification for Attestation Agent Event Log".
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final

from verifier.errors import Reason, VerifierError
from verifier.eventlog.log import MAX_EVENTS, MAX_LOG, Event, EventLog, Kind
from verifier.eventlog.tcg import SIZES
from verifier.wire.canonical import hexdecode

_FIELDS: Final = {"imr", "event_type", "digest", "event", "event_payload"}
_MAX_RTMR: Final = 3
_U32: Final = 1 << 32
_SHA384: Final = 48
_INIT = re.compile(r"INIT/(sha256|sha384|sha512) ([0-9a-f]+)")
_ENTRY = re.compile(r"[!-~]+ [!-~]+ [ -~]+")


def _malformed(message: str, reason: Reason = Reason.MALFORMED) -> VerifierError:
    return VerifierError(reason, f"runtime log: {message}")


def _bounded(raw: bytes) -> None:
    if len(raw) > MAX_LOG:
        raise _malformed(f"{len(raw)} bytes, limit {MAX_LOG}", Reason.TOO_LARGE)


def dstack_digest(kind: int, name: str, payload: bytes) -> bytes:
    """Return the digest that dstack extends RTMR 3 with."""
    return hashlib.sha384(
        kind.to_bytes(4, "little") + b":" + name.encode() + b":" + payload
    ).digest()


def parse_dstack(raw: bytes) -> EventLog:
    """Return dstack's JSON log: a list of {imr, event_type, digest, event, event_payload}.

    Runtime events (RTMR 3) may leave the digest empty; where it is given it must be the right one.

    Raises:
        VerifierError: `malformed` or `too_large`.
    """
    _bounded(raw)
    try:
        told = strict_json(raw)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"not JSON: {error}") from error
    if not isinstance(told, list):
        raise _malformed("a list of events expected")
    if len(told) > MAX_EVENTS:
        raise _malformed(f"more than {MAX_EVENTS} events", Reason.TOO_LARGE)
    events = tuple(_dstack_event(number, entry) for number, entry in enumerate(told))
    return EventLog("dstack", ("sha384",), events, len(raw), len(events))


def strict_json(raw: bytes) -> object:
    """Return a JSON document in UTF-8 whose keys stand once each and whose text is Unicode.

    Raises:
        ValueError: it is not; a byte order mark, another encoding, or half a surrogate pair.
        RecursionError: it is too deep.
    """
    told: object = json.loads(raw.decode(), object_pairs_hook=once)
    json.dumps(told, ensure_ascii=False).encode()  # a half of a surrogate pair has no UTF-8
    return told


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object whose keys stand once each.

    Raises:
        ValueError: a key stands twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _dstack_event(number: int, entry: object) -> Event:
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise _malformed(f"event {number}: exactly {', '.join(sorted(_FIELDS))} expected")
    imr, kind, name = entry["imr"], entry["event_type"], entry["event"]
    if type(imr) is not int or type(kind) is not int or not isinstance(name, str):
        raise _malformed(f"event {number}: imr and event_type are numbers, event is text")
    if not (0 <= imr <= _MAX_RTMR and 0 <= kind < _U32):
        raise _malformed(f"event {number}: imr {imr}, event_type {kind}")
    digest, payload = (
        _hex(entry[key], f"event {number}: {key}") for key in ("digest", "event_payload")
    )
    computed = dstack_digest(kind, name, payload)
    if kind != Kind.DSTACK_RUNTIME:
        if imr == _MAX_RTMR:
            raise _malformed(f"event {number}: RTMR 3 holds runtime events only")
        if len(digest) != _SHA384:
            raise _malformed(f"event {number}: a SHA-384 digest expected")
        return Event(number, imr, kind, (digest,), b"", name)
    if digest not in (b"", computed):
        raise VerifierError(
            Reason.EVENT_LOG_REFUSED, f"runtime log: event {number}: digest of other content"
        )
    return Event(number, imr, kind, (computed,), payload, name)


def _hex(value: object, what: str) -> bytes:
    if not isinstance(value, str):
        raise _malformed(f"{what}: hex expected")
    return hexdecode(value)


def parse_aael(raw: bytes, *, register: int) -> EventLog:
    """Return CoCo's AAEL: `INIT/<hash> <value>`, then one `<domain> <operation> <content>` a line.

    Args:
        raw: the log, each line ended by LF.
        register: what it extends: RTMR 3 on TDX, a PCR elsewhere.

    Raises:
        VerifierError: `malformed` or `too_large`.
    """
    _bounded(raw)
    if not raw.endswith(b"\n") or not raw.isascii():
        raise _malformed("AAEL: lines of ASCII, each with LF at its end, expected")
    first, *lines = raw.decode("ascii")[:-1].split("\n")
    init = _INIT.fullmatch(first)
    if init is None or len(init[2]) != 2 * SIZES[init[1]]:
        raise _malformed("AAEL: the first line is INIT/<hash> and the register's value")
    if len(lines) > MAX_EVENTS:
        raise _malformed(f"more than {MAX_EVENTS} events", Reason.TOO_LARGE)
    bank = init[1]
    events: list[Event] = []
    for number, line in enumerate(lines, 1):
        if _ENTRY.fullmatch(line) is None:
            raise _malformed(f"AAEL: line {number + 1}: domain, operation and content expected")
        data = line.encode()
        digest = hashlib.new(bank, data).digest()
        events.append(Event(number, register, Kind.DSTACK_RUNTIME, (digest,), data))
    initial = {(bank, register): bytes.fromhex(init[2])}
    return EventLog("aael", (bank,), tuple(events), len(raw), len(events), initial)
