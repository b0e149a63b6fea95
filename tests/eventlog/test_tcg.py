"""The binary logs' parser: strict, bounded, and the reverse of the printer."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit import measured
from tests.kit.measured import LogMaker, ccel_log, tpm_log
from verifier.errors import Reason, VerifierError
from verifier.eventlog import tcg
from verifier.eventlog.log import MAX_EVENTS, MAX_LOG, NO_REGISTER, Event, EventLog, Kind

HEADER = 32  # of the Spec ID event, before its data
OLD = struct.Struct("<II20sI")


def refused(raw: bytes, *, kind: str = "tcg", reason: Reason = Reason.MALFORMED) -> str:
    with pytest.raises(VerifierError) as caught:
        tcg.parse(raw, kind=kind)  # type: ignore[arg-type]
    assert caught.value.reason is reason, caught.value
    return str(caught.value)


def spec(*algorithms: tuple[int, int], count: int | None = None, vendor: bytes = b"\0") -> bytes:
    """Return a log that is only a Spec ID event."""
    body = struct.pack(
        "<16sIBBBBI", tcg.SPEC_ID, 0, 0, 2, 0, 2, len(algorithms) if count is None else count
    )
    body += b"".join(struct.pack("<HH", *each) for each in algorithms) + vendor
    return OLD.pack(0, Kind.NO_ACTION, bytes(20), len(body)) + body


@pytest.mark.parametrize("maker", [tpm_log(), tpm_log(("sha1",), "tcg1.2"), ccel_log()])
def test_round_trip(maker: LogMaker) -> None:
    """What is parsed prints to the same bytes."""
    kind = "ccel" if maker.form == "ccel" else "tcg"
    log = tcg.parse(maker.raw, kind=kind)  # type: ignore[arg-type]

    assert tcg.encode(log) == maker.raw
    assert log.format == maker.form
    assert log.used == len(maker.raw)


digests = st.binary(min_size=32, max_size=32)
events = st.builds(
    lambda register, kind, digest, data: Event(0, register, kind, (digest,), data),
    st.integers(0, 23),
    st.integers(4, 0xFFFFFFFE),
    digests,
    st.binary(max_size=40),
)


@given(st.lists(events, max_size=6), st.sampled_from([b"", bytes(9), b"\xff" * 40, bytes(3)]))
@settings(max_examples=60, deadline=None)
def test_any_events_round_trip(told: list[Event], padding: bytes) -> None:
    """Any events survive printing and parsing, whatever padding follows them."""
    numbered = tuple(event._replace(number=n) for n, event in enumerate(told, 1))
    raw = tcg.encode(EventLog("tcg2", ("sha256",), numbered, 0, 0))

    assert tcg.parse(raw + padding, kind="tcg").events == numbered


@given(st.binary(max_size=200), st.sampled_from(["tcg", "ccel"]))
@settings(max_examples=200, deadline=None)
def test_any_bytes(raw: bytes, kind: str) -> None:
    """Any bytes give a log or our own error."""
    with contextlib.suppress(VerifierError):
        tcg.parse(raw, kind=kind)  # type: ignore[arg-type]


@given(st.integers(0, 4000), st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_any_bit_flipped(place: int, bit: int) -> None:
    """A log with one bit flipped gives another log or our own error."""
    good = tpm_log().raw
    bent = bytearray(good)
    bent[place % len(good)] ^= 1 << bit
    with contextlib.suppress(VerifierError):
        tcg.parse(bytes(bent), kind="tcg")


@pytest.mark.parametrize("maker", [tpm_log(), tpm_log(("sha1",), "tcg1.2")])
def test_every_truncation(maker: LogMaker) -> None:
    """Cut anywhere, a log is a shorter log at an event's end and an error elsewhere."""
    raw = maker.raw
    ends = 0
    for length in range(len(raw)):
        try:
            log = tcg.parse(raw[:length], kind="tcg")
        except VerifierError as error:
            assert error.reason is Reason.MALFORMED, length  # noqa: PT017 - in a loop
        else:
            ends += 1
            assert log.used == length or not raw[log.used : length].strip(b"\0")
    assert ends >= len(maker.events)


def test_padding_then_data() -> None:
    """Padding ends the log: nothing else follows it, and it is of one kind."""
    raw = tpm_log().raw
    for padding in (bytes(20), b"\xff" * 20):
        assert tcg.parse(raw + padding, kind="tcg").used == len(raw)
        refused(raw + padding + b"x", reason=Reason.TRAILING_DATA)
    refused(raw + bytes(20) + b"\xff" * 20, reason=Reason.TRAILING_DATA)


def test_too_large() -> None:
    """A log over the limit is not read at all."""
    refused(bytes(MAX_LOG + 1), reason=Reason.TOO_LARGE)


def test_too_many_events() -> None:
    """More events than the limit are refused, however small they are."""
    event = OLD.pack(0, Kind.SEPARATOR, b"d" * 20, 0)
    assert tcg.parse(event * MAX_EVENTS, kind="tcg").count == MAX_EVENTS
    refused(event * (MAX_EVENTS + 1), reason=Reason.TOO_LARGE)


def test_sizes_that_lie() -> None:
    """A size or count is held against what is left before anything is taken."""
    for size in (1, 0xFFFFFFFF):
        refused(OLD.pack(0, Kind.SEPARATOR, bytes(20), size))
    raw = bytearray(tpm_log().raw)
    first = HEADER + struct.unpack_from("<I", raw, 28)[0]
    for count in (0, 2, 0xFFFFFFFF):
        struct.pack_into("<I", raw, first + 8, count)
        refused(bytes(raw))


def test_header_algorithms() -> None:
    """A header names one to four known hashes, each once and with its size."""
    assert tcg.parse(spec((11, 32)), kind="tcg").banks == ("sha256",)
    refused(spec((0x12, 32)), reason=Reason.UNSUPPORTED)
    refused(spec((11, 32), (0x12, 32)), reason=Reason.UNSUPPORTED)
    refused(spec((11, 20)))
    refused(spec((11, 32), (11, 32)))
    for count in (0, 5, 0xFFFFFFFF):
        refused(spec((11, 32), count=count))
    refused(spec((11, 32), count=2))


def test_header_shape() -> None:
    """The Spec ID event fills its size, extends nothing, and has a zero digest."""
    refused(spec((11, 32), vendor=b"\x05"))
    refused(spec((11, 32), vendor=b"\0\0"))
    good = spec((11, 32))
    refused(good[:8] + b"\1" + good[9:])
    refused(good[:4] + b"\4" + good[5:])
    refused(good[:28] + struct.pack("<I", 1000) + good[32:])
    refused(good[:28] + struct.pack("<I", 20) + good[32:])
    assert tcg.parse(spec((11, 32), vendor=b"\2ab"), kind="tcg").count == 1


def test_digests_follow_the_header() -> None:
    """An event has one digest for each of the header's banks, and none other."""
    raw = bytearray(tpm_log(("sha1", "sha256")).raw)
    first = HEADER + struct.unpack_from("<I", raw, 28)[0]
    struct.pack_into("<H", raw, first + 12, 11)
    refused(bytes(raw))


def test_registers() -> None:
    """PCRs go to 23, a CCEL's index to 4; EV_NO_ACTION may belong to none."""
    good = ("sha256",)
    assert LogMaker("tcg2", good).add(23, 4, b"").log.events[0].register == 23
    refused(LogMaker("tcg2", good).add(24, 4, b"").raw)
    refused(LogMaker("tcg2", good).add(NO_REGISTER, 4, b"").raw)
    assert LogMaker("tcg2", good).add(NO_REGISTER, 3, b"").log.count == 2
    assert LogMaker("ccel", ("sha384",)).add(3, 4, b"").log.events[0].register == 3
    assert LogMaker("ccel", ("sha384",)).add(NO_REGISTER, 3, b"").log.count == 2
    refused(LogMaker("ccel", ("sha384",)).add(4, 4, b"").raw, kind="ccel")


def test_a_ccel_is_crypto_agile_with_sha384() -> None:
    """A CCEL in another form or without SHA-384 is refused."""
    refused(tpm_log(("sha1",), "tcg1.2").raw, kind="ccel")
    refused(tpm_log().raw, kind="ccel")


LOCALITY = tcg.STARTUP_LOCALITY


@pytest.mark.parametrize(
    "events",
    [
        [(0, 3, LOCALITY + b"\1")],
        [(0, 3, LOCALITY)],
        [(0, 3, LOCALITY + b"\3\0")],
        [(1, 3, LOCALITY + b"\3")],
        [(0, 3, LOCALITY + b"\3"), (0, 3, LOCALITY + b"\3")],
        [(0, 4, b""), (0, 3, LOCALITY + b"\3")],
    ],
)
def test_startup_locality(events: list[tuple[int, int, bytes]]) -> None:
    """StartupLocality stands once, on PCR 0 before it is extended, and is 0, 3 or 4."""
    maker = LogMaker("tcg2", ("sha256",))
    for event in events:
        maker.add(*event)

    refused(maker.raw)


def test_only_binary_logs_are_encoded() -> None:
    """Runtime logs have no binary form."""
    with pytest.raises(ValueError, match="dstack"):
        tcg.encode(measured.LogMaker("dstack", ("sha384",)).log)
