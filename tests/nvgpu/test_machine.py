"""A machine and its GPUs are judged as one, and fresh as one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.kit import nvgpu, vendors
from tests.kit.tdx import collateral
from verifier.anchors import Anchors
from verifier.appraise import Evidence, appraise
from verifier.cache import Cache
from verifier.errors import VerifierError
from verifier.nvgpu.appraise import appraise as appraise_set
from verifier.policy import AppraisalPolicy, GpuRules, from_mapping
from verifier.result import AttestationResult, Verdict

NOW = vendors.NOW
DATA = bytes(range(64))
FOUR = nvgpu.make(4, "mpt")
GOOD = collateral()


def anchors() -> Anchors:
    return vendors.anchors().with_simulated(
        nvidia_device=[nvgpu.vendor().device_root_pin], nvidia_rim=[nvgpu.vendor().rim_root_pin]
    )


def judge(**changes: Any) -> AttestationResult:
    """Appraise a TD with four GPUs; there is no policy, so that the TD's image is not judged."""
    gpus = tuple(nvgpu.evidence(each) for each in FOUR.devices)
    arguments: dict[str, Any] = {
        "evidence": Evidence("tdx", vendors.good_quote(DATA), gpus=gpus),
        "endorsements": GOOD,
        "policy": None,
        "report_data": DATA,
        "gpu_nonce": nvgpu.NONCE,
        "gpu_endorsements": nvgpu.endorse(FOUR, NOW),
        "now": NOW,
        "anchors": anchors(),
    }
    return appraise(**(arguments | changes))


def reasons(result: AttestationResult) -> list[str]:
    return [reason.value for reason in result.reasons]


def test_machine_with_gpus() -> None:
    """A good machine with good GPUs is accepted, and tells of each device."""
    result = judge()

    assert (result.verdict, reasons(result)) == (Verdict.ACCEPT, [])
    assert [each["verdict"] for each in result.claims["devices"]] == ["accept"] * 4
    assert result.kind == "tdx"
    assert result.simulated


def test_bad_gpus_deny_the_machine() -> None:
    """A set that nobody asked for is judged all the same: one bad device denies."""
    gpus = tuple(nvgpu.evidence(each, bytes(32)) for each in FOUR.devices[:1])
    evidence = Evidence("tdx", vendors.good_quote(DATA), gpus=gpus)

    assert reasons(judge(evidence=evidence)) == ["nonce_mismatch"]
    assert reasons(judge(gpu_endorsements=None)) == ["collateral_missing", "revocation_missing"]
    many = replace(evidence, gpus=gpus * 200)
    assert reasons(judge(evidence=many)) == ["too_large"]


def test_freshness_of_both() -> None:
    """Where the machine must be fresh its GPUs must be: no GPU nonce is a refusal."""
    assert reasons(judge(gpu_nonce=None)) == ["nonce_missing"]
    assert judge(gpu_nonce=None, report_data=None).verdict is Verdict.ACCEPT


def test_machine_that_is_not_genuine() -> None:
    """Good GPUs make nothing of a machine that is not genuine."""
    gpus = tuple(nvgpu.evidence(each) for each in FOUR.devices)
    sent = judge(evidence=Evidence("tdx", b"junk", gpus=gpus))
    other = judge(evidence=Evidence("snp", b"junk", gpus=gpus))

    assert (sent.verdict, other.verdict) == (Verdict.REJECT, Verdict.REJECT)
    assert [each["verdict"] for each in sent.claims["devices"]] == ["accept"] * 4


def test_no_evidence_is_not_no_gpus_needed() -> None:
    """A policy that asks for GPUs denies a machine that sends none, and the other way round."""
    bare = Evidence("tdx", vendors.good_quote(DATA))
    asks = AppraisalPolicy(gpu=GpuRules(count=4))
    nobody = AppraisalPolicy()

    assert "gpu_evidence_missing" in reasons(judge(evidence=bare, policy=asks))
    assert "gpu_count" in reasons(judge(policy=nobody))
    assert "gpu_evidence_missing" not in reasons(judge(evidence=bare, policy=nobody))


def test_the_cache_changes_nothing_but_the_time() -> None:
    """Cold and warm give the same result, byte for byte."""
    cache = Cache()
    sent = [nvgpu.evidence(each) for each in FOUR.devices]
    arguments: dict[str, Any] = {
        "policy": None,
        "nonce": nvgpu.NONCE,
        "now": nvgpu.NOW,
        "anchors": nvgpu.anchors(),
    }
    cold = appraise_set(sent, nvgpu.endorse(FOUR), **arguments)
    given = nvgpu.endorse(FOUR)
    first = appraise_set(sent, given, cache=cache, **arguments)
    kept = len(cache)
    warm = appraise_set(sent, given, cache=cache, **arguments)

    assert first.to_json() == warm.to_json()
    assert cold.claims == warm.claims
    assert len(cache) == kept
    elsewhere = appraise_set(
        sent, given, cache=cache, **(arguments | {"anchors": vendors.anchors()})
    )
    assert reasons(elsewhere) == ["root_unknown"]


@pytest.mark.parametrize(
    "gpu",
    [
        {"count": -1},
        {"count": 65},
        {"switches": 65, "count": 8},
        {"switches": 4},
        {"count": 8, "switches": 4, "modes": ["spt"]},
        {"ocsp_grace": -1},
        {"device_ids": ["00" * 8]},
        {"rims": ["00" * 31]},
        {"expired_rims": ["00" * 33]},
        {"min_driver": "590"},
        {"min_driver": "590.12 "},
        {"min_vbios": {"GH100": "96.00.a5.00.01"}},
        {"archs": ["rubin"]},
        {"modes": ["off"]},
        {"surprise": 1},
    ],
    ids=str,
)
def test_rules_of_no_sense(gpu: dict[str, Any]) -> None:
    """Rules that contradict themselves, or that nobody could check, are no policy."""
    with pytest.raises(VerifierError):
        from_mapping({"gpu": gpu})


def test_rules_in_a_policy() -> None:
    """Rules are read from a policy; what is left out is strict."""
    read = from_mapping(
        {
            "gpu": {
                "count": 8,
                "switches": 4,
                "modes": ["ppcie"],
                "min_driver": "590.12",
                "min_vbios": {"GH100": "96.00.A5.00.01", "LS10": "96.10.73.00.01"},
                "device_ids": ["41" + "00" * 8],
            }
        }
    ).gpu

    assert (read.count, read.switches, read.require_fwid, read.require_revocation) == (
        8,
        4,
        True,
        True,
    )
    assert (read.allow_hold_rim, read.ocsp_grace, read.expired_rims) == (False, 0, ())
