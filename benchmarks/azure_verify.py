"""Evidence of Azure's confidential VMs judged per second, one thread, from bytes to a result.

One call judges the HCL report and its claims, the hardware report or TD quote below them, the
vTPM's quote under the key that the claims name, and the PCR values. Warm is what a broker does all
day: collateral and certificates were seen before. Cold starts with no memory. There is no peer:
nobody's Python judges all of it. The limit is the bare signatures that no memory can spare, keys
and bytes at hand: of the TPM's quote (RSA-2048), and of the SNP report (P-384) or of QE report and
TD quote (P-256 both).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from benchmarks import common
from ostiary.simulator.amd import FakeAmd, report_of
from ostiary.simulator.azure import AzureMachine
from ostiary.simulator.machines import SnpMachine
from ostiary.simulator.snp import report_for
from ostiary.simulator.tpm import FakeTpm
from verifier import x509
from verifier.anchors import PINNED, Anchors
from verifier.appraise import Evidence, appraise
from verifier.azure import hcl, runtime
from verifier.cache import Cache
from verifier.result import Verdict
from verifier.snp import SnpEndorsements
from verifier.snp.report import SIGNED_SIZE, SnpReport
from verifier.tdx import collateral as collaterals
from verifier.tdx import quote as quotes
from verifier.tdx.collateral import TdxCollateral
from verifier.tdx.signature import load_point
from verifier.tpm import pcrs
from verifier.tpm.appraise import TpmEvidence
from verifier.tpm.attest import parse_signature

SNP_CASE: Final = "az-snp-vtpm/milan-v3-live"
TDX_CASE: Final = "az-tdx-vtpm/90c06f-ak-chain-2026"
SIMULATED_NOW: Final = 1_775_000_000
_ROOT: Final = Path(__file__).resolve().parents[1]
_SECONDS: Final = 0.25

Work = Callable[[], object]


class RefusedError(Exception):
    """The evidence was not accepted, so that nothing was measured."""


@dataclass(frozen=True)
class Subject:
    """One machine's evidence with what judges it."""

    name: str
    evidence: Evidence
    endorsements: SnpEndorsements | TdxCollateral
    nonce: bytes
    now: int
    anchors: Anchors


def subjects() -> list[Subject]:
    """Return real evidence where the corpus is, and a simulated machine always."""
    folder = _ROOT / os.environ.get("OSTIARY_EVIDENCE_DIR", "../shared/evidence")
    cases = (folder / SNP_CASE, folder / TDX_CASE)
    return [*(_real(case) for case in cases if (case / "case.json").is_file()), _simulated()]


def _real(folder: Path) -> Subject:
    def part(name: str) -> bytes:
        path = folder / name
        return path.read_bytes() if path.is_file() else b""

    told = json.loads(part("case.json"))
    quote = part("td_quote.bin")
    endorsements: SnpEndorsements | TdxCollateral
    if quote:
        endorsements = collaterals.from_json(part("collateral.json"))
    else:
        vcek, ask, ark = (part(f"{name}.der") for name in ("vcek", "ask", "ark"))
        endorsements = SnpEndorsements(vcek, ask, ark, crl=None, crl_required=False)
    tpm = TpmEvidence(
        part("tpm_message.bin"), part("tpm_signature.bin"), pcrs=pcrs.from_json(part("pcrs.json"))
    )
    return Subject(
        folder.name,
        Evidence(
            "azure-tdx" if quote else "azure-snp", quote, hcl_report=part("hcl_report.bin"), tpm=tpm
        ),
        endorsements,
        bytes.fromhex(told["expected"]["nonce_hex"]),
        told["verification_time"]["unix"],
        PINNED,
    )


def _simulated() -> Subject:
    amd = FakeAmd.create(SIMULATED_NOW)
    chip, tpm = amd.vcek("Milan"), FakeTpm.create()
    machine = AzureMachine(SnpMachine(chip, report_of(chip, report_for("Milan"))), tpm)
    ask, ark = (amd.certificate("Milan", role) for role in ("ask", "ark"))
    nonce = bytes(range(32))
    message, signature = tpm.quote(nonce)
    given = TpmEvidence(message, signature, pcrs={"sha256": tpm.pcrs})
    return Subject(
        "simulated",
        Evidence("azure-snp", hcl_report=machine.hcl_report(), tpm=given),
        SnpEndorsements(chip.chain[0], ask, ark, amd.crl("Milan", SIMULATED_NOW)),
        nonce,
        SIMULATED_NOW,
        Anchors().with_simulated(amd={"Milan": amd.root_pin("Milan")}),
    )


def _ours(subject: Subject, *, warm: bool) -> Work:
    memory = Cache()

    def verify() -> None:
        result = appraise(
            subject.evidence,
            subject.endorsements,
            policy=None,
            report_data=None,
            nonce=subject.nonce,
            now=subject.now,
            anchors=subject.anchors,
            cache=memory if warm else None,
        )
        if result.verdict is not Verdict.ACCEPT:
            raise RefusedError(f"{subject.name}: {result.reasons}")

    return verify


def _limit(subject: Subject) -> Work:
    evidence, tpm = subject.evidence, subject.evidence.tpm
    report = hcl.parse(evidence.hcl_report)
    key = runtime.parse(report.claims).ak.key
    if tpm is None or tpm.attest is None or tpm.signature is None:
        raise RefusedError("a TPM's quote expected")
    if not isinstance(key, rsa.RSAPublicKey):
        raise RefusedError("an RSA key expected")
    bare = len(tpm.signature) == key.key_size // 8  # as some clients hand it on
    plain = tpm.signature if bare else parse_signature(tpm.signature).parts[0]
    checks: list[Work] = [
        functools.partial(key.verify, plain, tpm.attest, padding.PKCS1v15(), SHA256())
    ]
    endorsements = subject.endorsements
    if isinstance(endorsements, SnpEndorsements):
        read = SnpReport.parse(report.hardware)
        signature = encode_dss_signature(read.signature_r, read.signature_s)
        vek = _ec(x509.load_der(endorsements.vek, "VEK").public_key())
        signed = report.hardware[:SIGNED_SIZE]
        checks.append(functools.partial(vek.verify, signature, signed, ec.ECDSA(SHA384())))
    else:
        quote = quotes.parse(evidence.cpu)
        pck = _ec(x509.load_pem_chain(quote.cert_data, "PCK chain", count=3)[0].public_key())
        for signer, raw, signed in (
            (pck, quote.qe_report_signature, quote.qe_report_raw),
            (load_point(quote.attestation_key, "key"), quote.signature, quote.signed),
        ):
            der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
            checks.append(functools.partial(signer.verify, der, signed, ec.ECDSA(SHA256())))

    def verify() -> None:
        for check in checks:
            check()

    return verify


def _ec(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise RefusedError("an EC key expected")
    return key


def _sample(work: Work) -> common.Sample:
    return functools.partial(common.rate, work, seconds=_SECONDS)


def rows() -> Sequence[common.Row]:
    """Measure each subject, warm and cold."""
    return [
        common.measure(
            f"{'warm' if warm else 'cold'}: {subject.evidence.kind}, {subject.name}",
            "1/s",
            ours=_sample(_ours(subject, warm=warm)),
            limit=_sample(_limit(subject)),
        )
        for subject in subjects()
        for warm in (True, False)
    ]


if __name__ == "__main__":
    common.main(rows)
