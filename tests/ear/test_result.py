"""From results to tokens' content: the CPU, devices, refusals, and real evidence."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit import corpus
from tests.kit.ear import AUDIENCE, BASIS, ISSUER, NONCE, NOW, accepted, made
from verifier.ear import claims, result
from verifier.ear.result import Asked
from verifier.ear.vector import Tier, Vector
from verifier.errors import Reason, VerifierError
from verifier.result import Appraisal, AttestationResult, Verdict


def device_set(*, bad: bool = False) -> AttestationResult:
    """Return a machine's result with two GPUs and a switch, named as the verifier names them."""
    appraisal = Appraisal("tdx", checks=list(accepted().checks))
    names = ("gpu[0]", "gpu[1]", "switch[0]")
    for name in names:
        appraisal.require(f"{name}.signature", True, Reason.SIGNATURE_INVALID, "x", "x")
        appraisal.require(f"{name}.mode", True, Reason.GPU_MODE, "spt", "spt")
        good = not (bad and name == "gpu[1]")
        appraisal.require(f"{name}.measurements", good, Reason.GPU_MEASUREMENT, "none", "one")
    appraisal.require("gpus.count", True, Reason.GPU_COUNT, 2, 2)
    appraisal.claims["devices"] = [{"name": name, "claims": {"huge": "x"}} for name in names]
    return appraisal.result()


def test_a_good_result_is_affirming() -> None:
    """One part, cpu0, with what the policy's reader needs."""
    ear = made()

    assert ear.status is Tier.AFFIRMING
    assert list(ear.submods) == ["cpu0"]
    cpu = ear.submods["cpu0"]
    assert cpu.policies == (BASIS.policy_id(),)
    assert cpu.policies[0].startswith("ni:///sha-256;")
    assert cpu.verifier["not_judged"] == ["report_data"]
    assert (cpu.verifier["verdict"], cpu.verifier["tcb_status"]) == ("accept", "UpToDate")


@pytest.mark.parametrize("dialect", ["legacy", "ietf"])
def test_devices_are_submods_of_their_own(dialect: claims.Dialect) -> None:
    """Each device has its vector; what is said of the set stays with the CPU's part."""
    ear = made(dialect, device_set())

    assert list(ear.submods) == ["cpu0", "gpu0", "gpu1", "switch0"]
    assert ear.submods["gpu1"].vector == Vector(configuration=2, executables=3, hardware=2)
    assert "claims" not in ear.submods["gpu0"].attester
    assert "devices" not in ear.submods["cpu0"].attester
    assert ear.status is Tier.AFFIRMING


@pytest.mark.parametrize("dialect", ["legacy", "ietf"])
def test_one_bad_device_is_named_and_the_machine_is_contraindicated(
    dialect: claims.Dialect,
) -> None:
    """The others keep their own vectors."""
    ear = made(dialect, device_set(bad=True))

    assert ear.submods["gpu1"].status is Tier.CONTRAINDICATED
    assert ear.submods["gpu1"].verifier["reasons"] == ["gpu_measurement"]
    assert ear.submods["gpu0"].status is Tier.AFFIRMING
    assert ear.submods["cpu0"].status is Tier.CONTRAINDICATED
    assert ear.status is Tier.CONTRAINDICATED


def test_a_check_of_a_device_that_is_not_there_is_the_machines() -> None:
    """Nothing that failed is lost for want of a submod."""
    appraisal = Appraisal("tdx", checks=list(accepted().checks))
    appraisal.require("gpu[7].signature", False, Reason.SIGNATURE_INVALID, "x", "y")

    ear = made(found=appraisal.result())

    assert ear.submods["cpu0"].vector.hardware == 99


@pytest.mark.parametrize("reason", Reason)
def test_every_refusal_is_contraindicated(reason: Reason) -> None:
    """Whatever its vector, also where nothing could be judged."""
    appraisal = Appraisal("tdx")
    appraisal.require("something", False, reason, "x", "y")
    found = appraisal.result()

    ear = made(found=found)

    assert found.verdict in {Verdict.REJECT, Verdict.UNSUPPORTED}
    assert ear.status is Tier.CONTRAINDICATED
    assert claims.decode(claims.encode(ear)) == ear


def test_nothing_judged_is_contraindicated() -> None:
    """A reject without a failed check is a reject."""
    assert made(found=Appraisal("tdx").result()).status is Tier.CONTRAINDICATED


def test_a_token_ends_with_the_first_thing_that_it_rests_on() -> None:
    """After 300 seconds, with the result, or with the lease."""

    def ends(expires: int | None, not_after: int) -> int:
        return result.make(
            accepted(expires=expires),
            BASIS,
            Asked("ietf", AUDIENCE, NONCE),
            issuer=ISSUER,
            token="t",
            now=NOW,
            not_after=not_after,
        ).expires

    assert ends(None, NOW + 3600) == NOW + 300
    assert ends(NOW + 20, NOW + 3600) == NOW + 20
    assert ends(NOW + 20, NOW + 10) == NOW + 10
    for expires, not_after in ((NOW, NOW + 10), (NOW + 10, NOW)):
        with pytest.raises(VerifierError) as caught:
            ends(expires, not_after)
        assert caught.value.reason is Reason.TOKEN_EXPIRED


def test_results_read_back() -> None:
    """What a result prints is read as itself."""
    for found in (accepted(), device_set(), device_set(bad=True), Appraisal("snp").result()):
        assert result.read(found.to_json()) == found


def changed(**changes: Any) -> bytes:
    """Return a result's JSON with members changed."""
    return json.dumps(
        json.loads(accepted().to_json()) | changes, separators=(",", ":"), sort_keys=True
    ).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        changed(verdict="reject"),
        changed(reasons=["malformed"]),
        changed(extra=1),
        changed(checks=[]),
        changed(tcb_status="Fine"),
        changed(checks=[{"name": "n", "ok": True, "expected": "", "seen": "", "reason": "vmpl"}]),
        changed(checks=[{"name": "n", "ok": False, "expected": "", "seen": ""}]),
        b" " + accepted().to_json(),
        accepted().to_json().replace(b'"kind":"tdx"', b'"kind":"tdx","kind":"tdx"'),
        accepted().to_json().replace(b"null", b"1.5"),
    ],
)
def test_what_is_no_result_is_refused(raw: bytes) -> None:
    """Another verdict than the checks give, other members, other spellings: all malformed."""
    with pytest.raises(VerifierError) as caught:
        result.read(raw)

    assert caught.value.reason is Reason.MALFORMED


def test_a_result_is_bounded() -> None:
    """What is too large is not parsed."""
    with pytest.raises(VerifierError) as caught:
        result.read(bytes(result.MAX_RESULT + 1))

    assert caught.value.reason is Reason.TOO_LARGE


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_nothing_but_our_own_error(raw: bytes) -> None:
    """Arbitrary bytes are never a result."""
    with pytest.raises(VerifierError):
        result.read(raw)


@pytest.mark.skipif(not corpus.NAMES, reason=corpus.ABSENT)
@pytest.mark.parametrize("name", corpus.NAMES)
def test_real_evidence_has_a_vector(name: str) -> None:
    """Every case of the corpus: accepted is never contraindicated, refused never anything else."""
    case = corpus.load(name)
    if not (case.has("quote.bin") or case.has("report.bin")):
        pytest.skip("TCB info alone")
    _, out, _ = corpus.run_cli(case.arguments())
    found = result.read(out.strip().encode())

    ear = made(found=replace(found, expires=None))

    assert (ear.status is Tier.CONTRAINDICATED) is (found.verdict is not Verdict.ACCEPT)
    if found.verdict is Verdict.ACCEPT:
        cpu = ear.submods["cpu0"].vector
        assert cpu.hardware in {2, 32}
        assert cpu.runtime_opaque == 2
    for dialect in ("legacy", "ietf"):
        told = replace(ear, dialect=dialect)
        assert claims.decode(claims.encode(told)) == told
