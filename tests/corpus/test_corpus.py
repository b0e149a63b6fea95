"""Every TDX, SGX and SNP case of the corpus, through the command line, against its `case.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kit import corpus
from tests.kit.corpus import Case

VERDICTS = {
    "accept": "accept",
    "policy": "accept",
    "reject": "reject",
    "reject-by-default-policy": "reject",
    "accept-if-v2-allowed": "reject",
    "accept-if-crl-optional": "reject",
    "parse-only": "reject",
    "unsupported": "unsupported",
}
"""What the default policy makes of the corpus' verdict words."""

EXITS = {"accept": 0, "reject": 1, "unsupported": 3}


def wanted(case: Case) -> tuple[str, str]:
    """Return the verdict to expect and, where it is not the corpus' own word, why."""
    verdict = VERDICTS[case.expected["verdict"]]
    if case.tee == "tdx" and case.has("collateral.json"):
        collateral = json.loads(case.read("collateral.json"))
        if not (collateral["root_ca_crl"] and collateral["pck_crl"]):
            # Intel collateral without its CRLs is always refused, so that `policy` (zeros after
            # the quote) cannot be seen to accept here; `test_zeros_after_the_quote` shows it.
            return "reject", "its collateral has no CRLs"
    return verdict, ""


def differences(expected: Any, seen: Any, path: str = "") -> list[str]:
    """Return where `seen` lacks or contradicts a value of `expected`."""
    if isinstance(expected, dict):
        if not isinstance(seen, dict):
            return [f"{path}: {seen!r}"]
        return [
            line
            for key, value in expected.items()
            for line in differences(value, seen.get(key, "absent"), f"{path}.{key}")
        ]
    return [] if expected == seen else [f"{path}: {expected!r} expected, {seen!r} seen"]


def fields(told: Any) -> int:
    return sum(fields(value) for value in told.values()) if isinstance(told, dict) else 1


@pytest.mark.skipif(not corpus.NAMES, reason=corpus.ABSENT)
@pytest.mark.parametrize("name", corpus.NAMES or ["absent"])
def test_case(name: str, row: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    """A corpus case gets its verdict, TCB status, advisories and every parsed field."""
    case = corpus.load(name)
    expected = case.expected
    verdict, why = wanted(case)

    alone = case.tee == "sgx" and not case.has("quote.bin")
    arguments = corpus.legacy_sgx_arguments(case, tmp_path) if alone else case.arguments()
    status, out, err = corpus.run_cli(arguments)
    result = json.loads(out) if out else {}
    wrong = differences(expected.get("fields", {}), result.get("claims", {}), "claims")
    reasons = ", ".join(result.get("reasons", [err.strip()]))
    row[name] = (
        expected["verdict"],
        result.get("verdict", f"exit {status}"),
        result.get("tcb_status") or "-",
        f"{reasons or '-'}; {fields(expected.get('fields', {}))} fields, {len(wrong)} differ"
        + (f" ({why})" if why else ""),
    )

    assert result.get("verdict") == verdict, (reasons, out[:2000], err)
    assert status == EXITS[verdict]
    if expected.get("tcb_status") is not None:
        assert result["tcb_status"] == expected["tcb_status"]
    if "advisory_ids" in expected:
        assert result["advisory_ids"] == sorted(expected["advisory_ids"])
    if why:
        assert result["reasons"] == ["crl_missing"]
    assert wrong == []


@pytest.mark.skipif(not corpus.NAMES, reason=corpus.ABSENT)
@pytest.mark.parametrize(
    "name", ["tdx/v4-00806f-cos113-ccel", "tdx/v4-90c06f-dstack-report", "tdx/v4-b0c06f-uptodate"]
)
def test_zeros_after_the_quote(name: str) -> None:
    """Zeros after a quote are accepted where everything else is good, CRLs included."""
    case = corpus.load(name)
    assert case.expected["fields"]["trailing_bytes"] > 0

    status, out, _ = corpus.run_cli(case.arguments())

    assert status == 0
    assert json.loads(out)["claims"]["trailing_bytes"] == case.expected["fields"]["trailing_bytes"]
