"""`ostiary runtime attest`: files that `ostiary verify` takes, and options that fit the machine."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from ostiary.simulator.azure import AzureMachine, measure, paravisor
from ostiary.simulator.device import serving
from ostiary.simulator.gcp import GcpMachine
from ostiary.simulator.machine import LaunchRequest, launch_snp, launch_td
from ostiary.simulator.machines import SnpMachine, TdxMachine
from ostiary.simulator.nvidia.devices import DRIVER
from ostiary.simulator.nvidia.keep import open_set
from ostiary.simulator.nvidia.nvml import SimulatedDriver
from tests.cli.conftest import Run, one_line
from tests.kit import nvgpu, vendors

DATA = bytes(range(64)).hex()
NONCE = bytes(range(32)).hex()


def machine(kind: str) -> Any:
    """Return a simulated machine of a kind."""
    cloud, _, tee = kind.rpartition("-")
    request = (
        paravisor(tee) if cloud == "azure" else LaunchRequest(bytes(48 if tee == "tdx" else 32))
    )
    hardware: TdxMachine | SnpMachine
    if tee == "tdx":
        hardware = TdxMachine(vendors.platform(), launch_td(request))
    else:
        hardware = SnpMachine(vendors.chip("Genoa"), launch_snp(request, "Genoa"))
    if cloud == "azure":
        return AzureMachine(hardware, measure(vendors.tpm(), LaunchRequest(bytes(48))))
    return GcpMachine(hardware, vendors.tpm()) if cloud else hardware


@pytest.mark.parametrize("kind", ["tdx", "snp", "azure-tdx", "azure-snp", "gcp-tdx", "gcp-snp"])
def test_a_folder_for_verify(ostiary: Run, tmp_path: Path, kind: str) -> None:
    """What is written is taken by the command that is printed; only the vendor is a simulator's."""
    path, out = tmp_path / "s", tmp_path / "evidence"
    with serving(path, machine(kind)):
        said = ostiary(
            "runtime", "attest", "--simulated-device", path, "--report-data", DATA, "--out", out
        )
    assert said.status == 0, said
    (line,) = [line for line in said.out.splitlines() if line.startswith("judge it")]
    words = shlex.split(line.removeprefix("judge it").removesuffix("--at TIME ..."))
    assert words[:3] == ["ostiary", "verify", kind]
    judged = ostiary(*words[1:], "--at", "2026-03-31T23:33:20Z", "--json")

    assert judged.status == 1, judged
    told = json.loads(judged.out)
    assert set(told["reasons"]) <= {"collateral_missing", "root_unknown", "chain_invalid"}, told
    assert (out / "report-data.hex").read_text() == f"{DATA}\n"
    again = ostiary(
        "runtime", "attest", "--simulated-device", path, "--report-data", DATA, "--out", out
    )
    one_line(again, 1, "device_absent")


def test_evidence_is_never_written_over(ostiary: Run, tmp_path: Path) -> None:
    """A folder that has evidence keeps it."""
    path, out = tmp_path / "s", tmp_path / "evidence"
    words = ("runtime", "attest", "--simulated-device", path, "--report-data", DATA, "--out", out)
    with serving(path, machine("tdx")):
        assert ostiary(*words).status == 0
        one_line(ostiary(*words), 2, "evidence.json")


def test_gpus(ostiary: Run, tmp_path: Path) -> None:
    """GPUs are asked with a nonce of their own, and their file is `verify nvidia`'s."""
    path, out = tmp_path / "s", tmp_path / "evidence"
    driver = SimulatedDriver(open_set(nvgpu.vendor(), None, 8, "ppcie", DRIVER))
    words = ("runtime", "attest", "--simulated-device", path, "--report-data", DATA, "--gpus")
    with serving(path, machine("tdx"), driver):
        one_line(ostiary(*words), 1, "--gpu-nonce")
        one_line(ostiary(*words, "--gpu-nonce", "00"), 2, "32 bytes expected")
        assert ostiary(*words, "--gpu-nonce", NONCE, "--out", out).status == 0

    listed = json.loads((out / "gpus.json").read_text())
    assert [entry["arch"] for entry in listed] == ["GPU"] * 8 + ["LS10"] * 4
    assert {entry["nonce"] for entry in listed} == {NONCE}


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ((), 1, "--report-data"),
        (("--report-data", "zz"), 2, "--report-data"),
        (("--report-data", "00"), 2, "64 bytes expected"),
        (("--broker", "http://127.0.0.1:1"), 1, "--tenant"),
        (("--report-data", DATA, "--tpm", "/dev/x"), 1, "--tpm is for real machines"),
        (("--report-data", DATA, "--privlevel", "0"), 1, "--privlevel is for real machines"),
    ],
)
def test_options(
    ostiary: Run, tmp_path: Path, words: tuple[str, ...], status: int, text: str
) -> None:
    """What is missing or has no use is one line."""
    path = tmp_path / "s"
    with serving(path, machine("tdx")):
        said = ostiary("runtime", "attest", "--simulated-device", path, *words)
    one_line(said, status, text)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--kind", "tdx", "--tpm", "/dev/x"), "no vTPM"),
        (("--kind", "snp", "--azure-fresh-report"), "in Azure only"),
        (("--kind", "tdx", "--privlevel", "1"), "SNP only"),
        (("--kind", "azure-snp", "--tpm", "/nowhere/tpm"), "no TPM at /nowhere/tpm"),
        (("--kind", "azure-snp", "--ak-issuers", "/nowhere/root.der"), "--ak-issuers"),
    ],
)
def test_real_machines(ostiary: Run, words: tuple[str, ...], text: str) -> None:
    """The kind that was told decides; what it lacks is named, with what to do."""
    said = ostiary("runtime", "attest", "--report-data", DATA, *words)
    assert said.status in {1, 2}
    one_line(said, said.status, text)
