"""A confidential VM in Azure for tests: simulated hardware, claims and vTPM, bent as asked.

And Azure's cases of the corpus, as the command line takes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from ostiary.simulator import azure as simulated
from ostiary.simulator.azure import encoded
from ostiary.simulator.quote import TdBody, quote_v4, quote_v5
from tests.kit import measured, snp_forge, tdx, vendors
from tests.kit.corpus import EVIDENCE, Case
from tests.kit.measured import NONCE, PCRS
from verifier.anchors import Anchors
from verifier.appraise import Evidence, appraise
from verifier.azure import hcl
from verifier.azure.appraise import AzureEvidence
from verifier.azure.hcl import HclReport
from verifier.policy import AppraisalPolicy
from verifier.result import AttestationResult
from verifier.snp import SnpEndorsements
from verifier.snp.product import from_name
from verifier.tdx.collateral import TdxCollateral
from verifier.tpm import attest as attests
from verifier.tpm.appraise import TpmEvidence

# The corpus.


def names() -> list[str]:
    """Return Azure's cases; none where the corpus is absent."""
    index = EVIDENCE / "INDEX.json"
    entries = json.loads(index.read_text()) if index.is_file() else []
    return [e["case"] for e in entries if e["case"].startswith("az-")]


NAMES = names()
_CHAIN = (
    "ak_cert.pem",
    "ak_intermediate_0.pem",
    "ak_intermediate_1.pem",
    "root_virtual-tpm-2023.pem",
)


def arguments(case: Case, **other: str) -> list[str]:
    """Return the arguments of `ostiary` that appraise a case; `other` replaces files by name."""

    def path(name: str) -> str:
        return other.get(name.split(".", maxsplit=1)[0], str(case.folder / name))

    found = ["verify", case.tee.replace("az-", "azure-").removesuffix("-vtpm"), "--json"]
    found += ["--at", case.told["verification_time"]["iso"], "--hcl-report", path("hcl_report.bin")]
    for option, name in (
        ("--vek", "vcek.der"),
        ("--ask", "ask.der"),
        ("--ark", "ark.der"),
        ("--crl", "crl.der"),
        ("--td-quote", "td_quote.bin"),
        ("--collateral", "collateral.json"),
        ("--tpm-message", "tpm_message.bin"),
        ("--tpm-signature", "tpm_signature.bin"),
        ("--pcrs", "pcrs.json"),
    ):
        if case.has(name):
            found += [option, path(name)]
    if case.tee == "az-snp-vtpm" and not case.has("crl.der"):
        found.append("--no-crl")
    nonce = other.get("nonce", case.expected.get("nonce_hex"))
    if nonce is not None:
        found += ["--nonce", nonce]
    if case.has(_CHAIN[0]):
        found += ["--ak-chain", *(path(name) for name in _CHAIN)]
    return found


# A simulated machine.


def jwk(kid: str = "HCLAkPub", key: RSAPrivateKey | None = None) -> dict[str, Any]:
    """Return a key as the paravisor writes it; None is the one that signs the TPM's quotes."""
    return simulated.jwk((key or measured.rsa_key()).public_key(), kid)


def runtime(**changes: Any) -> dict[str, Any]:
    """Return good claims, members changed; `_` stands for `-`, None removes."""
    told: dict[str, Any] = {
        "keys": [jwk(), jwk("HCLEkPub") | {"key_ops": ["encrypt"]}],
        "vm-configuration": {
            "console-enabled": True,
            "secure-boot": True,
            "tpm-enabled": True,
            "vmUniqueId": "6332533D-5649-4D02-8AA7-8F64B7C3EE21",
        },
        "user-data": "00" * 64,
    }
    told |= {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True)
class Machine:
    """Evidence that strict defaults accept, and what judges it; `but` changes parts of it."""

    evidence: AzureEvidence
    endorsements: SnpEndorsements | TdxCollateral | None
    anchors: Anchors
    now: int
    policy: AppraisalPolicy | None = None
    nonce: bytes | None = NONCE
    options: dict[str, Any] = field(default_factory=dict)

    def but(self, **changes: Any) -> Machine:
        """Return it with fields of the evidence, or of this, changed."""
        own = {name: changes.pop(name) for name in list(changes) if hasattr(self, name)}
        return replace(self, evidence=replace(self.evidence, **changes), **own)

    def judge(self) -> AttestationResult:
        """Return the result, as the command line makes it."""
        return appraise(
            whole(self.evidence),
            self.endorsements,
            policy=self.policy,
            report_data=None,
            nonce=self.nonce,
            now=self.now,
            anchors=self.anchors,
            **self.options,
        )

    def reasons(self) -> list[str]:
        return [reason.value for reason in self.judge().reasons]


def whole(each: AzureEvidence) -> Evidence:
    """Return the evidence as the verifier's one door takes it."""
    return Evidence(
        each.kind,
        each.td_quote or b"",
        hcl_report=each.hcl_report,
        tpm=TpmEvidence(
            each.tpm_message,
            each.tpm_signature,
            each.ak,
            each.pcrs,
            each.ak_certificate,
            each.ak_issuers,
            each.event_log,
        ),
    )


def _quote() -> dict[str, Any]:
    message = attests.encode(measured.attest())
    return {
        "tpm_message": message,
        "tpm_signature": measured.sign(message),
        "pcrs": {"sha256": PCRS},
    }


@cache
def _snp_forge() -> snp_forge.Forge:
    return snp_forge.Forge(from_name("Milan"), version=3)


def snp(claims: bytes | None = None, **report: Any) -> Machine:
    """Return a machine on AMD with these claims, and other fields of its report."""
    claims = encoded(runtime()) if claims is None else claims
    bound = hashlib.sha256(claims).digest() + bytes(32)
    made = _snp_forge().evidence(report={"report_data": bound, **report})
    raw = hcl.encode(HclReport(2, hcl.SNP, made.report, claims, 100))
    return Machine(
        AzureEvidence("azure-snp", raw, **_quote()),
        made.endorsements,
        snp_forge.pinned(),
        snp_forge.NOW,
    )


def tdx_machine(
    claims: bytes | None = None,
    *,
    version: int = 4,
    local: Callable[[TdBody], TdBody] = lambda body: body,
    **body: Any,
) -> Machine:
    """Return a machine on Intel; `local` changes what the TDREPORT says and the quote does not."""
    claims = encoded(runtime()) if claims is None else claims
    bound = hashlib.sha256(claims).digest() + bytes(32)
    told = vendors.good_body(**{"report_data": bound, **body})
    make = quote_v4 if version == 4 else quote_v5
    raw = hcl.encode(HclReport(2, hcl.TDX, simulated.tdreport(local(told)), claims, 100))
    return Machine(
        AzureEvidence("azure-tdx", raw, td_quote=make(vendors.platform(), told), **_quote()),
        tdx.collateral(),
        vendors.anchors(),
        vendors.NOW,
    )
