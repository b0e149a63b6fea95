"""A confidential VM at Google for tests: simulated hardware, and a vTPM of the host's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ostiary.simulator.azure import paravisor
from ostiary.simulator.machine import launch_snp
from ostiary.simulator.machines import SnpMachine
from ostiary.simulator.tpm import PCRS, FakeTpm
from tests.kit import tdx, vendors
from verifier.anchors import Anchors
from verifier.appraise import Evidence, appraise
from verifier.policy import AppraisalPolicy
from verifier.result import AttestationResult
from verifier.snp import SnpEndorsements
from verifier.tdx.collateral import TdxCollateral
from verifier.tpm.appraise import TpmEvidence
from verifier.wire import binding

DATA = bytes(range(64))


def vtpm(tpm: FakeTpm | None = None, nonce: bytes | None = None, **changes: Any) -> TpmEvidence:
    """Return the quote of a vTPM over `DATA`, or over another nonce; parts changed."""
    by = tpm or vendors.tpm("host")
    message, signature = by.quote(binding.tpm_qualifying_data(DATA) if nonce is None else nonce)
    banks = {"sha256": {index: by.pcrs[index] for index in range(PCRS)}}
    return replace(TpmEvidence(message, signature, by.ak, banks), **changes)


@dataclass(frozen=True)
class Machine:
    """Evidence that strict defaults accept, and what judges it; `but` changes parts of it."""

    evidence: Evidence
    endorsements: SnpEndorsements | TdxCollateral | None
    anchors: Anchors
    policy: AppraisalPolicy | None = None
    report_data: bytes | None = DATA
    options: dict[str, Any] = field(default_factory=dict)

    def but(self, **changes: Any) -> Machine:
        """Return it with fields of the evidence, or of this, changed."""
        own = {name: changes.pop(name) for name in list(changes) if hasattr(self, name)}
        return replace(self, evidence=replace(self.evidence, **changes), **own)

    def judge(self) -> AttestationResult:
        """Return the result."""
        return appraise(
            self.evidence,
            self.endorsements,
            policy=self.policy,
            report_data=self.report_data,
            now=vendors.NOW,
            anchors=self.anchors,
            **self.options,
        )

    def reasons(self) -> list[str]:
        """Return why it is refused."""
        return [reason.value for reason in self.judge().reasons]


def tdx_machine(tpm: TpmEvidence | None = None, **body: Any) -> Machine:
    """Return a machine on Intel."""
    quote = vendors.good_quote(DATA, **body)
    return Machine(Evidence("gcp-tdx", quote, tpm=tpm), tdx.collateral(), vendors.anchors())


def snp_machine(tpm: TpmEvidence | None = None) -> Machine:
    """Return a machine on AMD."""
    chip = vendors.chip("Genoa")
    amd = vendors.fake_amd("Genoa")
    report, _, _ = SnpMachine(chip, launch_snp(paravisor("snp"), "Genoa")).report(DATA)
    endorsements = SnpEndorsements(
        vek=chip.chain[0],
        ask=amd.certificate("Genoa", "ask"),
        ark=amd.certificate("Genoa", "ark"),
        crl=amd.crl("Genoa", vendors.NOW),
    )
    return Machine(Evidence("gcp-snp", report, tpm=tpm), endorsements, vendors.anchors("Genoa"))
