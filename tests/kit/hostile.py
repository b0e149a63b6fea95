"""Good evidence of every CPU kind, in parts that can be bent, and one way to judge all of it.

`SAMPLES` names them. A sample's `signed` parts are those of which no bit may change: what hardware
or TPM signed, the signatures, and what is bound by a digest in it. `ends` says where padding that
nobody signed begins, if a part has any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.kit import azure, measured, sgx, snp_forge, tdx, vendors
from tests.kit.snp import AMAZON
from tests.kit.snp_forge import Forge
from verifier.appraise import Evidence, appraise
from verifier.cache import Cache
from verifier.errors import VerifierError
from verifier.eventlog import appraise as logs
from verifier.policy import AppraisalPolicy, SnpReference, SnpRules
from verifier.result import Appraisal, AttestationResult
from verifier.snp.product import GENOA, MILAN, TURIN
from verifier.snp.report import KEY_VLEK
from verifier.tpm import attest as attests
from verifier.tpm.appraise import TpmEvidence
from verifier.wire.canonical import Hex

CACHE: Final = Cache()


@dataclass(frozen=True)
class Sample:
    """Evidence that is accepted as it is; `judge` takes parts that replace its own."""

    parts: Mapping[str, bytes]
    judged: Callable[[Mapping[str, bytes]], AttestationResult]
    ends: Mapping[str, int] = field(default_factory=dict)
    unread: Mapping[str, tuple[range, ...]] = field(default_factory=dict)
    """Bytes of a part that nobody can check: a TDREPORT's MAC is for the CPU that made it."""

    def judge(self, **parts: bytes) -> AttestationResult:
        return self.judged({**self.parts, **parts})

    def bits(self, part: str) -> list[int]:
        """Return the bytes of a part of which no bit may change."""
        unread = self.unread.get(part, ())
        return [at for at in range(self.end(part)) if not any(at in each for each in unread)]

    def end(self, part: str) -> int:
        """Return the length of a part without its padding."""
        return self.ends.get(part, len(self.parts[part]))


def _tdx(version: int) -> Sample:
    endorsements = tdx.collateral()
    return Sample(
        {"quote": vendors.good_quote(version=version)},
        lambda parts: tdx.judge(quote=parts["quote"], endorsements=endorsements, cache=CACHE),
    )


def _sgx(version: int) -> Sample:
    endorsements = tdx.collateral(tee="sgx")
    return Sample(
        {"quote": sgx.good_quote(version)},
        lambda parts: sgx.judge(parts["quote"], endorsements=endorsements, cache=CACHE),
    )


def _snp(forge: Forge) -> Sample:
    made = forge.evidence()
    rules = SnpRules(signing_keys=("VCEK", "VLEK"), csps=(AMAZON,))
    known = SnpReference(name="image", measurement=Hex(b"\x0e" * 48))
    policy = AppraisalPolicy(snp=rules, reference=(known,))
    return Sample(
        {"report": made.report},
        lambda parts: appraise(
            Evidence("snp", parts["report"]),
            made.endorsements,
            policy=policy,
            report_data=b"\x0d" * 64,
            now=snp_forge.NOW,
            anchors=snp_forge.pinned(),
            cache=CACHE,
        ),
    )


_TDREPORT_AT: Final = 0x20
_HCL_CLAIMS: Final = 0x4C0
_TDREPORT_READ: Final = (range(1), range(128, 192), range(264, 384), range(512, 912))


def _azure(machine: azure.Machine) -> Sample:
    evidence = machine.evidence
    assert evidence.tpm_message is not None
    assert evidence.tpm_signature is not None
    parts = {
        "hcl_report": evidence.hcl_report,
        "tpm_message": evidence.tpm_message,
        "tpm_signature": evidence.tpm_signature,
    }
    unread: dict[str, tuple[range, ...]] = {}
    if evidence.td_quote is not None:
        parts["td_quote"] = evidence.td_quote
        starts = [_TDREPORT_AT + each.stop for each in _TDREPORT_READ]
        stops = [_TDREPORT_AT + each.start for each in _TDREPORT_READ[1:]]
        # Its last 160 bytes of the slot are zeros that are checked.
        stops.append(_TDREPORT_AT + 1024)
        unread["hcl_report"] = tuple(map(range, starts, stops))
    return Sample(
        parts,
        lambda parts: machine.but(options={"cache": CACHE}, **parts).judge(),
        {"hcl_report": len(evidence.hcl_report) - 100},
        unread,
    )


def _tpm(key: Any) -> Sample:
    digest = "sha256" if key.key_size != 384 else "sha384"
    message = attests.encode(measured.attest(digest_hash=digest))
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def judged(parts: Mapping[str, bytes]) -> AttestationResult:
        evidence = TpmEvidence(
            parts["attest"], parts["signature"], parts["ak"], {"sha256": measured.PCRS}
        )
        return appraise(
            Evidence("tpm", tpm=evidence),
            None,
            policy=None,
            report_data=None,
            nonce=measured.NONCE,
            now=vendors.NOW,
        )

    parts = {"attest": message, "signature": measured.sign(message, key), "ak": spki}
    return Sample(parts, judged)


def _eventlog(maker: measured.LogMaker, kind: logs.LogKind) -> Sample:
    registers = maker.registers()

    def judged(parts: Mapping[str, bytes]) -> AttestationResult:
        appraisal = Appraisal("eventlog")
        try:
            logs.appraise_log(appraisal, logs.parse(parts["log"], kind), registers)
        except VerifierError as error:
            appraisal.fail("genuine", error)
        return appraisal.result()

    return Sample({"log": maker.raw}, judged)


SAMPLES: Final[Mapping[str, Callable[[], Sample]]] = {
    "tdx-v4": cache(lambda: _tdx(4)),
    "tdx-v5": cache(lambda: _tdx(5)),
    "sgx-v3": cache(lambda: _sgx(3)),
    "sgx-v5": cache(lambda: _sgx(5)),
    "snp-milan-v3": cache(lambda: _snp(Forge(MILAN, version=3))),
    "snp-genoa-vlek": cache(lambda: _snp(Forge(GENOA, KEY_VLEK))),
    "snp-turin-v5": cache(lambda: _snp(Forge(TURIN))),
    "azure-snp": cache(lambda: _azure(azure.snp())),
    "azure-tdx": cache(lambda: _azure(azure.tdx_machine())),
    "tpm-rsa": cache(lambda: _tpm(measured.rsa_key())),
    "tpm-ecc": cache(lambda: _tpm(measured.ec_key("secp384r1"))),
    "eventlog-tcg": cache(lambda: _eventlog(measured.tpm_log(), "tcg")),
    "eventlog-ccel": cache(lambda: _eventlog(measured.ccel_log(), "ccel")),
}
"""Every kind of evidence that the verifier judges, but for GPUs, made on first use."""

SIGNED: Final = [name for name in SAMPLES if not name.startswith("eventlog")]
"""Those whose own bytes are signed: a log is bound only by the registers that it replays to."""
