"""Replay: what extends a register, and where registers start."""

from __future__ import annotations

import hashlib

from tests.kit.measured import LogMaker
from verifier.eventlog.log import NO_REGISTER, EventLog, Kind
from verifier.eventlog.replay import initial, replay
from verifier.eventlog.tcg import STARTUP_LOCALITY


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def test_extends_in_order() -> None:
    """R = H(R || digest), in the order of the log."""
    log = LogMaker().add(1, 8, b"a").add(1, 8, b"b").log

    assert replay(log, "sha256") == {1: sha256(sha256(bytes(32), sha256(b"a")), sha256(b"b"))}


def test_no_action_never_extends() -> None:
    """EV_NO_ACTION extends nothing, whatever digest it carries."""
    log = LogMaker().add(1, Kind.NO_ACTION, b"a").add(NO_REGISTER, Kind.NO_ACTION, b"b").log

    assert replay(log, "sha256") == {}


def test_mrtd_is_not_extended() -> None:
    """A CCEL's index 0 is MRTD, which the loader measures."""
    log = LogMaker("ccel", ("sha384",)).add(-1, 8, b"a").add(3, 8, b"b").log

    assert replay(log, "sha384").keys() == {3}


def test_startup_locality_is_where_pcr_0_starts() -> None:
    """Locality 3 or 4 stands in PCR 0's last byte at first, extended or not."""
    maker = LogMaker().add(0, Kind.NO_ACTION, STARTUP_LOCALITY + b"\3")
    start = bytes(31) + b"\3"

    assert replay(maker.log, "sha256") == {0: start}
    assert replay(maker.add(0, 8, b"a").log, "sha256") == {0: sha256(start, sha256(b"a"))}


def test_dynamic_pcrs_start_at_ones() -> None:
    """PCR 17 to 22 are FF before they are extended; RTMRs never are."""
    log = LogMaker().add(17, 8, b"a").log

    assert replay(log, "sha256") == {17: sha256(b"\xff" * 32, sha256(b"a"))}
    assert initial(log, "sha256", 16) == initial(log, "sha256", 23) == bytes(32)
    assert initial(LogMaker("ccel", ("sha384",)).log, "sha384", 17) == bytes(48)


def test_banks_are_replayed_each_by_its_hash() -> None:
    """Every bank uses its own digests and hash."""
    log = LogMaker(banks=("sha1", "sha256", "sha384", "sha512")).add(2, 8, b"a").log

    for bank in log.banks:
        digest = hashlib.new(bank, b"a").digest()
        assert replay(log, bank) == {2: hashlib.new(bank, bytes(len(digest)) + digest).digest()}


def test_other_banks_initial_values_stay_apart() -> None:
    """What a log says of one bank's start is not another's."""
    log = EventLog("aael", ("sha256",), (), 0, 0, {("sha384", 3): b"x" * 48})

    assert replay(log, "sha256") == {}
