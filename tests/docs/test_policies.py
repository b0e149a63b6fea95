"""Example policies are policies, and every value in them is from where they say."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from ostiary import vendor
from tests.kit import nvgpu
from tests.kit.documents import ROOT, example_policies
from verifier.appraise import Evidence, appraise
from verifier.errors import Reason
from verifier.policy import AppraisalPolicy, SnpReference, SnpTcb, TdxReference, from_toml
from verifier.result import Verdict
from verifier.snp import SnpEndorsements
from verifier.tdx import collateral
from verifier.wire import binding

POLICIES = ROOT / "policies"
RECORDED = {
    "tdx-gcp-cos-113.toml": Path("tdx/v4-00806f-cos113-ccel"),
    "snp-genoa.toml": Path("snp/v3-genoa-vcek-ms"),
}


def read(name: str) -> AppraisalPolicy:
    return from_toml((POLICIES / name).read_bytes())


def test_strict_defaults_are_the_defaults() -> None:
    """The file with every default says exactly what a policy that says nothing means."""
    assert read("strict-defaults.toml") == AppraisalPolicy()


@pytest.mark.parametrize("table", ["tdx", "snp", "sgx", "gpu"])
def test_strict_defaults_name_every_rule(table: str) -> None:
    """No rule is missing from it; one without a default stands there as a comment."""
    text = (POLICIES / "strict-defaults.toml").read_text()
    rules = getattr(AppraisalPolicy(), table)
    unset = {name for name in rules.__struct_fields__ if getattr(rules, name) is None}

    assert set(tomllib.loads(text)[table]) | unset == set(rules.__struct_fields__)
    assert all(f"\n# {name} = " in text for name in unset)


@pytest.mark.parametrize("path", [path for path, _ in example_policies()], ids=lambda p: p.name)
def test_every_value_has_its_reason(path: Path) -> None:
    """A comment stands above every value, or above the group of values that it begins."""
    bare, commented = [], False
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            commented = True
        elif not line.strip() or line.startswith("["):
            commented = False
        elif not commented and not re.match(r"(kind|name) = ", line):
            bare.append(line)

    assert bare == []


@pytest.mark.parametrize("name", RECORDED)
def test_values_are_the_recorded_ones(name: str, evidence_dir: Path) -> None:
    """Reference values equal the fields of the evidence, and the source is the one named."""
    case = json.loads((evidence_dir / RECORDED[name] / "case.json").read_text())
    fields = case["expected"]["fields"]
    fields = fields.get("body", fields)
    (value,) = read(name).reference
    source = case["source"][0]
    text = (POLICIES / name).read_text()

    assert isinstance(value, TdxReference | SnpReference)
    said = {what: getattr(value, what) for what in value.__struct_fields__ if what != "name"}
    assert {k: v.hex() for k, v in said.items() if v is not None}.items() <= fields.items()
    assert source["commit"] in text
    assert source["path"] in text


def test_tdx_policy_accepts_its_machine(evidence_dir: Path) -> None:
    """The TDX example accepts the quote that it was written from, and no other one."""
    folder = evidence_dir / RECORDED["tdx-gcp-cos-113.toml"]
    now = json.loads((folder / "case.json").read_text())["verification_time"]["unix"]
    found = collateral.from_json((folder / "collateral.json").read_bytes())
    policy = read("tdx-gcp-cos-113.toml")
    other = (evidence_dir / "tdx/v4-00806f-gcp-uptodate-2026-01/quote.bin").read_bytes()

    quotes = ((folder / "quote.bin").read_bytes(), other)
    verdicts = [
        appraise(Evidence("tdx", raw), found, policy=policy, report_data=None, now=now).verdict
        for raw in quotes
    ]
    assert verdicts == [Verdict.ACCEPT, Verdict.REJECT]


def test_snp_policy_accepts_its_machine(evidence_dir: Path) -> None:
    """The SNP example accepts the report that it was written from; its TCB floor is no higher."""
    folder = evidence_dir / RECORDED["snp-genoa.toml"]
    case = json.loads((folder / "case.json").read_text())
    vek, ask, ark = ((folder / f"{name}.der").read_bytes() for name in ("vcek", "ask", "ark"))
    policy = read("snp-genoa.toml")

    result = appraise(
        Evidence("snp", (folder / "report.bin").read_bytes()),
        SnpEndorsements(vek=vek, ask=ask, ark=ark, crl=None, crl_required=False),
        policy=policy,
        report_data=None,
        now=case["verification_time"]["unix"],
    )
    assert result.verdict is Verdict.ACCEPT
    assert policy.snp.min_tcb["Genoa"] == SnpTcb(
        **case["expected"]["fields"]["reported_tcb_decoded"]
    )


def test_gpu_policy_fits_its_board(evidence_dir: Path) -> None:
    """Nothing of the recorded board breaks the GPU example but that its RIMs were not recorded."""
    name = "hgx/hgx8-h100-4xls10-ppcie-590.12"
    folder = evidence_dir / "nvidia" / name
    source = json.loads((folder / "case.json").read_text())["source"]
    text = (POLICIES / "gpus-hgx-h100.toml").read_text()
    checks = nvgpu.load(name).judge(policy=read("gpus-hgx-h100.toml")).checks
    failed = {check.reason for check in checks if check.ok is False}

    assert failed == {Reason.COLLATERAL_MISSING}
    assert {c.name for c in checks if c.ok} >= {"gpu[7].driver", "switch[3].vbios", "gpus.count"}
    assert source["commit"] in text
    assert all(path.rpartition("/")[2] in text for path in source["paths"])


def test_release_example_is_clean() -> None:
    """The release policy parses, and lint has nothing to object to."""
    policy = vendor.read_policy_file((POLICIES / "release-example.toml").read_bytes())

    assert vendor.lint(policy) == []


def test_release_example_names_what_it_says() -> None:
    """Its anchor, manifest and measurements are those that its comments name."""
    policy = vendor.read_policy_file((POLICIES / "release-example.toml").read_bytes())
    (value,) = policy.appraisal.reference
    (recorded,) = read("tdx-gcp-cos-113.toml").reference

    assert isinstance(value, TdxReference)
    assert isinstance(recorded, TdxReference)
    assert value.mr_config_id == binding.anchor(b"\x11" * 32, b"\x22" * 32)
    assert [value.mr_td, value.rtmr0, value.rtmr1, value.rtmr2] == [
        recorded.mr_td,
        recorded.rtmr0,
        recorded.rtmr1,
        recorded.rtmr2,
    ]
    spec = (ROOT / "inference_runtime/sealed/SPEC.md").read_text()
    assert policy.manifests[0].hex() in spec


def test_policies_readme_lists_every_example() -> None:
    """The folder's page names every file in it."""
    listed = set(re.findall(r"\]\((\S+\.toml)\)", (POLICIES / "README.md").read_text()))

    assert listed == {path.name for path in POLICIES.glob("*.toml")}
