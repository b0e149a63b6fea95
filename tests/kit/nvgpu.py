"""Sets of GPUs and switches to judge: a simulated site with its vendor, and the recorded ones."""

from __future__ import annotations

import base64
import calendar
import functools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ostiary.simulator.nvidia import devices, services
from ostiary.simulator.nvidia.devices import Device, DeviceSet, Mode
from ostiary.simulator.nvidia.pki import FakeNvidia
from ostiary.simulator.nvidia.services import NvidiaServices
from tests.kit import corpus
from verifier.anchors import PINNED, Anchors
from verifier.nvgpu.appraise import appraise
from verifier.nvgpu.device import DeviceEvidence, DeviceKind
from verifier.nvgpu.endorsements import GpuEndorsements
from verifier.policy import AppraisalPolicy, GpuRules
from verifier.result import AttestationResult

NOW = 1_775_000_000
NONCE = bytes(range(32))


@functools.cache
def vendor() -> FakeNvidia:
    return FakeNvidia.create(NOW)


@functools.cache
def known() -> NvidiaServices:
    return NvidiaServices.published(vendor(), lambda: NOW)


@functools.cache
def anchors() -> Anchors:
    return PINNED.with_simulated(
        nvidia_device=[vendor().device_root_pin], nvidia_rim=[vendor().rim_root_pin]
    )


@functools.cache
def make(count: int = 1, mode: Mode | None = None) -> DeviceSet:
    """Return a machine's devices, the same at every call."""
    return devices.device_set(vendor(), count, mode)


def evidence(device: Device, nonce: bytes = NONCE) -> DeviceEvidence:
    return DeviceEvidence(DeviceKind(device.kind), device.report(nonce), device.chain)


def rules(whole: DeviceSet, **changes: Any) -> AppraisalPolicy:
    counts = {"count": len(whole.gpus), "switches": len(whole.switches)}
    return AppraisalPolicy(gpu=GpuRules(**(counts | changes)))


@dataclass
class Judge:
    """Everything that a set is judged by; each test changes what it is about."""

    whole: DeviceSet
    sent: list[DeviceEvidence] = field(default_factory=list)
    policy: AppraisalPolicy | None = None
    endorsements: GpuEndorsements | None = None
    nonce: bytes | None = NONCE
    now: int = NOW
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sent = [evidence(each) for each in self.whole.devices]
        self.policy = rules(self.whole)
        self.endorsements = endorse(self.whole)

    def __call__(self) -> AttestationResult:
        options = {"anchors": anchors()} | self.options
        return appraise(
            self.sent,
            self.endorsements,
            policy=self.policy,
            nonce=self.nonce,
            now=self.now,
            **options,
        )

    def reasons(self) -> list[str]:
        return [reason.value for reason in self().reasons]


def endorse(whole: DeviceSet, now: int = NOW) -> GpuEndorsements:
    return GpuEndorsements(*services.endorsements(known(), whole, now))


def failed(result: AttestationResult) -> list[str]:
    """Return the names of the checks that failed."""
    return [check.name for check in result.checks if check.ok is False]


# The recorded devices.

FOLDER = corpus.EVIDENCE / "nvidia"
_INDEX = FOLDER / "index.json"
NAMES: list[str] = json.loads(_INDEX.read_text()) if _INDEX.is_file() else []
DEVICES = ("hopper", "hgx", "ls10", "blackwell", "rubin")
AT = "2026-03-01T00:00:00Z"
"""When a case that names no time is judged."""


def unix(text: str) -> int:
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


@dataclass(frozen=True)
class Recorded:
    """One case of recorded devices."""

    name: str
    told: dict[str, Any]

    @property
    def now(self) -> int:
        return unix(self.told.get("evaluate_at", AT))

    def read(self, name: str) -> bytes:
        return (FOLDER / self.name / name).read_bytes()

    def sent(self) -> list[DeviceEvidence]:
        """Return the evidence, GPUs first."""
        if "report.bin" in self.told["files"]:
            kind = DeviceKind.SWITCH if self.told["arch"] == "LS10" else DeviceKind.GPU
            return [DeviceEvidence(kind, self.read("report.bin"), self.read("chain.pem"))]
        found = []
        for name, kind in (
            ("evidence.json", DeviceKind.GPU),
            ("gpu_evidence.json", DeviceKind.GPU),
            ("switch_evidence.json", DeviceKind.SWITCH),
        ):
            if name in self.told["files"]:
                found += from_json(self.read(name), kind)
        return found

    def endorsements(self, names: Sequence[str] | None = None) -> GpuEndorsements:
        """Return the RIMs that lie with the case, or these of them."""
        chosen = [n for n in self.told["files"] if n.endswith(".xml")] if names is None else names
        return GpuEndorsements(rims=tuple(map(self.read, chosen)))

    def judge(self, **changes: Any) -> AttestationResult:
        """Appraise without revocation, of which nothing was recorded."""
        arguments: dict[str, Any] = {
            "devices": self.sent(),
            "endorsements": self.endorsements(),
            "policy": None,
            "nonce": None,
            "now": self.now,
            "anchors": PINNED,
            "revocation_required": False,
        }
        return appraise(**(arguments | changes))


def from_json(raw: bytes, kind: DeviceKind) -> list[DeviceEvidence]:
    """Return devices in the form that nvattest and NRAS use."""
    return [
        DeviceEvidence(kind, base64.b64decode(e["evidence"]), base64.b64decode(e["certificate"]))
        for e in json.loads(raw)
    ]


def load(name: str) -> Recorded:
    return Recorded(name, json.loads((FOLDER / name / "case.json").read_text()))
