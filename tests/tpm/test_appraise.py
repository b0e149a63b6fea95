"""TPM evidence as a whole: key, nonce, references, event log; and the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.kit import tpm_chain
from tests.kit.corpus import run_cli
from tests.kit.measured import CMDLINE, NONCE, PCRS, attest, rsa_key, sign, tpm_log, tpmt_public
from tests.kit.tpm_chain import Shape, intermediate, issue, root
from tests.kit.vendors import NOW
from verifier.errors import Reason, VerifierError
from verifier.policy import AppraisalPolicy, from_mapping
from verifier.result import Appraisal, AttestationResult, Verdict
from verifier.tpm import attest as attests
from verifier.tpm.appraise import TpmEvidence, appraise_tpm

LOG = tpm_log()
LOGGED = PCRS | LOG.registers()["sha256"]
RAW = attests.encode(attest())
GOOD = TpmEvidence(RAW, sign(RAW), tpmt_public(), {"sha256": PCRS})
SPKI = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def judged(
    evidence: TpmEvidence = GOOD,
    policy: dict[str, Any] | None = None,
    nonce: bytes | None = NONCE,
    **options: Any,
) -> AttestationResult:
    appraisal = Appraisal("tpm")
    rules: AppraisalPolicy | None = None if policy is None else from_mapping(policy)
    appraise_tpm(
        appraisal,
        evidence,
        policy=rules,
        nonce=nonce,
        **{"now": NOW, "anchors": tpm_chain.anchors(), **options},
    )
    return appraisal.result()


def refused(reason: Reason, evidence: TpmEvidence, policy: dict[str, Any] | None = None) -> None:
    with pytest.raises(VerifierError) as caught:
        judged(evidence, policy)
    assert caught.value.reason is reason, caught.value


def logged() -> TpmEvidence:
    raw = attests.encode(attest({"sha256": LOGGED}))
    return TpmEvidence(raw, sign(raw), SPKI, {"sha256": LOGGED}, event_log=LOG.raw)


def test_a_good_quote() -> None:
    """A bare key is vouched for by the caller, and the result says so."""
    result = judged()

    assert result.verdict is Verdict.ACCEPT
    assert {c.name for c in result.checks if c.ok is None} == {"ak.certificate", "tpm.pcrs"}


def test_nonces() -> None:
    """Without a nonce the verdict is reject, unless that was said aloud."""
    assert judged(nonce=None).reasons == (Reason.NONCE_MISSING,)
    assert judged(nonce=None, nonce_required=False).verdict is Verdict.ACCEPT
    assert judged(nonce=b"other").reasons == (Reason.NONCE_MISMATCH,)


def test_what_is_missing() -> None:
    """Signature, key and PCR values are all needed; the claims are told all the same."""
    refused(Reason.SIGNATURE_MISSING, replace(GOOD, signature=None))
    refused(Reason.AK_REFUSED, replace(GOOD, ak=None))
    refused(Reason.PCR_MISSING, replace(GOOD, pcrs=None))


def certified() -> TpmEvidence:
    certificate = issue(Shape("AK"), intermediate(), rsa_key()).der
    return replace(GOOD, ak=certificate, ak_issuers=(intermediate().der, root().der))


def test_certificates() -> None:
    """A chain is checked where it is given; one without the other is refused."""
    whole = certified()
    assert judged(whole).verdict is Verdict.ACCEPT
    assert judged(whole).simulated
    beside = replace(whole, ak=SPKI, ak_certificate=whole.ak)
    assert judged(beside).verdict is Verdict.ACCEPT
    other = issue(Shape("AK"), intermediate(), tpm_chain.key_of("other")).der
    refused(Reason.AK_REFUSED, replace(beside, ak_certificate=other))
    refused(Reason.AK_NOT_CERTIFIED, replace(whole, ak=SPKI))
    refused(Reason.AK_NOT_CERTIFIED, replace(beside, ak_issuers=()))


def test_a_policy_may_require_a_certificate() -> None:
    """With `require_ak_certificate` a bare key, or a certificate without chain, is refused."""
    policy = {"tpm": {"require_ak_certificate": True}}
    refused(Reason.AK_NOT_CERTIFIED, GOOD, policy)
    refused(Reason.AK_NOT_CERTIFIED, replace(certified(), ak_issuers=()), policy)
    assert judged(replace(certified(), ak_issuers=())).verdict is Verdict.ACCEPT


def reference(name: str = "image", **told: Any) -> dict[str, Any]:
    return {"kind": "tpm", "name": name, **told}


def test_references() -> None:
    """PCR values are whole tuples; a policy without any refuses."""
    good = reference(pcrs={"0": PCRS[0].hex(), "7": PCRS[7].hex()})
    other = reference("other", pcrs={"0": PCRS[0].hex(), "7": "00" * 32, "8": "00" * 32})

    assert judged(policy={"reference": [other, good]}).verdict is Verdict.ACCEPT
    assert judged(policy={"reference": [other]}).reasons == (Reason.MEASUREMENT_UNKNOWN,)
    assert judged(policy={}).reasons == (Reason.NO_REFERENCE_VALUES,)


def test_references_to_pcrs_that_are_not_quoted() -> None:
    """A reference names a PCR that the quote does not cover: that is a difference."""
    raw = attests.encode(attest({"sha256": {0: PCRS[0]}}))
    evidence = TpmEvidence(raw, sign(raw), SPKI, {"sha256": PCRS})
    result = judged(evidence, {"reference": [reference(pcrs={"7": PCRS[7].hex()})]})

    assert result.reasons == (Reason.MEASUREMENT_UNKNOWN,)
    assert any(c.seen == "not quoted" for c in result.checks)


@pytest.mark.parametrize(
    "told", [reference(), reference(pcrs={"24": "00" * 32}), reference(pcrs={"00": "00" * 32})]
)
def test_references_of_other_shapes(told: dict[str, Any]) -> None:
    """A reference names something, and PCRs by their numbers."""
    with pytest.raises(VerifierError):
        from_mapping({"reference": [told]})


def test_the_policys_bank() -> None:
    """The policy says which bank and PCRs it needs; without one, what is quoted is told."""
    assert judged(policy={"tpm": {"bank": "sha384"}, "reference": []}).reasons == (
        Reason.PCR_MISSING,
        Reason.NO_REFERENCE_VALUES,
    )
    needed = {"tpm": {"pcrs": [16]}, "reference": [reference(pcrs={"0": PCRS[0].hex()})]}
    assert judged(policy=needed).reasons == (Reason.PCR_NOT_ALLOWED,)


def test_an_event_log() -> None:
    """A log that replays to the quoted PCRs proves what a reference names."""
    policy = {"reference": [reference(boot={"kernel_cmdline": CMDLINE, "secure_boot": True})]}

    assert judged(logged(), policy).verdict is Verdict.ACCEPT
    missing = replace(logged(), event_log=b"")
    assert judged(missing, policy).reasons == (Reason.EVENT_LOG_MISSING,)
    other = replace(logged(), event_log=tpm_log().add(8, 0xD, b"more").raw)
    assert judged(other, policy).reasons == (Reason.EVENT_LOG_MISMATCH, Reason.EVENT_LOG_MISSING)
    refused(Reason.MALFORMED, replace(logged(), event_log=b"x"))


# The command line.


def files(folder: Path, evidence: TpmEvidence = GOOD) -> list[str]:
    told = {"bank": "sha256", "pcrs": {str(n): v.hex() for n, v in PCRS.items()}}
    parts = {"--attest": evidence.attest, "--signature": evidence.signature, "--ak": evidence.ak}
    found = ["verify", "tpm", "--at", "2026-03-31T23:33:20Z", "--json"]
    for option, raw in (*parts.items(), ("--pcrs", json.dumps(told).encode())):
        assert raw is not None
        path = folder / option.strip("-")
        path.write_bytes(raw)
        found += [option, str(path)]
    return found


def test_the_command_line(tmp_path: Path) -> None:
    """`ostiary verify tpm` accepts a good quote and tells its fields."""
    status, out, _ = run_cli([*files(tmp_path), "--nonce", NONCE.hex()])

    assert status == 0
    assert json.loads(out)["claims"]["attest"]["extra_data"] == NONCE.hex()
    assert run_cli([*files(tmp_path), "--no-nonce"])[0] == 0
    assert run_cli([*files(tmp_path), "--nonce", "00"])[0] == 1
    assert run_cli(files(tmp_path))[0] == 1


def test_the_command_lines_chain(tmp_path: Path) -> None:
    """A simulated maker's root is unknown to the command line."""
    evidence = certified()
    issuers = []
    for number, der in enumerate(evidence.ak_issuers):
        path = tmp_path / f"issuer{number}"
        path.write_bytes(der)
        issuers.append(str(path))
    arguments = [*files(tmp_path, evidence), "--nonce", NONCE.hex(), "--ak-chain", *issuers]
    status, out, _ = run_cli(arguments)
    assert (status, json.loads(out)["reasons"]) == (1, ["root_unknown"])

    certificate = tmp_path / "certificate"
    certificate.write_bytes((evidence.ak or b"") + bytes(100))
    log = tmp_path / "log"
    log.write_bytes(LOG.raw)
    more = ["--ak-certificate", str(certificate), "--event-log", str(log)]
    assert run_cli([*arguments, *more])[0] == 1


def test_what_the_command_line_cannot_read(tmp_path: Path) -> None:
    """Hex, JSON and files that are none have status 2; a cut quote is a reject."""
    good = files(tmp_path)
    assert run_cli([*good, "--nonce", "x"])[0] == 2
    assert run_cli([*good, "--nonce", "00", "--pcrs", "/nowhere"])[0] == 2
    assert run_cli([*good, "--nonce", "00", "--attest", "/nowhere"])[0] == 2
    (tmp_path / "pcrs").write_text("{")
    assert run_cli([*good, "--nonce", "00"])[0] == 2
    only = ["verify", "tpm", "--at", "2026-03-31T23:33:20Z", "--attest", str(tmp_path / "ak")]
    assert run_cli(only)[0] == 1
