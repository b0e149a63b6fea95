"""A 1 MiB event log, read, replayed to its registers, compared and understood; limit: its hashes.

The log is a CCEL (SHA-384) of a boot with many loader commands, events of about 450 bytes as real
ones have, and no padding. Ours parses every event, replays four registers, compares them and reads
the boot's claims. The limit is the bare SHA-384 extends, digests and registers at hand. There is no
peer: no parser in Python that replays CCELs is published. The target is 20 ms.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from benchmarks import common
from verifier.eventlog.appraise import appraise_log, parse
from verifier.eventlog.boot import CALLING, EXIT_INVOKED, EXIT_RETURNED
from verifier.eventlog.log import Event, EventLog, Kind
from verifier.eventlog.replay import replay
from verifier.eventlog.tcg import encode
from verifier.result import Appraisal, Verdict

SIZE = 1024 * 1024
_TEXT = 380  # bytes of text in an event; with 72 bytes around it, about what GRUB writes


def log() -> bytes:
    """Return a CCEL of just over 1 MiB."""
    events = [_event(0, 8, b"version"), _event(0, Kind.SEPARATOR, bytes(4))]
    events += [_event(1, Kind.EFI_ACTION, CALLING), _event(1, Kind.SEPARATOR, bytes(4))]
    size = 0
    while size < SIZE:
        text = struct.pack("<Q", size).hex().encode() + b"x" * _TEXT
        events.append(_event(2, Kind.IPL, b"grub_cmd: " + text, text))
        size += len(events[-1].data) + 66
    events += [_event(1, Kind.EFI_ACTION, data) for data in (EXIT_INVOKED, EXIT_RETURNED)]
    return encode(EventLog("ccel", ("sha384",), tuple(events), 0, 0))


def _event(register: int, kind: int, data: bytes, measured: bytes | None = None) -> Event:
    digest = hashlib.sha384(data if measured is None else measured).digest()
    return Event(0, register, kind, (digest,), data)


def rows() -> Sequence[common.Row]:
    """Measure one log, in milliseconds."""
    raw = log()
    parsed = parse(raw, "ccel")
    quoted = {"sha384": replay(parsed, "sha384")}
    digests = [event.digests[0] for event in parsed.events]

    def ours() -> None:
        appraisal = Appraisal("eventlog")
        appraise_log(appraisal, parse(raw, "ccel"), quoted)
        if appraisal.result().verdict is not Verdict.ACCEPT:
            raise RuntimeError("the log was refused")

    def extends() -> None:
        value = bytes(48)
        for digest in digests:
            value = hashlib.sha384(value + digest).digest()

    return [
        common.measure(
            f"1 MiB CCEL, {len(digests)} events",
            "ms",
            ours=lambda: 1000 * common.duration(ours),
            limit=lambda: 1000 * common.duration(extends),
            better="lower",
        )
    ]


if __name__ == "__main__":
    common.main(rows)
