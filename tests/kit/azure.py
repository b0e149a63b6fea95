"""A confidential VM in Azure for tests: simulated hardware, claims and vTPM, bent as asked.

And Azure's cases of the corpus, as the command line takes them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from ostiary.simulator.quote import TdBody, quote_v4, quote_v5
from tests.kit import measured, snp_forge, tdx, vendors
from tests.kit.corpus import EVIDENCE, Case
from tests.kit.measured import NONCE, PCRS
from verifier.anchors import Anchors
from verifier.azure import hcl
from verifier.azure.appraise import AzureEvidence, appraise_azure
from verifier.azure.hcl import HclReport
from verifier.errors import VerifierError
from verifier.policy import AppraisalPolicy
from verifier.result import Appraisal, AttestationResult
from verifier.snp import SnpEndorsements
from verifier.snp.product import from_name
from verifier.tdx.collateral import TdxCollateral
from verifier.tpm import attest as attests

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


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def jwk(kid: str = "HCLAkPub", key: RSAPrivateKey | None = None) -> dict[str, Any]:
    """Return a key as the paravisor writes it; None is the one that signs the TPM's quotes."""
    numbers = (key or measured.rsa_key()).public_key().public_numbers()
    return {
        "kid": kid,
        "key_ops": ["sign"],
        "kty": "RSA",
        "e": base64url(numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8, "big")),
        "n": base64url(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")),
    }


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


def encoded(told: object) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode()


def tdreport(body: TdBody) -> bytes:
    """Return the TDREPORT that a quote over this body is made of; its MAC is nobody's."""
    raw = bytearray(1024)
    raw[0] = 0x81
    raw[128:192] = body.report_data
    info = body.tee_tcb_svn + body.mr_seam + body.mrsigner_seam + body.seam_attributes
    raw[256 : 256 + 8 + len(info)] = b"\xff\x01" + bytes(6) + info
    names_ = (
        "td_attributes",
        "xfam",
        "mr_td",
        "mr_config_id",
        "mr_owner",
        "mr_owner_config",
        *(f"rtmr{index}" for index in range(4)),
        "mr_service_td",
    )
    td = b"".join(getattr(body, name) for name in names_)
    raw[512 : 512 + len(td)] = td
    return bytes(raw)


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
        appraisal = Appraisal(self.evidence.kind)
        try:
            appraise_azure(
                appraisal,
                self.evidence,
                self.endorsements,
                policy=self.policy,
                nonce=self.nonce,
                now=self.now,
                anchors=self.anchors,
                **self.options,
            )
        except VerifierError as error:
            appraisal.fail("genuine", error)
        return appraisal.result()

    def reasons(self) -> list[str]:
        return [reason.value for reason in self.judge().reasons]


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
    raw = hcl.encode(HclReport(2, hcl.TDX, tdreport(local(told)), claims, 100))
    return Machine(
        AzureEvidence("azure-tdx", raw, td_quote=make(vendors.platform(), told), **_quote()),
        tdx.collateral(),
        vendors.anchors(),
        vendors.NOW,
    )
