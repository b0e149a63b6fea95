"""Ours beside dcap-qvl, an independent verifier, on every real quote that it can take.

It verifies and reports a TCB status; it has no policy. So what must agree is status and advisories
where it verified, and a refusal of ours where it refused. Where it cannot agree, the reason stands
in `EXPLAINED`, line by line; one that is not needed any more fails too.
"""

from __future__ import annotations

import json

import dcap_qvl
import pytest

from tests.kit.corpus import ABSENT, NAMES, Case, load, run_cli
from verifier.tdx import quote as quotes

INTEL = [name for name in NAMES if name.startswith(("tdx/", "sgx/"))]
CASES = [
    name for name in INTEL if load(name).has("quote.bin") and load(name).has("collateral.json")
]

EXPLAINED = {
    "sgx/v3-00606a-debug-occlum": "it stops at debug; we also tell the TCB status",
    "tdx/v4-50806f-debug-td": "it stops at debug; we also tell the TCB status",
    "sgx/v3-00606a-oasis-2022-no-crl": "it cannot read collateral without CRLs; we tell the rest",
    "tdx/v4-c0806f-oasis-no-crl": "it cannot read collateral without CRLs; we tell the rest",
    "tdx/v4-c0806f-trailing-zeros": "it cannot read collateral without CRLs; we tell the rest",
}
"""Where it says less than we do: both refuse, and ours has a status that it does not give."""


def peer(case: Case) -> tuple[str, list[str]] | None:
    """Return dcap-qvl's status and advisories, or None where it refuses."""
    raw = case.read("quote.bin")
    read = quotes.parse(raw) if case.tee == "tdx" else quotes.parse_sgx(raw)
    try:
        collateral = dcap_qvl.QuoteCollateralV3.from_json(case.read("collateral.json").decode())
        # It takes no zeros after the quote.
        found = dcap_qvl.verify(raw[: len(raw) - read.padding], collateral, case.now)
    except ValueError:
        return None
    return found.status, sorted(found.advisory_ids)


@pytest.mark.skipif(not NAMES, reason=ABSENT)
@pytest.mark.parametrize("name", CASES)
def test_agreement(name: str, row: dict[str, tuple[str, ...]]) -> None:
    """Status and advisories are dcap-qvl's; what it refuses we refuse; the rest is explained."""
    case = load(name)
    theirs = peer(case)
    told = json.loads(run_cli(case.arguments())[1])
    ours = None
    if told["tcb_status"] is not None:
        ours = told["tcb_status"], sorted(told["advisory_ids"])
    row[f"{name} (dcap-qvl)"] = (
        "refused" if theirs is None else theirs[0],
        told["verdict"],
        told["tcb_status"] or "-",
        EXPLAINED.get(name, "agree"),
    )

    if name in EXPLAINED:
        assert theirs is None
        assert ours is not None
        assert told["verdict"] == "reject"
    elif theirs is None:
        assert (ours, told["verdict"]) == (None, "reject")
    else:
        assert theirs == ours


def test_every_explanation_is_of_a_case() -> None:
    """Nothing is explained that is not there."""
    assert not NAMES or set(CASES) >= EXPLAINED.keys()
