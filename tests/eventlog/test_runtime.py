"""dstack's JSON log and CoCo's AAEL: digests recomputed, everything else refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.errors import Reason, VerifierError
from verifier.eventlog.log import MAX_EVENTS, MAX_LOG, Kind
from verifier.eventlog.replay import replay
from verifier.eventlog.runtime import dstack_digest, parse_aael, parse_dstack

RUNTIME = int(Kind.DSTACK_RUNTIME)


def entry(**changes: Any) -> dict[str, Any]:
    told = {
        "imr": 3,
        "event_type": RUNTIME,
        "digest": "",
        "event": "app-id",
        "event_payload": "0a0b",
    }
    return {**told, **changes}


def dstack(*entries: Any) -> bytes:
    return json.dumps(entries).encode()


def refused(raw: bytes, reason: Reason = Reason.MALFORMED, *, aael: bool = False) -> None:
    with pytest.raises(VerifierError) as caught:
        parse_aael(raw, register=3) if aael else parse_dstack(raw)
    assert caught.value.reason is reason, caught.value


def test_the_digest_is_computed() -> None:
    """Type, name and payload make the digest; a lite log leaves it out."""
    digest = hashlib.sha384(b"\x01\0\0\x08:app-id:\x0a\x0b").digest()
    lite, full = parse_dstack(dstack(entry())), parse_dstack(dstack(entry(digest=digest.hex())))

    assert dstack_digest(RUNTIME, "app-id", b"\x0a\x0b") == digest
    assert lite.events == full.events
    assert replay(lite, "sha384") == {3: hashlib.sha384(bytes(48) + digest).digest()}


def test_a_digest_of_other_content() -> None:
    """A runtime event whose digest is another's is refused."""
    refused(dstack(entry(digest="00" * 48)), Reason.EVENT_LOG_REFUSED)


def test_boot_events_come_with_digests() -> None:
    """Boot events need a digest, and their payload counts for nothing."""
    told = entry(imr=1, event_type=4, digest="11" * 48)

    assert parse_dstack(dstack(told)).events[0].data == b""
    refused(dstack(entry(imr=1, event_type=4)))


@pytest.mark.parametrize(
    "entries",
    [
        [1],
        [entry(imr=4)],
        [entry(imr=-1)],
        [entry(imr=True)],
        [entry(imr="3")],
        [entry(event_type=1 << 32)],
        [entry(event_type=4, digest="11" * 48)],
        [entry(event=5)],
        [entry(digest=5)],
        [entry(digest="AA" * 48)],
        [entry(event_payload="x")],
        [entry(event="\ud800")],
        [entry(more=1)],
        [{}],
    ],
)
def test_other_shapes(entries: list[Any]) -> None:
    """Entries with other fields, types or values are refused; RTMR 3 takes runtime events only."""
    refused(dstack(*entries))


def test_other_documents() -> None:
    """What is not a list of events is refused: no JSON, a key twice, too deep, too long."""
    for raw in (b"", b"{}", b"\xff", b"[" * 100_000, dstack(entry())[:-2] + b',"imr":3}]'):
        refused(raw)
    refused(b" " * (MAX_LOG + 1), Reason.TOO_LARGE)
    refused(b"[" + b"1," * MAX_EVENTS + b"1]", Reason.TOO_LARGE)


@given(st.binary(max_size=80))
@settings(max_examples=150, deadline=None)
def test_any_bytes(raw: bytes) -> None:
    """Any bytes give a log or our own error."""
    for parse in (parse_dstack, lambda data: parse_aael(data, register=3)):
        for data in (raw, b"INIT/sha384 " + b"0" * 96 + b"\n" + raw + b"\n"):
            with contextlib.suppress(VerifierError):
                parse(data)


LINE = b'github.com/confidential-containers PullImage {"image":"a","digest":"sha256:00"}'
INIT = b"INIT/sha384 " + b"00" * 48


def test_aael() -> None:
    """Each line is extended by its digest, onto the value that INIT tells."""
    log = parse_aael(INIT + b"\n" + LINE + b"\n", register=3)
    digest = hashlib.sha384(LINE).digest()

    assert log.banks == ("sha384",)
    assert replay(log, "sha384") == {3: hashlib.sha384(bytes(48) + digest).digest()}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        INIT,
        b"\n",
        LINE + b"\n",
        b"INIT/sha1 " + b"00" * 20 + b"\n",
        b"INIT/sha256 " + b"00" * 48 + b"\n",
        b"INIT/sha384 " + b"0A" * 48 + b"\n",
        INIT + b"\none two\n",
        INIT + b"\n\n",
        INIT + b"\n" + LINE + b"\r\n",
        INIT + b"\na b \xc3\xa9\n",
    ],
)
def test_other_aael(raw: bytes) -> None:
    """Lines of another shape are refused."""
    refused(raw, aael=True)


def test_aael_limits() -> None:
    """Size and number of lines are bounded."""
    refused(b" " * (MAX_LOG + 1), Reason.TOO_LARGE, aael=True)
    refused(INIT + b"\n" + b"a b c\n" * (MAX_EVENTS + 1), Reason.TOO_LARGE, aael=True)
