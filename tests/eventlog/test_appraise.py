"""Logs held against registers, TDX quotes with logs, and the command line."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit import tdx, vendors
from tests.kit.corpus import run_cli
from tests.kit.measured import CMDLINE, LogMaker, ccel_log, tpm_log
from verifier.anchors import Anchors
from verifier.appraise import Evidence, appraise
from verifier.errors import Reason, VerifierError
from verifier.eventlog.appraise import Quoted, appraise_log, parse
from verifier.eventlog.boot import BootClaims, read
from verifier.eventlog.log import Kind
from verifier.eventlog.replay import replay
from verifier.eventlog.runtime import parse_aael
from verifier.policy import AppraisalPolicy, from_mapping
from verifier.result import Appraisal, AttestationResult, Verdict


def judged(maker: LogMaker, quoted: Quoted) -> tuple[AttestationResult, BootClaims | None]:
    appraisal = Appraisal("eventlog")
    claims = appraise_log(appraisal, maker.log, quoted)
    return appraisal.result(), claims


def test_a_log_that_replays() -> None:
    """Every quoted register is compared, in every bank, and then the log is read."""
    maker = tpm_log(("sha1", "sha256"))
    result, claims = judged(maker, maker.registers())

    assert result.verdict is Verdict.ACCEPT
    assert claims is not None
    assert claims.bank == "sha256"
    assert result.claims["boot"]["proven"] is True
    assert result.claims["boot"]["kernel_cmdline"] == CMDLINE
    assert {c.name for c in result.checks if c.ok} >= {
        "event_log.sha1.0",
        "event_log.sha256.9",
        "event_log.meaning",
    }


@pytest.mark.parametrize("bank", ["sha1", "sha256"])
@pytest.mark.parametrize("register", [0, 9])
def test_one_register_that_differs(bank: str, register: int) -> None:
    """One register of one bank that differs is a refusal, and nothing is read."""
    maker = tpm_log(("sha1", "sha256"))
    quoted = maker.registers()
    quoted[bank][register] = bytes(len(quoted[bank][register]))
    result, claims = judged(maker, quoted)

    assert result.reasons == (Reason.EVENT_LOG_MISMATCH,)
    assert claims is None
    assert "boot" not in result.claims


def test_registers_that_are_not_quoted_prove_nothing() -> None:
    """What is not quoted is told as not judged, and gives no claims."""
    maker = tpm_log()
    quoted = {"sha256": {7: maker.registers()["sha256"][7]}}
    result, claims = judged(maker, quoted)

    assert result.verdict is Verdict.ACCEPT
    assert claims is not None
    assert (claims.secure_boot, claims.kernel_cmdline, claims.complete) == (True, None, False)


def test_registers_that_the_log_does_not_cover() -> None:
    """A quoted register without events is not judged, unless it is as it started."""
    maker = ccel_log()
    quoted = maker.registers()
    quoted["sha384"][3] = bytes(48)
    same, _ = judged(maker, quoted)
    quoted["sha384"][3] = b"x" * 48
    other, _ = judged(maker, quoted)

    def found(result: AttestationResult) -> bool | None:
        return next(c.ok for c in result.checks if c.name == "event_log.sha384.3")

    assert found(same) is True
    assert found(other) is None
    assert other.verdict is Verdict.ACCEPT


def test_no_common_bank() -> None:
    """Registers of another bank cannot vouch for a log."""
    result, claims = judged(tpm_log(), {"sha384": {0: bytes(48)}})

    assert result.reasons == (Reason.EVENT_LOG_MISMATCH,)
    assert claims is None


@pytest.mark.parametrize("maker", [LogMaker(), LogMaker("ccel", ("sha384",))])
def test_an_empty_log_vouches_for_nothing(maker: LogMaker) -> None:
    """Registers that are quoted and a log that covers none of them: a refusal, not a shrug."""
    (bank,) = maker.banks
    for value in (b"\x01", b"\x00"):
        quoted = {bank: {1: value * hashlib.new(bank).digest_size}}
        result, claims = judged(maker, quoted)

        assert result.reasons == (Reason.EVENT_LOG_MISMATCH,)
        assert claims is None


def test_nothing_quoted() -> None:
    """Without registers a log is read and told, and proves nothing."""
    result, claims = judged(tpm_log(), {})

    assert result.verdict is Verdict.ACCEPT
    assert claims is None
    assert result.claims["boot"]["proven"] is False


def test_nothing_at_all() -> None:
    """A log without events and nothing quoted is told as such."""
    result, _ = judged(LogMaker(), {})

    assert next(c.seen for c in result.checks if c.name == "event_log.sha256") == "no registers"


def test_a_log_that_replays_and_lies() -> None:
    """A log that contradicts itself is refused although it replays."""
    maker = tpm_log().add(7, Kind.SEPARATOR, bytes(4))
    result, claims = judged(maker, maker.registers())

    assert result.reasons == (Reason.EVENT_LOG_REFUSED,)
    assert claims is None


@given(st.integers(0, len(tpm_log().raw) * 8 - 1))
@settings(max_examples=300, deadline=None)
def test_no_flipped_bit_makes_another_claim(place: int) -> None:
    """A log with any bit flipped is refused, or proves the same or less."""
    maker = tpm_log()
    raw = bytearray(maker.raw)
    raw[place // 8] ^= 1 << place % 8
    good = read(maker.log, "sha256", proven=range(24))
    with contextlib.suppress(VerifierError):
        claims = appraise_log(Appraisal("eventlog"), parse(bytes(raw), "tcg"), maker.registers())
        if claims is not None:
            assert claims.boot_applications == good.boot_applications
            for name in ("secure_boot", "dbx_present", "kernel_cmdline", "initrd_digest"):
                assert getattr(claims, name) in (getattr(good, name), None)
            assert claims.complete <= good.complete


# TDX.

BOOT = {"kernel_cmdline": CMDLINE, "secure_boot": True}


def body(maker: LogMaker, **changes: Any) -> Any:
    registers = maker.registers()["sha384"]
    rtmrs = {f"rtmr{n}": registers.get(n, bytes(48)) for n in range(4)}
    return vendors.good_body(**{**rtmrs, **changes})


def policy(maker: LogMaker, boot: dict[str, Any] | None = None) -> AppraisalPolicy:
    told = body(maker)
    reference: dict[str, Any] = {"kind": "tdx", "name": "image", "mr_td": told.mr_td.hex()}
    reference |= {f"rtmr{n}": getattr(told, f"rtmr{n}").hex() for n in range(3)}
    return from_mapping({"reference": [reference | ({} if boot is None else {"boot": boot})]})


def td(
    maker: LogMaker, raw: bytes, rules: AppraisalPolicy | None = None, **changes: Any
) -> AttestationResult:
    quote = tdx.quote_v4(vendors.platform(), body(maker, **changes))
    return appraise(
        Evidence("tdx", quote, raw),
        tdx.collateral(),
        policy=rules,
        report_data=None,
        now=vendors.NOW,
        anchors=Anchors().with_simulated(intel=[vendors.fake_intel().root_pin]),
    )


def test_a_quote_with_its_log() -> None:
    """A log that replays to the quote's RTMRs meets a reference that names its claims."""
    maker = ccel_log()
    result = td(maker, maker.raw, policy(maker, BOOT))

    assert tdx.accepted(result)
    assert result.claims["boot"]["proven"] is True


def test_a_quote_with_another_log() -> None:
    """A log that does not replay is a refusal, whether or not the policy names its claims."""
    other = ccel_log().add(2, 0xD, b"more").raw
    for rules in (None, policy(ccel_log())):
        assert tdx.refused(td(ccel_log(), other, rules), Reason.EVENT_LOG_MISMATCH)


def test_a_named_claim_without_a_log() -> None:
    """A policy that names boot claims refuses a quote without a log that proves them."""
    maker = ccel_log()
    missing = td(maker, b"", policy(maker, BOOT))
    unread = td(maker, b"no log", policy(maker, BOOT))

    assert tdx.refused(missing, Reason.EVENT_LOG_MISSING, saying="an event log that replays")
    assert tdx.refused(unread, Reason.MALFORMED, Reason.EVENT_LOG_MISSING)


def test_launch_and_boot_are_one_tuple() -> None:
    """A launch measurement of one reference does not go with the boot chain of another."""
    maker = ccel_log()
    good, other = policy(maker, BOOT), policy(maker, {"secure_boot": False})
    mixed = from_mapping(
        {
            "reference": [
                _told(other),
                _told(good) | {"mr_td": "00" * 48},
            ]
        }
    )

    assert tdx.refused(td(maker, maker.raw, mixed), Reason.MEASUREMENT_UNKNOWN)


def _told(rules: AppraisalPolicy) -> dict[str, Any]:
    (reference,) = rules.reference
    boot = getattr(reference, "boot", None)
    told: dict[str, Any] = {"kind": "tdx", "name": reference.name}
    for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2"):
        told[name] = getattr(reference, name).hex()
    named = {n: getattr(boot, n) for n in ("kernel_cmdline", "secure_boot")}
    return told | {"boot": {n: value for n, value in named.items() if value is not None}}


def test_dstacks_log() -> None:
    """A log in brackets is dstack's; its runtime events replay to RTMR 3."""
    raw = json.dumps(
        [
            {
                "imr": 3,
                "event_type": 0x08000001,
                "digest": "",
                "event": "compose-hash",
                "event_payload": "aa",
            }
        ]
    ).encode()
    maker = LogMaker("dstack", ("sha384",))
    maker.add(3, Kind.DSTACK_RUNTIME, b"\xaa", b"\x01\0\0\x08:compose-hash:\xaa")
    result = td(maker, raw, policy(maker, {"runtime": {"compose-hash": "aa"}}))

    assert tdx.accepted(result)
    assert tdx.refused(td(maker, raw, rtmr3=bytes(48)), Reason.EVENT_LOG_MISMATCH)


# The command line.


def files(folder: Path, raw: bytes, quoted: object = None) -> list[str]:
    (folder / "log").write_bytes(raw)
    found = ["verify", "eventlog", "--log", str(folder / "log"), "--json"]
    if quoted is not None:
        (folder / "registers").write_text(json.dumps(quoted))
        found += ["--registers", str(folder / "registers")]
    return found


def texts(maker: LogMaker) -> dict[str, dict[str, str]]:
    return {
        bank: {str(n): value.hex() for n, value in values.items()}
        for bank, values in maker.registers().items()
    }


def test_the_command_line(tmp_path: Path) -> None:
    """`ostiary verify eventlog` replays, compares and tells what it read."""
    maker = tpm_log()
    status, out, _ = run_cli([*files(tmp_path, maker.raw, texts(maker)), "--kind", "tcg"])
    told = json.loads(out)

    assert status == 0
    assert told["claims"]["registers"] == texts(maker)
    assert told["claims"]["format"] == "tcg2"
    assert told["claims"]["events"] == len(maker.events) + 1


def test_the_command_line_refuses(tmp_path: Path) -> None:
    """A mismatch and a log that is none are rejects; registers that are none are unreadable."""
    wrong = {"sha256": {"0": "00" * 32}}
    assert run_cli([*files(tmp_path, tpm_log().raw, wrong), "--kind", "tcg"])[0] == 1
    status, out, _ = run_cli([*files(tmp_path, b"x"), "--kind", "ccel"])
    assert (status, json.loads(out)["reasons"]) == (1, ["malformed"])
    status, _, err = run_cli([*files(tmp_path, tpm_log().raw, {"x": 1}), "--kind", "tcg"])
    assert (status, "--registers" in err) == (2, True)


def test_the_command_line_reads_runtime_logs(tmp_path: Path) -> None:
    """An AAEL extends the register that `--register` names; dstack's log is JSON.

    A log of a register that nobody quoted proves nothing, and is no accept.
    """
    raw = b"INIT/sha256 " + b"00" * 32 + b"\na b c\n"
    value = replay(parse_aael(raw, register=16), "sha256")[16].hex()
    arguments = files(tmp_path, raw, {"sha256": {"16": value}})

    assert run_cli([*arguments, "--kind", "aael", "--register", "16"])[0] == 0
    assert run_cli([*arguments, "--kind", "aael", "--register", "17"])[0] == 1
    status, out, _ = run_cli([*files(tmp_path, b"[]"), "--kind", "dstack"])
    assert (status, json.loads(out)["claims"]["format"]) == (0, "dstack")
