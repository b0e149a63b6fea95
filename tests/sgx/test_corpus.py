"""What the recorded SGX cases say beside their verdict: times, edits and policies that refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.kit import corpus
from tests.kit.tdx import refused
from verifier.appraise import Evidence, appraise
from verifier.errors import Reason
from verifier.policy import AppraisalPolicy, SgxReference, SgxRules
from verifier.result import AttestationResult, TcbStatus
from verifier.tdx import collateral as collaterals
from verifier.wire.canonical import Hex

OASIS = "sgx/v3-00606a-oasis-2022-no-crl"
pytestmark = pytest.mark.skipif(not corpus.NAMES, reason=corpus.ABSENT)


def judged(
    name: str,
    *,
    at: int | None = None,
    policy: AppraisalPolicy | None = None,
    **replaced: str,
) -> AttestationResult:
    """Return the result for a case, at another time or with parts of its collateral replaced."""
    case = corpus.load(name)
    told: dict[str, Any] = json.loads(case.read("collateral.json")) | replaced
    return appraise(
        Evidence("sgx", case.read("quote.bin")),
        collaterals.from_json(json.dumps(told).encode()),
        policy=policy,
        report_data=None,
        now=case.now if at is None else at,
    )


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (1_891_163_522, Reason.CERTIFICATE_EXPIRED),
        (1_670_238_720, Reason.COLLATERAL_NOT_YET_VALID),
        (1_671_194_735, Reason.COLLATERAL_NOT_YET_VALID),
        (1_673_786_737, Reason.COLLATERAL_EXPIRED),
    ],
    ids=["expired", "before the PCK", "before the QE identity", "after the QE identity"],
)
def test_times_at_which_it_does_not_count(at: int, reason: Reason) -> None:
    """The source's four moments are refused; whatever ends first is named."""
    assert refused(judged(OASIS, at=at), reason)


def test_another_signing_chain_is_refused() -> None:
    """The source's wrong TCB signing chain."""
    case = corpus.load(OASIS)
    bad = case.read("tcb_chain_bad.pem").decode()

    result = judged(OASIS, tcb_info_issuer_chain=bad)

    assert result.reasons[0] in (Reason.CHAIN_INVALID, Reason.COLLATERAL_SIGNATURE)


@pytest.mark.parametrize(("part", "at"), [("tcb_info", 16), ("qe_identity", 22)])
def test_one_letter_of_a_signed_document_counts(part: str, at: int) -> None:
    """The source's two edits."""
    told = json.loads(corpus.load(OASIS).read("collateral.json"))
    text = told[part]
    edited = {part: text[:at] + "x" + text[at + 1 :]}

    assert refused(judged(OASIS, **edited), Reason.COLLATERAL_SIGNATURE)


def test_the_evaluation_number_has_a_floor() -> None:
    """A policy that asks for 100 is not met."""
    reference = SgxReference(
        name="oasis", mrenclave=Hex(bytes.fromhex(corpus.load(OASIS).expected["mrenclave"]))
    )
    policy = AppraisalPolicy(
        sgx=SgxRules(
            min_tcb_evaluation_number=100,
            advisories_allowed=("INTEL-SA-00615", "INTEL-SA-00657"),
        ),
        reference=(reference,),
    )

    result = judged(OASIS, policy=policy)

    assert refused(result, Reason.CRL_MISSING, Reason.COLLATERAL_TOO_OLD)
    assert result.tcb_status is TcbStatus.SW_HARDENING_NEEDED


def test_the_status_is_told_of_a_debug_enclave_too() -> None:
    """DEBUG refuses it, and the platform is judged all the same."""
    name = "sgx/v3-00606a-debug-occlum"
    expected = corpus.load(name).expected["tcb_status_if_debug_allowed"]
    allowed = AppraisalPolicy(sgx=SgxRules(allow_debug=True))

    assert judged(name).tcb_status == expected
    assert Reason.DEBUG_ENABLED in judged(name).reasons
    assert Reason.DEBUG_ENABLED not in judged(name, policy=allowed).reasons
