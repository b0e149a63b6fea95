"""Binary event logs, read strictly: TCG crypto agile (TPM 2.0), TPM 1.2, and CCEL.

Guarantees: sizes are checked before anything is taken by them; every event carries exactly one
digest for each bank of the header, in its order; banks have the sizes of SHA-1, SHA-256, SHA-384 or
SHA-512 and no other algorithm is passed over; after the last event there is nothing but one kind of
padding, all zero or all FF. `parse(encode(log))` is `log`; the other way round the padding, the
header event's register and its vendor information are lost. Does not replay.

Source: TCG PC Client Platform Firmware Profile, TCG_PCR_EVENT2 and TCG_EfiSpecIDEvent; UEFI 2.10
§38.4.1 (CCEL measurement register index).
"""

from __future__ import annotations

import struct
from typing import Final, Literal

from verifier.errors import Reason, VerifierError
from verifier.eventlog.log import MAX_EVENTS, MAX_LOG, NO_REGISTER, Event, EventLog, Kind

BANKS: Final = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
SIZES: Final = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
_BANK_IDS: Final = {name: number for number, name in BANKS.items()}

SPEC_ID: Final = b"Spec ID Event03\0"
STARTUP_LOCALITY: Final = b"StartupLocality\0"
_LOCALITIES: Final = (0, 3, 4)
MAX_PCR: Final = 23
_RTMRS: Final = 4

_OLD = struct.Struct("<II20sI")
_SPEC = struct.Struct("<16sIBBBBI")
_ALGORITHM = struct.Struct("<HH")
_PADDING = (b"\0", b"\xff")
_MARK = 8  # bytes that tell padding from an event: register and type


def _malformed(message: str, reason: Reason = Reason.MALFORMED) -> VerifierError:
    return VerifierError(reason, f"event log: {message}")


def parse(raw: bytes, *, kind: Literal["tcg", "ccel"]) -> EventLog:
    """Return the log in `raw`.

    Args:
        raw: the log, with its padding.
        kind: "ccel" has measurement register indices (0 MRTD, 1 to 4 RTMR 0 to 3) and needs the
            crypto agile form; "tcg" has PCRs, in either form.

    Raises:
        VerifierError: `malformed`, `too_large`, `trailing_data`, or `unsupported` for algorithms
            that are not known.
    """
    if len(raw) > MAX_LOG:
        raise _malformed(f"{len(raw)} bytes, limit {MAX_LOG}", Reason.TOO_LARGE)
    if len(raw) < _OLD.size:
        raise _malformed(f"{len(raw)} bytes hold no event")
    if raw[_OLD.size : _OLD.size + len(SPEC_ID)] == SPEC_ID:
        return _agile(raw, kind)
    if kind == "ccel":
        raise _malformed("a CCEL starts with a Spec ID Event03")
    return _old(raw)


def _old(raw: bytes) -> EventLog:
    events: list[Event] = []
    initial: dict[tuple[str, int], bytes] = {}
    at = 0
    while not _ended(raw, at):
        if len(raw) - at < _OLD.size:
            raise _malformed(f"event {len(events)}: cut off at byte {at}")
        pcr, kind, digest, size = _OLD.unpack_from(raw, at)
        at += _OLD.size
        data = _data(raw, at, size, len(events))
        at += size
        _add(events, initial, ("sha1",), _pcr(pcr, kind, len(events)), kind, (digest,), data)
    return EventLog("tcg1.2", ("sha1",), tuple(events), at, len(events), initial)


def _agile(raw: bytes, kind: Literal["tcg", "ccel"]) -> EventLog:
    banks, at = _header(raw)
    if kind == "ccel" and "sha384" not in banks:
        raise _malformed("a CCEL has SHA-384 digests")
    ids = tuple(_BANK_IDS[bank] for bank in banks)
    record = struct.Struct("<III" + "".join(f"H{SIZES[bank]}s" for bank in banks) + "I")
    place = _rtmr if kind == "ccel" else _pcr
    events: list[Event] = [Event(0, NO_REGISTER, Kind.NO_ACTION, (), b"")]
    initial: dict[tuple[str, int], bytes] = {}
    while not _ended(raw, at):
        number = len(events)
        if len(raw) - at < record.size:
            raise _malformed(f"event {number}: cut off at byte {at}")
        register, type_, count, *digests, size = record.unpack_from(raw, at)
        if count != len(banks) or tuple(digests[::2]) != ids:
            raise _malformed(
                f"event {number}: one digest for each of {' '.join(banks)} expected, in this order"
            )
        at += record.size
        data = _data(raw, at, size, number)
        at += size
        where = place(register, type_, number)
        _add(events, initial, banks, where, type_, tuple(digests[1::2]), data)
    return EventLog(
        "ccel" if kind == "ccel" else "tcg2", banks, tuple(events[1:]), at, len(events), initial
    )


def _header(raw: bytes) -> tuple[tuple[str, ...], int]:
    """Return the banks of the Spec ID event and where the next event starts."""
    _, kind, digest, size = _OLD.unpack_from(raw, 0)
    end = _OLD.size + size
    if kind != Kind.NO_ACTION or any(digest) or end > len(raw) or size < _SPEC.size:
        raise _malformed("the Spec ID event is EV_NO_ACTION with a zero digest")
    *_, count = _SPEC.unpack_from(raw, _OLD.size)
    at = _OLD.size + _SPEC.size
    if not 1 <= count <= len(BANKS):
        raise _malformed(f"1 to {len(BANKS)} algorithms expected, {count} declared")
    if end - at < count * _ALGORITHM.size + 1:
        raise _malformed("the Spec ID event is too short for its algorithms")
    banks: list[str] = []
    for _ in range(count):
        number, length = _ALGORITHM.unpack_from(raw, at)
        at += _ALGORITHM.size
        bank = BANKS.get(number)
        if bank is None:
            raise _malformed(f"algorithm {number:#06x} is not known", Reason.UNSUPPORTED)
        if length != SIZES[bank] or bank in banks:
            raise _malformed(f"{bank} once and with {SIZES[bank]} bytes expected, {length} seen")
        banks.append(bank)
    if at + 1 + raw[at] != end:
        raise _malformed("the Spec ID event's vendor information does not fill it")
    return tuple(banks), end


def _ended(raw: bytes, at: int) -> bool:
    """Tell whether only padding is left (RFC: none; PFP and ACPI pad with zero or FF)."""
    mark = raw[at : at + _MARK]
    for fill in _PADDING:
        if not mark.strip(fill):
            if raw[at:].strip(fill):
                raise _malformed(f"padding from byte {at}, then data", Reason.TRAILING_DATA)
            return True
    return False


def _data(raw: bytes, at: int, size: int, number: int) -> bytes:
    if size > len(raw) - at:
        raise _malformed(f"event {number}: {size} bytes of data declared, {len(raw) - at} left")
    return raw[at : at + size]


def _pcr(index: int, kind: int, number: int) -> int:
    if index > MAX_PCR and not (index == NO_REGISTER and kind == Kind.NO_ACTION):
        raise _malformed(f"event {number}: PCR {index}")
    return index


def _rtmr(index: int, kind: int, number: int) -> int:
    """Return the RTMR of a CCEL register index; -1 is MRTD."""
    if index > _RTMRS and not (index == NO_REGISTER and kind == Kind.NO_ACTION):
        raise _malformed(f"event {number}: measurement register index {index}")
    return index if index == NO_REGISTER else index - 1


def _add(  # noqa: PLR0917 - one record's parts, in their order
    events: list[Event],
    initial: dict[tuple[str, int], bytes],
    banks: tuple[str, ...],
    register: int,
    kind: int,
    digests: tuple[bytes, ...],
    data: bytes,
) -> None:
    """Append one event; StartupLocality sets where PCR 0 starts (PFP, "Startup Locality Event")."""
    number = len(events)
    if number >= MAX_EVENTS:
        raise _malformed(f"more than {MAX_EVENTS} events", Reason.TOO_LARGE)
    if kind == Kind.NO_ACTION and data.startswith(STARTUP_LOCALITY):
        locality = data[len(STARTUP_LOCALITY) :]
        late = any(e.register == 0 and e.kind != Kind.NO_ACTION for e in events)
        if len(locality) != 1 or locality[0] not in _LOCALITIES or register or late or initial:
            raise _malformed(
                f"event {number}: StartupLocality stands once, before PCR 0 is extended, "
                f"and is 0, 3 or 4"
            )
        for bank in banks:
            initial[bank, 0] = bytes(SIZES[bank] - 1) + locality
    events.append(Event(number, register, kind, digests, data))


def encode(log: EventLog) -> bytes:
    """Return the bytes, without padding and vendor information, that `parse` reads as `log`.

    Raises:
        ValueError: the log is of a kind that is not binary.
    """
    if log.format == "tcg1.2":
        return b"".join(
            _OLD.pack(e.register, e.kind, e.digests[0], len(e.data)) + e.data for e in log.events
        )
    if log.format not in ("tcg2", "ccel"):
        raise ValueError(log.format)
    algorithms = b"".join(_ALGORITHM.pack(_BANK_IDS[bank], SIZES[bank]) for bank in log.banks)
    spec = _SPEC.pack(SPEC_ID, 0, 0, 2, 0, 2, len(log.banks)) + algorithms + b"\0"
    shift = 1 if log.format == "ccel" else 0
    parts = [_OLD.pack(0, Kind.NO_ACTION, bytes(20), len(spec)) + spec]
    for event in log.events:
        register = event.register if event.register == NO_REGISTER else event.register + shift
        digests = b"".join(
            _BANK_IDS[bank].to_bytes(2, "little") + digest
            for bank, digest in zip(log.banks, event.digests, strict=True)
        )
        parts.append(struct.pack("<III", register, event.kind, len(log.banks)) + digests)
        parts.append(len(event.data).to_bytes(4, "little") + event.data)
    return b"".join(parts)
