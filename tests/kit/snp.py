"""SEV-SNP for tests: the recorded cases, and one call that appraises as the program does."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from verifier.anchors import PINNED, Anchors
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.policy import AppraisalPolicy, SnpReference, SnpRules
from verifier.result import Appraisal, AttestationResult
from verifier.snp import SnpEndorsements, appraise_snp
from verifier.wire.canonical import Hex

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / os.environ.get("OSTIARY_EVIDENCE_DIR", "../shared/evidence") / "snp"
NO_EVIDENCE = f"no recorded evidence in {EVIDENCE}: set OSTIARY_EVIDENCE_DIR"

AMAZON = "CN=cc-us-east-2.amazonaws.com"


@dataclass(frozen=True)
class Case:
    """One recorded report with its collateral and what its case.json says of it."""

    name: str
    about: dict[str, Any]
    report: bytes
    endorsements: SnpEndorsements | None

    @property
    def now(self) -> int:
        return int(self.about["verification_time"]["unix"])

    @property
    def expected(self) -> dict[str, Any]:
        return dict(self.about["expected"])


def _read(folder: Path, *names: str) -> bytes | None:
    for name in names:
        if (folder / name).exists():
            return (folder / name).read_bytes()
    return None


def load_case(folder: Path) -> Case:
    """Read one case; without a CRL in it, revocation is waived as `--no-crl` would."""
    report = _read(folder, "report.bin")
    assert report is not None
    vek = _read(folder, "vcek.der", "vlek.der")
    ask = _read(folder, "ask.der", "asvk.der")
    ark = _read(folder, "ark.der")
    crl = _read(folder, "crl.der")
    endorsements = None
    if vek is not None:
        assert ask is not None
        assert ark is not None
        endorsements = SnpEndorsements(vek, ask, ark, crl, crl_required=crl is not None)
    about = json.loads((folder / "case.json").read_text())
    return Case(folder.name, about, report, endorsements)


def case_folders() -> list[Any]:
    """Return one pytest parameter per case, or one that skips and says why."""
    folders = sorted(path.parent for path in EVIDENCE.glob("*/case.json"))
    if not folders:
        return [pytest.param(None, marks=pytest.mark.skip(reason=NO_EVIDENCE))]
    return [pytest.param(folder, id=folder.name) for folder in folders]


def genuine_folders() -> list[Any]:
    """Like `case_folders`, but only cases whose signatures are good."""
    parameters = [
        parameter
        for parameter in case_folders()
        if parameter.values[0] is None
        or json.loads((parameter.values[0] / "case.json").read_text())["validated"].get(
            "report_signature"
        )
        is True
    ]
    assert parameters
    return parameters


def open_policy(report: bytes | None = None, **rules: Any) -> AppraisalPolicy:
    """Return a policy that admits every genuine report; with `report`, only its measurement."""
    everything: dict[str, Any] = {
        "report_versions": (2, 3, 4, 5),
        "signing_keys": ("VCEK", "VLEK"),
        "csps": (AMAZON,),
        "max_vmpl": 3,
        "allow_debug": True,
        "allow_provisional_firmware": True,
        "allow_masked_chip_id": True,
    }
    measurement = bytes(48) if report is None else report[0x90:0xC0]
    return AppraisalPolicy(
        snp=SnpRules(**everything | rules),
        reference=(SnpReference(name="image", measurement=Hex(measurement)),),
    )


def appraise(
    report: bytes,
    endorsements: SnpEndorsements | None,
    *,
    now: int,
    policy: AppraisalPolicy | None = None,
    report_data: bytes | None = None,
    anchors: Anchors = PINNED,
    cache: Cache | None = None,
) -> AttestationResult:
    """Appraise as the program does: the error that stops it becomes a failed check."""
    appraisal = Appraisal("snp")
    try:
        appraise_snp(
            appraisal,
            report,
            endorsements,
            policy=policy,
            report_data=report_data,
            now=now,
            anchors=anchors,
            cache=cache,
        )
    except VerifierError as error:
        appraisal.fail("snp", error)
    return appraisal.result()


def reason_of(raised: pytest.ExceptionInfo[VerifierError]) -> Reason:
    """Return the reason of a caught error."""
    return raised.value.reason


def splice(raw: bytes, offset: int, new: bytes) -> bytes:
    """Return `raw` with bytes at `offset` replaced."""
    return raw[:offset] + new + raw[offset + len(new) :]
