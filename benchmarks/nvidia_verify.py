"""NVIDIA GPUs appraised, one thread, from bytes to a result with every check; milliseconds a set.

Warm is what a broker does all day: chains, RIMs and revocation were seen before, reports never.
Cold starts with no memory. The peer is NVIDIA's nv-attestation-sdk 2.7.3 in an environment of its
own (`make gpu-oracle` builds it; without it there is no peer): it keeps nothing, judges no switches
without their hardware, and takes its OCSP answers as good here, while ours checks them. The limit
is the bare P-384 verifications that no memory can spare: warm one for each report, cold those of
all chains, RIMs and revocations too. Targets: one GPU warm below 1.5 ms, 8 and 4 below 15 ms.
Requests are those that go out: in an appraisal, then for the collateral of a board.
"""

from __future__ import annotations

import asyncio
import functools
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp as c_ocsp

from benchmarks import common
from contrib.nvidia_sdk_oracle import environment, questions
from contrib.nvidia_sdk_oracle.questions import Question
from ostiary.simulator import certificates
from ostiary.simulator.nvidia import devices
from ostiary.simulator.nvidia import services as vendor_services
from ostiary.simulator.nvidia.devices import DeviceSet
from ostiary.simulator.nvidia.pki import FakeNvidia
from ostiary.simulator.nvidia.services import NvidiaServices
from ostiary.simulator.services import Vendors, serving
from verifier.anchors import PINNED, Anchors
from verifier.cache import Cache
from verifier.collateral import gpus
from verifier.collateral.nvidia import NvidiaService
from verifier.collateral.sources import Services, Stored
from verifier.collateral.store import Store
from verifier.collateral.web import Web
from verifier.nvgpu import chain, needs, rim, spdm
from verifier.nvgpu.appraise import appraise
from verifier.nvgpu.device import DeviceEvidence, DeviceKind
from verifier.nvgpu.endorsements import GpuEndorsements
from verifier.result import Verdict

SIMULATED_NOW: Final = 1_775_000_000
NONCE: Final = bytes(range(32))
_SECONDS: Final = 0.3
_TIMES: Final = 3
"""Calls of the SDK in one process; their median counts, so that none is its first."""

Work = Callable[[], object]


class RefusedError(Exception):
    """The evidence was not accepted, so that nothing was measured."""


@dataclass(frozen=True)
class Subject:
    """A set of devices with what judges it; `asked` is what the SDK is asked, of its GPUs alone."""

    name: str
    sent: tuple[DeviceEvidence, ...]
    endorsements: GpuEndorsements
    nonce: bytes
    now: int
    anchors: Anchors
    asked: Question

    @property
    def revocation(self) -> bool:
        """Whether there is anything to judge it by: nobody recorded NVIDIA's answers."""
        return bool(self.endorsements.ocsp)


def subjects() -> list[Subject]:
    """Return the recorded GPU with all its RIMs where the corpus is, and always simulated ones."""
    folder = questions.corpus()
    found = []
    if folder is not None:
        full = questions.full(folder)
        given = GpuEndorsements(rims=tuple(full.rims.values()))
        name = questions.FULL.rpartition("/")[2]
        found.append(
            Subject(f"1 GPU, {name}", full.devices, given, full.nonce, full.now, full.anchors, full)
        )
    vendor = FakeNvidia.create(SIMULATED_NOW)
    known = NvidiaServices.published(vendor, lambda: SIMULATED_NOW)
    one = devices.device_set(vendor, 1)
    board = devices.device_set(vendor, 8, "ppcie")
    found.append(_simulated("1 GPU, simulated", vendor, known, one))
    found.append(_simulated("8 GPUs and 4 switches, simulated", vendor, known, board))
    return found


def _simulated(name: str, vendor: FakeNvidia, known: NvidiaServices, whole: DeviceSet) -> Subject:
    sent = tuple(
        DeviceEvidence(DeviceKind(each.kind), each.report(NONCE), each.chain)
        for each in whole.devices
    )
    anchors = PINNED.with_simulated(
        nvidia_device=[vendor.device_root_pin], nvidia_rim=[vendor.rim_root_pin]
    )
    given = GpuEndorsements(*vendor_services.endorsements(known, whole, SIMULATED_NOW))
    asked = Question(
        name,
        tuple(each for each in sent if each.kind is DeviceKind.GPU),
        known.rims,
        NONCE,
        SIMULATED_NOW,
        anchors,
        certificates.pem(vendor.certificates["rim_root"]),
    )
    return Subject(name, sent, given, NONCE, SIMULATED_NOW, anchors, asked)


def _ours(subject: Subject, *, warm: bool) -> Work:
    memory = Cache()

    def verify() -> None:
        result = appraise(
            subject.sent,
            subject.endorsements,
            policy=None,
            nonce=subject.nonce,
            now=subject.now,
            anchors=subject.anchors,
            cache=memory if warm else None,
            revocation_required=subject.revocation,
        )
        if result.verdict is not Verdict.ACCEPT:
            raise RefusedError(f"{subject.name}: {result.reasons}")

    return verify


def _peer(subject: Subject) -> common.Sample | None:
    python = environment.find()
    if python is None:
        return None

    def sample() -> float:
        said = environment.ask(python, subject.asked.to_sdk(_TIMES))
        if said["accepted"] is not True:
            raise RefusedError(f"SDK: {subject.name}: {said['error']}")
        return float(1000 * statistics.median(said["seconds"]))

    return sample


def _limit(subject: Subject, *, warm: bool) -> Work:
    """Return the bare signature verifications: keys loaded, signatures and bytes at hand."""
    checks: list[Work] = []
    for sent in subject.sent:
        report, key = spdm.parse(sent.report), chain.load(sent.chain).key
        checks.append(functools.partial(report.verifies, key))
    if not warm:
        given = subject.endorsements
        checks += [_issued(*pair) for pair in _links(subject)]
        checks += [_ocsp(raw) for raw in given.ocsp]
        # One more P-384 verification each, as that of a report: of RIMs, and of CRLs.
        checks += [checks[0]] * (len(given.rims) + len(given.crls))

    def verify() -> None:
        for check in checks:
            check()

    return verify


def _links(subject: Subject) -> list[tuple[x509.Certificate, x509.Certificate]]:
    """Return every certificate with its issuer, each once; roots with themselves."""
    chains = [chain.load(sent.chain).certificates for sent in subject.sent]
    chains += [rim.read(raw)[0].certificates for raw in subject.endorsements.rims]
    links = [pair for each in chains for pair in pairwise((*each, each[-1]))]
    return list(dict.fromkeys(links))


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> Work:
    return functools.partial(certificate.verify_directly_issued_by, issuer)


def _key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise RefusedError("a P-384 key expected")
    return key


def _ocsp(raw: bytes) -> Work:
    """Return the check of an OCSP response's signature, by the responder's key that it carries."""
    response = c_ocsp.load_der_ocsp_response(raw)
    algorithm = response.signature_hash_algorithm
    if algorithm is None:
        raise RefusedError("a hash algorithm expected")
    key = _key(response.certificates[0])
    parts = (response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
    return functools.partial(key.verify, *parts)


class _Connections:
    """Counts connections and look-ups of names from here on; a hook stays for good."""

    def __init__(self) -> None:
        self.count = 0
        sys.addaudithook(self._hear)

    def _hear(self, event: str, _: tuple[Any, ...]) -> None:
        self.count += event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}


def _requests(name: str, ours: int, peer: float | None) -> common.Row:
    """Return a row of requests; ratios mean nothing where ours is none."""
    ratio = common.ratio(ours, peer, "lower") if ours else None
    return common.Row(name, "requests", ours, peer, None, ratio, None, 0.0, 1)


def _network(subject: Subject) -> list[common.Row]:
    """Count what goes out: in an appraisal, for the collateral of this set, and a second time."""
    python = environment.find()
    peer = None
    if python is not None:
        peer = float(environment.ask(python, subject.asked.to_sdk())["requests"])
    connections = _Connections()
    _ours(subject, warm=False)()
    rows = [_requests(f"in an appraisal of {subject.name}", connections.count, peer)]
    first, again = asyncio.run(_fetched())
    rows.append(_requests(f"for the collateral of {subject.name}", first, peer))
    rows.append(_requests("for it a second time that day", again, peer))
    return rows


async def _fetched() -> tuple[int, int]:
    """Fetch a board's collateral from the simulator's services, twice; return both counts."""
    vendor = FakeNvidia.create(SIMULATED_NOW)
    known = NvidiaServices.published(vendor, lambda: SIMULATED_NOW)
    whole = devices.device_set(vendor, 8, "ppcie")
    anchors = PINNED.with_simulated(
        nvidia_device=[vendor.device_root_pin], nvidia_rim=[vendor.rim_root_pin]
    )
    sent = [
        DeviceEvidence(DeviceKind(each.kind), each.report(NONCE), each.chain)
        for each in whole.devices
    ]
    counts: list[int] = []
    with (
        serving(Vendors(lambda: SIMULATED_NOW, nvidia=known)) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        web = Web()
        stored = Stored(
            Store(Path(folder), anchors),
            Services(nvidia=NvidiaService(web, *[server.url] * 3)),
            anchors,
            lambda: SIMULATED_NOW,
        )
        for _ in range(2):
            await gpus.gather(stored, needs.read(sent, now=SIMULATED_NOW, anchors=anchors))
            counts.append(sum(server.asked.values()) - sum(counts))
        await stored.aclose()
        await web.aclose()
    return counts[0], counts[1]


def _sample(work: Work) -> common.Sample:
    return lambda: 1000 / common.rate(work, seconds=_SECONDS)


def rows() -> Sequence[common.Row]:
    """Measure each set warm and cold, then count requests."""
    found = subjects()
    measured = [
        common.measure(
            f"{'warm' if warm else 'cold'}: {subject.name}",
            "ms",
            ours=_sample(_ours(subject, warm=warm)),
            peer=_peer(subject),
            limit=_sample(_limit(subject, warm=warm)),
            better="lower",
        )
        for subject in found
        for warm in (True, False)
    ]
    return [*measured, *_network(found[-1])]


if __name__ == "__main__":
    common.main(rows)
