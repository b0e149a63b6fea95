"""What both are asked: recorded GPUs, what can be made of them, and simulated ones.

Guarantees: each question has one set of bytes, and both get exactly those. RIMs go to ours as
documents and to the SDK under the ids by which it asks the RIM service. Every recorded case with a
GPU's report in it is asked; what forgery can make of the one case with all its RIMs is asked too.
"""

from __future__ import annotations

import base64
import calendar
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, final

from ostiary.simulator import certificates
from ostiary.simulator.nvidia import devices as simulated
from ostiary.simulator.nvidia import faults
from ostiary.simulator.nvidia.devices import Device
from ostiary.simulator.nvidia.pki import FakeNvidia
from ostiary.simulator.nvidia.report import raw_signature
from ostiary.simulator.nvidia.services import NvidiaServices
from verifier.anchors import PINNED, Anchors
from verifier.errors import VerifierError
from verifier.nvgpu import chain, opaque, spdm
from verifier.nvgpu.device import DeviceEvidence, DeviceKind, rim_ids

FULL: Final = "hopper/h100-550.90.07-full"
_ROOT: Final = Path(__file__).resolve().parents[2]
_AT: Final = "2026-03-01T00:00:00Z"
_SIMULATED_NOW: Final = 1_775_000_000
_NONCE: Final = bytes(range(32))
_ARCHS: Final = {"hopper": 9, "blackwell": 10, "rubin": 13}
"""NVML's numbers."""
_SIGNATURE: Final = 96
_FLIPS: Final = (5, 40, 60, 1000, 3500, 3700, 4000, -50)
"""Places in a report: nonce, header, blocks, opaque data, signature."""


@final
@dataclass(frozen=True, slots=True)
class Question:
    """One set of devices with what judges it. `rims` by the service's id; `now` in unix seconds."""

    name: str
    devices: tuple[DeviceEvidence, ...]
    rims: Mapping[str, bytes]
    nonce: bytes
    now: int
    anchors: Anchors = PINNED
    rim_root: str = ""

    def to_sdk(self, times: int = 1) -> dict[str, Any]:
        """Return the question as `ask.py` takes it."""
        return {
            "devices": [_told(each) for each in self.devices],
            "rims": {name: raw.decode("utf-8", "replace") for name, raw in self.rims.items()},
            "rim_root": self.rim_root,
            "nonce": self.nonce.hex(),
            "now": self.now,
            "times": times,
        }


def _told(evidence: DeviceEvidence) -> dict[str, Any]:
    """Return a device as the SDK takes it; NVML's words are read from the report."""
    arch, driver, vbios = "hopper", "", ""
    try:
        arch = chain.load(evidence.chain).identity.arch
        fields = opaque.parse(spdm.parse(evidence.report[: _end(evidence.report)]).opaque)
        driver, vbios = fields.driver_version() or "", fields.vbios_version() or ""
    except VerifierError:
        pass  # whatever is wrong with it, the SDK shall say
    return {
        "report": base64.b64encode(evidence.report).decode(),
        "chain": evidence.chain.decode("latin-1"),
        "arch": _ARCHS.get(arch, 0),
        "driver": driver,
        "vbios": vbios,
    }


def _end(report: bytes) -> int:
    """Return where a report ends, which one recorded one does not know."""
    record = int.from_bytes(report[42:45], "little")
    at = 45 + record + 32
    return at + 2 + int.from_bytes(report[at : at + 2], "little") + _SIGNATURE


@dataclass(frozen=True)
class Case:
    """A recorded case."""

    name: str
    folder: Path
    told: dict[str, Any] = field(repr=False)

    @property
    def now(self) -> int:
        """When it is judged."""
        at = time.strptime(self.told.get("evaluate_at", _AT), "%Y-%m-%dT%H:%M:%SZ")
        return calendar.timegm(at)

    def read(self, name: str) -> bytes:
        """Return one of its files."""
        return (self.folder / name).read_bytes()

    def gpus(self) -> list[DeviceEvidence]:
        """Return its GPUs."""
        files = self.told["files"]
        if "report.bin" in files:
            return [DeviceEvidence(DeviceKind.GPU, self.read("report.bin"), self.read("chain.pem"))]
        (name,) = (name for name in ("evidence.json", "gpu_evidence.json") if name in files)
        return [
            DeviceEvidence(
                DeviceKind.GPU,
                base64.b64decode(each["evidence"]),
                base64.b64decode(each["certificate"]),
            )
            for each in json.loads(self.read(name))
        ]

    def question(self, name: str, evidence: DeviceEvidence, rims: Mapping[str, str]) -> Question:
        """Return the question whether one of its GPUs is good; `rims` are files by kind."""
        return Question(
            name,
            (evidence,),
            {wanted: self.read(rims[kind]) for kind, wanted in _ids(evidence) if kind in rims},
            evidence.report[4:36],
            self.now,
        )


def _ids(evidence: DeviceEvidence) -> list[tuple[str, str]]:
    try:
        chip = chain.load(evidence.chain).identity.chip
        found = rim_ids(chip, opaque.parse(spdm.parse(evidence.report).opaque))
    except VerifierError:
        return []
    return [(str(kind), wanted) for kind, wanted in found.items()]


def corpus() -> Path | None:
    """Return the folder of recorded NVIDIA cases, if it is here."""
    folder = _ROOT / os.environ.get("OSTIARY_EVIDENCE_DIR", "../shared/evidence") / "nvidia"
    return folder.resolve() if folder.is_dir() else None


def load(folder: Path, name: str) -> Case:
    """Return a recorded case."""
    told = json.loads((folder / name / "case.json").read_text())
    return Case(name, folder / name, told)


def with_devices(folder: Path) -> list[Case]:
    """Return the recorded cases that have a device's report."""
    cases = (
        load(folder, str(path.parent.relative_to(folder))) for path in folder.glob("*/*/case.json")
    )
    found = [
        c
        for c in cases
        if any(f.endswith(("report.bin", "evidence.json")) for f in c.told["files"])
    ]
    return sorted(found, key=lambda case: case.name)


_RIMS: Final[dict[str, list[tuple[str, dict[str, str]]]]] = {
    FULL: [
        (
            "",
            {
                "driver": "NV_GPU_DRIVER_GH100_550.90.07.swidtag.xml",
                "vbios": "NV_GPU_VBIOS_1010_0200_882_96009F0001.swidtag.xml",
            },
        )
    ],
    "hopper/h100-535.86.09-rim-mismatch": [
        (
            ", RIM of 2023",
            {"driver": "driver_mismatch_badsig.xml", "vbios": "vbios_PROD_2023.swidtag.xml"},
        ),
        (
            ", other RIM",
            {"driver": "driver_mismatch_badsig.xml", "vbios": "vbios_mismatch_signed.xml"},
        ),
    ],
}
"""RIMs that lie with a case, by the ways to combine them."""


def recorded(folder: Path) -> Iterator[Question]:
    """Yield each recorded GPU alone, as it was recorded."""
    for case in with_devices(folder):
        if case.told["arch"] == "LS10":
            continue
        for number, evidence in enumerate(case.gpus()):
            for which, rims in _RIMS.get(case.name, [("", {})]):
                yield case.question(f"{case.name} gpu[{number}]{which}", evidence, rims)


def switches(folder: Path) -> Iterator[str]:
    """Yield the cases of switches, of which the SDK cannot be asked."""
    for case in with_devices(folder):
        if "LS10" in case.told["arch"]:
            yield case.name


def full(folder: Path) -> Question:
    """Return the question about the recorded GPU with all its RIMs, which both accept."""
    case = load(folder, FULL)
    ((_, rims),) = _RIMS[FULL]
    return case.question("full", case.gpus()[0], rims)


def derived(folder: Path) -> Iterator[Question]:
    """Yield what can be made of the recorded GPU that both accept."""
    good = full(folder)
    (gpu,) = good.devices

    def changed(name: str, evidence: DeviceEvidence) -> Question:
        return replace(good, name=f"full, {name}", devices=(evidence,))

    yield replace(good, name="full, at a time when its driver RIM has ended", now=1_795_132_800)
    yield replace(good, name="full, another nonce", nonce=bytes(32))
    driver, vbios = good.rims
    yield replace(good, name="full, no driver RIM", rims={vbios: good.rims[vbios]})
    yield replace(good, name="full, no VBIOS RIM", rims={driver: good.rims[driver]})
    for at in _FLIPS:
        yield changed(f"bit at {at} of its report", replace(gpu, report=_flip(gpu.report, at)))
    yield changed("a byte too many", replace(gpu, report=gpu.report + b"\0"))
    chains = load(folder, "hopper/device-chain-negatives")
    for number in (2, 3, 4):
        pem = chains.read(f"chain_case{number}.pem")
        yield changed(f"chain_case{number}.pem", replace(gpu, chain=pem))
    yield changed("forged: own root, own keys", _forged(gpu))
    for name, second in (
        ("and one with a tampered report", replace(gpu, report=_flip(gpu.report, 1000))),
        ("and one of garbage", replace(gpu, report=b"\xa5" * 4000)),
        ("and itself again", gpu),
    ):
        yield replace(good, name=f"set: full {name}", devices=(gpu, second))


def _flip(raw: bytes, at: int) -> bytes:
    place = at % len(raw)
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


def _forged(gpu: DeviceEvidence) -> DeviceEvidence:
    """Return the same report from a device that was made at home."""
    identity = FakeNvidia.create(_SIMULATED_NOW).device("GH100", chain.load(gpu.chain).fwid)
    signed = gpu.report[:-_SIGNATURE]
    return DeviceEvidence(
        gpu.kind, signed + raw_signature(identity.key, signed), identity.chain_pem
    )


def simulation() -> Iterator[Question]:
    """Yield simulated GPUs: where the SDK believes them, they are like real ones."""
    vendor = FakeNvidia.create(_SIMULATED_NOW)
    services = NvidiaServices.published(vendor, lambda: _SIMULATED_NOW)
    one = simulated.device_set(vendor, 1).gpus[0]
    old = simulated.device_set(vendor, 1, driver="570.86.10").gpus[0]
    anchors = PINNED.with_simulated(
        nvidia_device=[vendor.device_root_pin], nvidia_rim=[vendor.rim_root_pin]
    )

    def ask(name: str, *devices: Device) -> Question:
        return Question(
            f"SIMULATED {name}",
            tuple(DeviceEvidence(DeviceKind.GPU, d.report(_NONCE), d.chain) for d in devices),
            services.rims,
            _NONCE,
            _SIMULATED_NOW,
            anchors,
            certificates.pem(vendor.certificates["rim_root"]),
        )

    yield ask("one GPU", one)
    yield ask("one GPU, driver 570", old)
    for index in (9, 21, 35):
        yield ask(f"other measurement at {index}", faults.bad_measurement(one, index))
    yield ask("another FWID", faults.other_firmware_id(one))
    yield ask("bad signature", faults.bad_signature(one))
    yield ask("stale", faults.stale(one, bytes(32)))
    yield ask("two GPUs in modes spt and mpt", one, simulated.device_set(vendor, 2).gpus[0])
    yield ask("eight GPUs", *simulated.device_set(vendor, 8).gpus)
    board = simulated.device_set(vendor, 8, "ppcie")
    yield ask("GPUs of a protected-PCIe board without its switches", *board.gpus)
