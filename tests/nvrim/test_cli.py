"""`ostiary collateral` for NVIDIA's parts, as a person types it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from ostiary import clock, vendor
from ostiary.__main__ import main
from ostiary.cli import gpu_evidence
from ostiary.simulator.nvidia import devices
from ostiary.simulator.nvidia.devices import DeviceSet
from ostiary.simulator.nvidia.pki import FakeNvidia
from ostiary.simulator.nvidia.services import NvidiaServices
from tests.kit import nvrim
from tests.kit.nvrim import Place
from verifier import dsse
from verifier.errors import Reason, VerifierError
from verifier.nvgpu.identity import DeviceKind
from verifier.wire import canonical

DRIVER_ID = "NV_GPU_DRIVER_GH100_590.12"


class Desk:
    """A folder with roots, evidence and a signing key; services whose NVIDIA is current now."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.folder = folder
        self.server = place.server
        self.vendor = FakeNvidia.create(clock.now())
        self.known = NvidiaServices.published(self.vendor, clock.now)
        place.server.vendors.nvidia = self.known
        roots = {
            "nvidia_device": [self.vendor.device_root_pin.hex()],
            "nvidia_rim": [self.vendor.rim_root_pin.hex()],
        }
        self.roots = folder / "roots.json"
        self.roots.write_text(json.dumps(roots))
        self.key = folder / "key.pem"
        spki = dsse.spki(vendor.new_key(self.key).public_key())
        self.signer = folder / "key.pem.pub"
        self.signer.write_text(canonical.b64encode(spki) + "\n")

    def __call__(self, verb: str, *arguments: str | Path, store: str = "store") -> int:
        given = [
            *("collateral", verb, "--store", self.folder / store),
            *("--dangerously-trust-simulated-roots", self.roots),
            *arguments,
        ]
        return main([str(each) for each in given])

    def fetch(self, *arguments: str | Path, store: str = "store") -> int:
        url = self.server.url
        asked = ("--nvidia-rim", url, "--nvidia-ocsp", url, "--nvidia-crl", url)
        return self("fetch", *asked, *arguments, store=store)

    def evidence(self, whole: DeviceSet) -> tuple[Path, Path]:
        """Write the files that nvattest writes, of GPUs and of switches."""
        gpus = self.folder / "gpus.json"
        switches = self.folder / "switches.json"
        entries: dict[int, list[dict[str, str]]] = {1: [], 2: []}
        for each in whole.devices:
            entries[each.kind].append(
                {
                    "arch": "HOPPER" if each.kind == 1 else "LS10",
                    "nonce": nvrim.NONCE.hex(),
                    "evidence": base64.b64encode(each.report(nvrim.NONCE)).decode(),
                    "certificate": base64.b64encode(each.chain).decode(),
                }
            )
        gpus.write_text(json.dumps(entries[1]))
        switches.write_text(json.dumps({"evidences": entries[2], "result_code": 0}))
        return gpus, switches


@pytest.fixture
def desk(place: Place, tmp_path: Path) -> Desk:
    return Desk(place, tmp_path)


def test_a_boards_parts_are_fetched_shown_and_carried(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the evidence of a whole board, across an air gap, and shown at the other side."""
    files = desk.evidence(devices.device_set(desk.vendor, 8, "ppcie"))
    assert desk.fetch("--gpu-evidence", *files) == 0
    printed = capsys.readouterr().out
    assert printed.count("nvidia/ocsp/") == 21
    assert printed.count("nvidia/rim/") == 3
    bundle = desk.folder / "carried.json"
    assert desk("export", bundle, "--key", desk.key, "--only", "nvidia/") == 0
    assert desk("import", bundle, "--signer", desk.signer, store="site") == 0
    assert "took in   24 parts" in capsys.readouterr().out
    assert desk("show", store="site") == 0
    assert f"nvidia/rim/{DRIVER_ID}" in capsys.readouterr().out


def test_a_rim_is_fetched_by_its_id(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """With its signers' OCSP answers; an id that NVIDIA does not have is an error by name."""
    key = desk.folder / "key"
    key.write_text("secret\n")
    assert desk.fetch("--rim", DRIVER_ID.lower(), "--nvidia-key", key) == 0
    assert capsys.readouterr().out.count("nvidia/ocsp/") == 3
    assert desk.fetch("--rim", "NV_GPU_DRIVER_GH100_1.1") == 1
    assert "does not have it" in capsys.readouterr().err
    assert desk.fetch("--rim", "../x") == 1
    assert "not the id of a RIM" in capsys.readouterr().err


def test_a_rim_whose_signer_has_ended_is_carried_loudly(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is exported with a warning, and `show` fails for it."""
    assert desk.fetch("--rim", DRIVER_ID) == 0
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + 800 * nvrim.DAY)
    capsys.readouterr()
    out = desk.folder / "late.json"
    assert desk("export", out, "--key", desk.key) == 0
    printed = capsys.readouterr().out
    assert f"ENDED     nvidia/rim/{DRIVER_ID}" in printed
    assert printed.count("left out  nvidia/ocsp/") == 3
    assert desk("import", out, "--signer", desk.signer, store="site") == 0
    assert desk("show", store="site") == 1
    assert "ENDED" in capsys.readouterr().out


def test_a_strangers_device_is_refused(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody is asked about a device of another root."""
    gpus, _ = desk.evidence(devices.device_set(FakeNvidia.create(clock.now()), 1))
    assert desk.fetch("--gpu-evidence", gpus) == 1
    assert "root_unknown" in capsys.readouterr().err
    assert not desk.server.asked


ENTRY = {"arch": "LS10", "evidence": "AA==", "certificate": "AQ=="}


def test_evidence_files_are_read_strictly() -> None:
    """A list of devices with base64, switches by their arch; anything else is refused by name."""
    (device,) = gpu_evidence.read(json.dumps([ENTRY]).encode(), "F")
    assert (device.kind, device.report, device.chain) == (DeviceKind.SWITCH, b"\0", b"\1")
    odd: list[Any] = [
        {},
        [],
        {"evidences": None},
        [1],
        [ENTRY | {"arch": 1}],
        [ENTRY | {"evidence": "*"}],
        [ENTRY | {"evidence": "\u00e9"}],
        [ENTRY] * 65,
    ]
    for what in odd:
        with pytest.raises(VerifierError) as caught:
            gpu_evidence.read(json.dumps(what).encode(), "F")
        assert caught.value.reason is Reason.MALFORMED
    for raw, reason in (
        (b"{", Reason.MALFORMED),
        (b"[" * 100_000, Reason.MALFORMED),
        (b"\xff", Reason.MALFORMED),
        (bytes(gpu_evidence.MAX_FILE + 1), Reason.TOO_LARGE),
    ):
        with pytest.raises(VerifierError) as caught:
            gpu_evidence.read(raw, "F")
        assert caught.value.reason is reason
