"""TDX quotes verified per second, one thread, from bytes to a result with every check.

Warm is what a broker does all day: collateral and PCK chain were seen before, so their signatures
are remembered, while dates and revocation are judged anew; the limit is the two P-256 verifications
that no memory can spare, of the QE report and of the quote. A new platform has a PCK certificate
that was never seen, under collateral and a CA that were; its signature makes three. A new model is
a platform whose FMSPC was never seen: its TCB info is new too and makes four, and the collateral is
read from JSON; what Intel publishes for all models (CA, TCB signer, CRLs, QE identity) is
remembered. Empty starts with no memory at all: nothing of collateral or PCK chain was ever seen,
Intel's CAs and signers included, as in the first quote of a process. Only the root, whose digest is
pinned in the package, has been read, and its signature over itself checked, once per process; nine
signatures are left. Limits are bare verifications: keys loaded, signatures and bytes at hand.
The peer is dcap-qvl (Rust, from PyPI). It remembers nothing: it checks all chains and CRLs on each
call, so warm and new platform stand beside its fastest way (collateral parsed before), and the
other two beside its own parsing of the JSON included.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509 as c_x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from benchmarks import common
from ostiary.simulator.intel import FakeIntel
from ostiary.simulator.quote import TdBody, quote_v4
from verifier import x509
from verifier.anchors import PINNED, Anchors
from verifier.appraise import Evidence, appraise
from verifier.cache import Cache
from verifier.result import Verdict
from verifier.tdx import collateral as collaterals
from verifier.tdx import quote as quotes
from verifier.tdx.collateral import VerifiedCollateral
from verifier.tdx.signature import load_point

try:
    import dcap_qvl
except ImportError:  # the peer is a test dependency
    dcap_qvl = None

CASES: Final = ("tdx/v5-90c06f-uptodate", "tdx/v4-00806f-gcp-uptodate-2026-01")
WARM: Final = "warm"
NEW: Final = "new platform"
MODEL: Final = "new model"
EMPTY: Final = "empty"
SIMULATED_NOW: Final = 1_775_000_000
_ROOT: Final = Path(__file__).resolve().parents[1]
_ALGORITHM: Final = ec.ECDSA(SHA256())
_SECONDS: Final = 0.3

Work = Callable[[], object]


class RefusedError(Exception):
    """Somebody did not accept the evidence, so that nothing was measured."""


@dataclass(frozen=True)
class Subject:
    """One quote with what judges it. The peer pins Intel's root, so it cannot take simulated."""

    name: str
    quote: bytes
    collateral: bytes
    now: int
    anchors: Anchors
    peer: bool


def subjects() -> list[Subject]:
    """Return real evidence where the corpus is, else a simulated quote."""
    folder = _ROOT / os.environ.get("OSTIARY_EVIDENCE_DIR", "../shared/evidence")
    found = [_real(folder / case) for case in CASES if (folder / case / "case.json").is_file()]
    return found or [_simulated()]


def _real(folder: Path) -> Subject:
    now = json.loads((folder / "case.json").read_text())["verification_time"]["unix"]
    quote, collateral = ((folder / name).read_bytes() for name in ("quote.bin", "collateral.json"))
    return Subject(folder.name, quote, collateral, now, PINNED, peer=dcap_qvl is not None)


def _simulated() -> Subject:
    intel = FakeIntel.create(SIMULATED_NOW)
    quote = quote_v4(intel.platform(), TdBody())
    bundle = json.dumps(intel.collateral(SIMULATED_NOW)).encode()
    anchors = Anchors().with_simulated(intel=[intel.root_pin])
    return Subject("simulated", quote, bundle, SIMULATED_NOW, anchors, peer=False)


def _ours(subject: Subject, temperature: str) -> Work:
    evidence = Evidence("tdx", subject.quote)
    shared = Cache()
    parsed = collaterals.from_json(subject.collateral)
    signed = collaterals.verify(parsed, subject.anchors, store=shared)
    known = shared.copy()
    known.keep(VerifiedCollateral, parsed.digest, signed)
    memory: dict[str, Callable[[], Cache | None]] = {
        WARM: lambda: known,
        NEW: known.copy().copy,
        MODEL: shared.copy,
        EMPTY: lambda: None,
    }
    recall, reads = memory[temperature], temperature in (MODEL, EMPTY)

    def verify() -> None:
        result = appraise(
            evidence,
            collaterals.from_json(subject.collateral) if reads else parsed,
            policy=None,
            report_data=None,
            now=subject.now,
            anchors=subject.anchors,
            cache=recall(),
        )
        if result.verdict is not Verdict.ACCEPT:
            raise RefusedError(f"ours: {subject.name}: {result.reasons}")

    return verify


def _peer(subject: Subject, *, parsed: bool) -> Work:
    text = subject.collateral.decode()
    # It takes no padding after the quote, so the zeros are cut for it (in nobody's time).
    quote = subject.quote[: len(subject.quote) - quotes.parse(subject.quote).padding]
    once = dcap_qvl.QuoteCollateralV3.from_json(text)

    def verify() -> None:
        collateral = once if parsed else dcap_qvl.QuoteCollateralV3.from_json(text)
        if dcap_qvl.verify(quote, collateral, subject.now).status != "UpToDate":
            raise RefusedError(f"peer: {subject.name}")

    return verify


def _limit(subject: Subject, temperature: str) -> Work:
    """Return the bare signature verifications: keys loaded, signatures and bytes at hand."""
    checks = _quote_signatures(subject)
    chain = _chain_signatures(subject)
    checks += {WARM: [], NEW: chain[:1], MODEL: chain[:2], EMPTY: chain}[temperature]

    def verify() -> None:
        for key, signature, data in checks:
            key.verify(signature, data, _ALGORITHM)

    return verify


_Check = tuple[ec.EllipticCurvePublicKey, bytes, bytes]


def _der(raw: bytes) -> bytes:
    return encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))


def _key(certificate: c_x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise RefusedError("a P-256 key expected")
    return key


def _quote_signatures(subject: Subject) -> list[_Check]:
    read = quotes.parse(subject.quote)
    pck = x509.load_pem_chain(read.cert_data, "PCK chain", count=3)[0]
    return [
        (_key(pck), _der(read.qe_report_signature), read.qe_report_raw),
        (load_point(read.attestation_key, "key"), _der(read.signature), read.signed),
    ]


def _chain_signatures(subject: Subject) -> list[_Check]:
    """Return each signature but the root's own: PCK, TCB info, then what is of all models."""
    bundle = collaterals.from_json(subject.collateral)
    leaf, ca, root = x509.load_pem_chain(
        quotes.parse(subject.quote).cert_data, "PCK chain", count=3
    )
    signer = x509.load_pem_chain(bundle.tcb_info_issuer_chain, "signer", count=2)[0]
    pck, *issuers = [
        (_key(issuer), each.signature, each.tbs_certificate_bytes)
        for each, issuer in ((leaf, ca), (ca, root), (signer, root))
    ]
    lists = []
    for der, issuer in ((bundle.root_ca_crl, root), (bundle.pck_crl, ca)):
        crl = x509.load_crl(der, "CRL")
        lists.append((_key(issuer), crl.signature, crl.tbs_certlist_bytes))
    return [
        pck,
        (_key(signer), _der(bundle.tcb_info_signature), bundle.tcb_info.encode()),
        *issuers,
        *lists,
        (_key(signer), _der(bundle.qe_identity_signature), bundle.qe_identity.encode()),
    ]


def _sample(work: Work) -> common.Sample:
    return functools.partial(common.rate, work, seconds=_SECONDS)


def rows() -> Sequence[common.Row]:
    """Measure each subject at each temperature."""
    return [
        common.measure(
            f"{temperature}: {subject.name}",
            "1/s",
            ours=_sample(_ours(subject, temperature)),
            peer=_sample(_peer(subject, parsed=temperature in (WARM, NEW)))
            if subject.peer
            else None,
            limit=_sample(_limit(subject, temperature)),
        )
        for subject in subjects()
        for temperature in (WARM, NEW, MODEL, EMPTY)
    ]


if __name__ == "__main__":
    common.main(rows)
