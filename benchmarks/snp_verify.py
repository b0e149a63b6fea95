"""SEV-SNP reports verified per second, one thread, from bytes to a result with every check.

The limit is what `cryptography` takes for the bare signatures that no memory can spare, keys and
bytes at hand. Warm, known chip: the broker has seen this chip's VCEK, so that only the report's own
signature (P-384) is left; each report has one of its own. Warm, new chip: ARK, ASK and CRL were
seen, the VCEK never, so two signatures are left: of the report, and of the VCEK (RSA-4096, PSS).
Cold starts with an empty memory: report, VCEK, ASK, ARK and, where there is one, the CRL. Dates,
pins, revocation, TCB and policy are judged anew in every call. There is no peer: ours stands beside
its limit alone. The project's target, within 1.3 of two signatures, is the new chip's row.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509 import Certificate

from benchmarks import common
from ostiary.simulator.amd import FakeAmd, report_of
from ostiary.simulator.snp import report_for
from verifier import x509
from verifier.anchors import PINNED, Anchors
from verifier.appraise import Evidence, appraise
from verifier.cache import Cache
from verifier.result import Verdict
from verifier.snp import SnpEndorsements
from verifier.snp.report import SIGNED_SIZE, SnpReport

CASES: Final = ("snp/v3-genoa-vcek-ms", "snp/v5-turin-vcek-ms")
SIMULATED_NOW: Final = 1_775_000_000
_ROOT: Final = Path(__file__).resolve().parents[1]
_ECDSA: Final = ec.ECDSA(SHA384())
_PSS: Final = padding.PSS(padding.MGF1(SHA384()), SHA384.digest_size)
_SECONDS: Final = 0.3
_MACHINES: Final = 32
_KNOWN: Final = "warm, known chip"
_NEW: Final = "warm, new chip"
_COLD: Final = "cold"

Work = Callable[[], object]


class RefusedError(Exception):
    """The evidence was not accepted, so that nothing was measured."""


@dataclass(frozen=True)
class Subject:
    """One machine's report with what judges it, and other machines of the same product."""

    name: str
    report: bytes
    endorsements: SnpEndorsements
    now: int
    anchors: Anchors
    others: tuple[tuple[bytes, SnpEndorsements], ...] = ()


def subjects() -> list[Subject]:
    """Return real evidence where the corpus is, and always a simulated report with its CRL."""
    folder = _ROOT / os.environ.get("OSTIARY_EVIDENCE_DIR", "../shared/evidence")
    found = [_real(folder / case) for case in CASES if (folder / case / "case.json").is_file()]
    return [*found, _simulated()]


def _real(folder: Path) -> Subject:
    now = json.loads((folder / "case.json").read_text())["verification_time"]["unix"]
    report, vek, ask, ark = (
        (folder / name).read_bytes() for name in ("report.bin", "vcek.der", "ask.der", "ark.der")
    )
    crl = folder / "crl.der"
    endorsements = SnpEndorsements(
        vek, ask, ark, crl.read_bytes() if crl.is_file() else None, crl_required=crl.is_file()
    )
    return Subject(folder.name, report, endorsements, now, PINNED)


def _simulated() -> Subject:
    amd = FakeAmd.create(SIMULATED_NOW)
    ask, ark = (amd.certificate("Genoa", role) for role in ("ask", "ark"))
    crl = amd.crl("Genoa", SIMULATED_NOW)
    machines = []
    for _ in range(_MACHINES):
        chip = amd.vcek("Genoa")
        report = chip.sign(report_of(chip, report_for("Genoa")))
        machines.append((report, SnpEndorsements(chip.chain[0], ask, ark, crl)))
    anchors = Anchors().with_simulated(amd={"Genoa": amd.root_pin("Genoa")})
    return Subject("simulated", *machines[0], SIMULATED_NOW, anchors, tuple(machines))


def _ours(subject: Subject, temperature: str) -> Work:
    # A new chip is one of more machines than the memory holds: ARK, ASK and CRL, used in every
    # call, stay in it, while each VCEK is forgotten long before its turn comes again.
    seen = Cache(limit=_MACHINES // 4) if temperature == _NEW else Cache()
    given = [(subject.report, subject.endorsements)]
    machines = itertools.cycle(subject.others if temperature == _NEW else given)

    def verify() -> None:
        report, endorsements = next(machines)
        result = appraise(
            Evidence("snp", report),
            endorsements,
            policy=None,
            report_data=None,
            now=subject.now,
            anchors=subject.anchors,
            cache=None if temperature == _COLD else seen,
        )
        if result.verdict is not Verdict.ACCEPT:
            raise RefusedError(f"ours: {subject.name}: {result.reasons}")

    return verify


def _limit(subject: Subject, temperature: str) -> Work:
    """Return the bare signature verifications: keys loaded, signatures and bytes at hand."""
    given = subject.endorsements
    vek, ask, ark = (x509.load_der(der, "x") for der in (given.vek, given.ask, given.ark))
    report = SnpReport.parse(subject.report)
    key = vek.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise RefusedError("a P-384 key expected")
    signature = encode_dss_signature(report.signature_r, report.signature_s)
    checks: list[Work] = [
        functools.partial(key.verify, signature, subject.report[:SIGNED_SIZE], _ECDSA)
    ]
    if temperature != _KNOWN:
        checks.append(_rsa(ask, vek.signature, vek.tbs_certificate_bytes))
    if temperature == _COLD:
        checks += [_rsa(ark, each.signature, each.tbs_certificate_bytes) for each in (ask, ark)]
        if given.crl is not None:
            crl = x509.load_crl(given.crl, "x")
            checks.append(_rsa(ark, crl.signature, crl.tbs_certlist_bytes))

    def verify() -> None:
        for check in checks:
            check()

    return verify


def _rsa(issuer: Certificate, signature: bytes, signed: bytes) -> Work:
    key = issuer.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise RefusedError("an RSA key expected")
    return functools.partial(key.verify, signature, signed, _PSS, SHA384())


def _sample(work: Work) -> common.Sample:
    return functools.partial(common.rate, work, seconds=_SECONDS)


def rows() -> Sequence[common.Row]:
    """Measure each subject at each temperature."""
    return [
        common.measure(
            f"{temperature}: {subject.name}",
            "1/s",
            ours=_sample(_ours(subject, temperature)),
            limit=_sample(_limit(subject, temperature)),
        )
        for subject in subjects()
        for temperature in (_KNOWN, _NEW, _COLD)
        if temperature != _NEW or subject.others
    ]


if __name__ == "__main__":
    common.main(rows)
