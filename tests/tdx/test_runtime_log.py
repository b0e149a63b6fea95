"""The AAEL beside a TD's boot log: what software extended into RTMR 3 after boot."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.kit import tdx, vendors
from tests.kit.measured import ccel_log
from verifier.appraise import Evidence, appraise
from verifier.policy import AppraisalPolicy, BootReference, TdxReference
from verifier.result import AttestationResult, Verdict
from verifier.wire.canonical import Hex

DIGEST = "sha256:" + "ab" * 32
PULL = (
    "github.com/confidential-containers PullImage "
    f'{{"image":"registry.example/model","digest":"{DIGEST}"}}'
)
BAD = PULL.replace("ab" * 32, "cd" * 32)


def aael(*lines: str, start: bytes = bytes(48), bank: str = "sha384") -> bytes:
    """Return an AAEL."""
    return "".join(f"{line}\n" for line in (f"INIT/{bank} {start.hex()}", *lines)).encode()


def extended(*lines: str, start: bytes = bytes(48)) -> bytes:
    """Return what RTMR 3 holds after these lines."""
    for line in lines:
        start = hashlib.sha384(start + hashlib.sha384(line.encode()).digest()).digest()
    return start


def judge(rtmr3: bytes, runtime_log: bytes, policy: Any = None, **parts: Any) -> AttestationResult:
    """Judge a TD that holds this, with a good boot log unless told otherwise."""
    maker = ccel_log()
    registers = maker.registers()["sha384"]
    rtmrs = {f"rtmr{index}": registers.get(index, bytes(48)) for index in range(3)}
    return appraise(
        Evidence(
            "tdx",
            vendors.good_quote(bytes(64), 4, rtmr3=rtmr3, **rtmrs),
            **({"event_log": maker.raw, "runtime_log": runtime_log} | parts),
        ),
        tdx.collateral(),
        policy=policy,
        report_data=None,
        now=vendors.NOW,
        anchors=vendors.anchors(),
    )


def wanting(**boot: Any) -> AppraisalPolicy:
    """Return a policy whose reference names this of the boot."""
    registers = ccel_log().registers()["sha384"]
    body = vendors.good_body()
    return AppraisalPolicy(
        reference=(
            TdxReference(
                name="td",
                mr_td=Hex(body.mr_td),
                **{f"rtmr{index}": Hex(registers.get(index, bytes(48))) for index in range(3)},
                boot=BootReference(**boot),
            ),
        )
    )


def test_both_logs() -> None:
    """Each log replays to its own registers, and a policy may name what either proves."""
    policy = wanting(images=(DIGEST,), secure_boot=True)
    result = judge(extended(PULL), aael(PULL), policy)

    assert result.verdict is Verdict.ACCEPT, result.reasons
    assert result.claims["runtime"]["images"][0]["digest"] == DIGEST
    assert result.claims["boot"]["secure_boot"] is True
    assert set(result.claims["registers"]["sha384"]) >= {"0", "1", "2", "3"}


def test_the_runtime_log_alone() -> None:
    """Without a boot log the images are proven, and nothing of the boot."""
    rtmr3, log = extended(PULL), aael(PULL)

    assert judge(rtmr3, log, wanting(images=(DIGEST,)), event_log=b"").verdict is Verdict.ACCEPT
    missing = judge(rtmr3, log, wanting(images=(DIGEST,), secure_boot=True), event_log=b"")
    assert "measurement_unknown" in missing.reasons


def test_an_image_that_nobody_named() -> None:
    """One image that the policy does not list refuses, whatever else was pulled."""
    result = judge(extended(PULL, BAD), aael(PULL, BAD), wanting(images=(DIGEST,)))

    assert result.reasons == ("measurement_unknown",)


def test_a_log_that_begins_late() -> None:
    """A first line that is not zero would hide what was extended before it, and is refused."""
    hidden = extended(BAD)
    result = judge(extended(PULL, start=hidden), aael(PULL, start=hidden))

    assert result.reasons == ("event_log_refused",)
    named = judge(extended(PULL, start=hidden), aael(PULL, start=hidden), wanting(images=(DIGEST,)))
    assert named.verdict is Verdict.REJECT


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (aael(BAD), "event_log_mismatch"),
        (aael(), "event_log_mismatch"),
        (aael(PULL, start=bytes(32), bank="sha256"), "event_log_mismatch"),
        (b"no log", "malformed"),
    ],
    ids=["other", "empty", "bank", "none"],
)
def test_logs_that_are_not_this_quotes(log: bytes, why: str) -> None:
    """A runtime log that does not replay refuses, whether or not a policy asks for it."""
    result = judge(extended(PULL), log)

    assert why in result.reasons
    assert "images" not in str(result.claims.get("runtime"))


def test_two_logs_of_one_register() -> None:
    """Where the boot log extends RTMR 3 itself, no second log may begin there."""
    maker = ccel_log()
    maker.add(3, 0x6, b"at boot")
    both = maker.registers()["sha384"][3]
    result = judge(extended(PULL, start=both), aael(PULL), event_log=maker.raw)

    assert "event_log_mismatch" in result.reasons
