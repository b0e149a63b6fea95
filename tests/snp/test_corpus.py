"""Recorded reports give their verdicts and claims, and nothing near them is accepted."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kit.snp import appraise, case_folders, genuine_folders, load_case, open_policy, splice
from verifier.cache import Cache
from verifier.errors import Reason
from verifier.result import Verdict
from verifier.snp import SnpEndorsements

SHARED = Cache()


@pytest.mark.parametrize("folder", case_folders())
def test_verdict(folder: Path) -> None:
    """Every case gets its verdict under strict defaults: only `accept` is accepted."""
    case = load_case(folder)

    result = appraise(case.report, case.endorsements, now=case.now)

    wanted = Verdict.ACCEPT if case.expected["verdict"] == "accept" else Verdict.REJECT
    assert (result.verdict, result.tcb_status) == (wanted, None), result.reasons


@pytest.mark.parametrize("folder", case_folders())
def test_claims(folder: Path) -> None:
    """The claims are the case's fields, also where the report is refused."""
    case = load_case(folder)

    result = appraise(case.report, case.endorsements, now=case.now)

    fields = case.expected["fields"]
    assert {name: result.claims.get(name) for name in fields} == fields


@pytest.mark.parametrize("folder", genuine_folders())
def test_genuine_under_open_policy(folder: Path) -> None:
    """Every report with a good signature is accepted once policy admits what it is."""
    case = load_case(folder)
    policy = open_policy(case.report)

    result = appraise(
        case.report, case.endorsements, now=case.now, policy=policy, report_data=case.report[80:144]
    )

    assert result.verdict is Verdict.ACCEPT, result.reasons
    assert result.claims["product"] == case.about["generation"]
    assert not result.simulated
    assert result.expires is not None
    assert result.expires > case.now


@pytest.mark.parametrize("folder", genuine_folders())
@pytest.mark.parametrize("crl_required", [True, False])
def test_missing_crl(folder: Path, crl_required: bool) -> None:
    """Without a CRL a report is refused, unless the caller waived it; then the result says so."""
    case = load_case(folder)
    assert case.endorsements is not None
    endorsements = replace(case.endorsements, crl=None, crl_required=crl_required)

    result = appraise(case.report, endorsements, now=case.now, policy=open_policy(case.report))

    if crl_required:
        assert result.reasons == (Reason.CRL_MISSING,)
    else:
        assert result.verdict is Verdict.ACCEPT
        (check,) = (check for check in result.checks if check.name == "revocation")
        assert check.ok is None
        assert "revocation not judged (--no-crl)" in check.expected


def _edit(raw: bytes, operation: str) -> bytes:
    """Apply an edit as case.json writes it: `byte 42 += 1`, `byte 21 ^= 0x80`."""
    match = re.fullmatch(r"byte (\d+)(?: \(\w+\))? (\+|\^)= (\w+)", operation)
    assert match is not None, operation
    offset, number = int(match[1]), int(match[3], 0)
    old = raw[offset]
    return splice(raw, offset, bytes([(old + number) % 256 if match[2] == "+" else old ^ number]))


_WANTED = {
    "signature failure": {Reason.SIGNATURE_INVALID},
    "TCB mismatch": {Reason.TCB_MISMATCH},
    "TCB mismatch with VCEK": {Reason.TCB_MISMATCH},
    "VCEK signature failure": {Reason.CHAIN_INVALID, Reason.CERTIFICATE_INVALID},
}


@pytest.mark.parametrize("folder", genuine_folders())
def test_listed_negatives(folder: Path) -> None:
    """The edits that a case lists are refused for the reason that it gives."""
    case = load_case(folder)
    assert case.endorsements is not None

    for negative in case.expected.get("negatives", ()):
        report, endorsements = case.report, case.endorsements
        if negative["edit"].startswith("VCEK "):
            vek = _edit(endorsements.vek, negative["edit"].removeprefix("VCEK "))
            endorsements = replace(endorsements, vek=vek)
        else:
            report = _edit(report, negative["edit"])
        result = appraise(report, endorsements, now=case.now, policy=open_policy(report))
        assert set(result.reasons) <= _WANTED[negative["want"]], negative
        assert result.verdict is Verdict.REJECT


@pytest.mark.parametrize("folder", genuine_folders())
@given(index=st.integers(0, 0x4A0 * 8 - 1))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_one_flipped_bit(folder: Path, index: int) -> None:
    """No report with one bit flipped, wherever it is, is genuine."""
    case = load_case(folder)
    flipped = splice(case.report, index // 8, bytes([case.report[index // 8] ^ 1 << index % 8]))

    result = appraise(
        flipped, case.endorsements, now=case.now, policy=open_policy(flipped), cache=SHARED
    )

    assert result.verdict is Verdict.REJECT
    assert not any(check.name == "report signature" and check.ok for check in result.checks)


@pytest.mark.parametrize("part", ["vek", "ask", "ark", "crl"])
@pytest.mark.parametrize("folder", genuine_folders())
@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_one_flipped_bit_of_collateral(folder: Path, part: str, data: st.DataObject) -> None:
    """No certificate or CRL with one bit flipped is believed, cached originals or not."""
    case = load_case(folder)
    assert case.endorsements is not None
    raw = getattr(case.endorsements, part)
    if raw is None:
        return
    index = data.draw(st.integers(0, len(raw) * 8 - 1))
    flipped = splice(raw, index // 8, bytes([raw[index // 8] ^ 1 << index % 8]))
    changes: dict[str, Any] = {part: flipped}
    endorsements = replace(case.endorsements, **changes)

    result = appraise(
        case.report, endorsements, now=case.now, policy=open_policy(case.report), cache=SHARED
    )

    assert result.verdict is Verdict.REJECT


@pytest.mark.parametrize("folder", case_folders())
def test_every_length(folder: Path) -> None:
    """A report that is cut short or goes on is refused, at every length."""
    case = load_case(folder)

    reasons = {
        appraise((case.report + bytes(64))[:length], case.endorsements, now=case.now).reasons
        for length in range(len(case.report))
    }
    longer = {
        appraise(case.report + bytes(extra), case.endorsements, now=case.now).reasons
        for extra in (1, 2, 16, 56, 4096)
    }

    assert reasons == {(Reason.MALFORMED,)}
    assert longer == {(Reason.TRAILING_DATA,)}


@pytest.mark.parametrize("folder", genuine_folders())
def test_dates(folder: Path) -> None:
    """A second before the chain or CRL begins, or after it ends, the report is refused."""
    case = load_case(folder)
    assert case.endorsements is not None
    policy = open_policy(case.report)
    ends = appraise(case.report, case.endorsements, now=case.now, policy=policy).expires
    assert ends is not None
    cache = Cache()

    at_end = appraise(case.report, case.endorsements, now=ends, policy=policy, cache=cache)
    after = appraise(case.report, case.endorsements, now=ends + 1, policy=policy, cache=cache)
    early = appraise(case.report, case.endorsements, now=0, policy=policy, cache=cache)

    assert at_end.verdict is Verdict.ACCEPT
    assert set(after.reasons) <= {Reason.CRL_EXPIRED, Reason.CERTIFICATE_EXPIRED}
    assert after.verdict is Verdict.REJECT
    assert early.reasons == (Reason.CERTIFICATE_INVALID,)


@pytest.mark.parametrize("folder", genuine_folders())
def test_foreign_collateral(folder: Path) -> None:
    """Collateral of any other recorded case never vouches for a report."""
    case = load_case(folder)
    others = [load_case(parameter.values[0]) for parameter in genuine_folders()]
    assert case.endorsements is not None

    for other in others:
        if other.endorsements is None or other.endorsements.vek == case.endorsements.vek:
            continue
        endorsements = replace(other.endorsements, crl=None, crl_required=False)
        result = appraise(
            case.report, endorsements, now=case.now, policy=open_policy(case.report), cache=SHARED
        )
        assert result.verdict is Verdict.REJECT, other.name


@pytest.mark.parametrize("folder", genuine_folders())
def test_cache_changes_nothing(folder: Path) -> None:
    """A remembered chain gives the same result to the last byte, and order still counts."""
    case = load_case(folder)
    assert case.endorsements is not None
    cache = Cache()

    results = [
        appraise(case.report, case.endorsements, now=case.now, cache=used).to_json()
        for used in (None, cache, cache)
    ]
    swapped = SnpEndorsements(
        case.endorsements.ask,
        case.endorsements.vek,
        case.endorsements.ark,
        None,
        crl_required=False,
    )

    assert results[0] == results[1] == results[2]
    assert appraise(case.report, swapped, now=case.now, cache=cache).verdict is Verdict.REJECT
