"""Arguments of `ostiary verify nvidia`: of a recorded case, and of a simulated set in files."""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Iterable
from pathlib import Path

from ostiary.cli import verify
from tests.kit import nvgpu
from tests.kit.nvgpu import FOLDER, Judge, Recorded
from verifier import x509
from verifier.nvgpu.device import DeviceEvidence, DeviceKind


def has_devices(case: Recorded) -> bool:
    """Tell whether there is evidence in a case, and not only certificates, RIMs or tokens."""
    return any(name.endswith(("report.bin", "evidence.json")) for name in case.told["files"])


def nonce_of(case: Recorded) -> str:
    """Return the nonce that a case says its devices were asked with."""
    listed = case.told.get("gpus") or case.told.get("devices") or [case.told["device"]]
    told = case.told.get("device_without_last_byte") or listed[0]
    return str(told["request_nonce"])


def arguments(case: Recorded, rims: Iterable[str] | None = None) -> list[str]:
    """Return the arguments of `ostiary` that appraise a recorded case, files as they lie there."""
    files, folder = case.told["files"], FOLDER / case.name
    if "gpu_evidence.json" in files:
        found = ["--evidence", "gpu_evidence.json", "--switch-evidence", "switch_evidence.json"]
    elif "report.bin" in files:
        found = ["--report", "report.bin", "--chain", "chain.pem"]
    else:
        found = ["--evidence", "evidence.json"]
    chosen = [name for name in files if name.endswith(".xml")] if rims is None else list(rims)
    if chosen:
        found += ["--rim", *chosen]
    paths = [word if word.startswith("--") else str(folder / word) for word in found]
    rest = ["--no-revocation", "--nonce", nonce_of(case), "--at", x509.rfc3339(case.now), "--json"]
    return ["verify", "nvidia", *paths, *rest]


def parsed(words: list[str]) -> argparse.Namespace:
    """Return what the command makes of its words."""
    parser = argparse.ArgumentParser("ostiary")
    verify.add_parser(parser.add_subparsers(required=True))
    return parser.parse_args(words)


def as_json(devices: Iterable[DeviceEvidence]) -> str:
    """Return evidence in the form that nvattest and NRAS use."""
    return json.dumps(
        [
            {
                "arch": "LS10" if each.kind is DeviceKind.SWITCH else "HOPPER",
                "nonce": nvgpu.NONCE.hex(),
                "evidence": base64.b64encode(each.report).decode(),
                "certificate": base64.b64encode(each.chain).decode(),
            }
            for each in devices
        ]
    )


def write(judge: Judge, folder: Path) -> list[str]:
    """Write a simulated set and all that judges it into files; return the arguments."""
    gpus = [each for each in judge.sent if each.kind is DeviceKind.GPU]
    switches = [each for each in judge.sent if each.kind is DeviceKind.SWITCH]
    words = ["verify", "nvidia", "--nonce", nvgpu.NONCE.hex(), "--at", x509.rfc3339(judge.now)]
    for option, devices in (("--evidence", gpus), ("--switch-evidence", switches)):
        if devices:
            path = folder / f"{option[2:]}.json"
            path.write_text(as_json(devices))
            words += [option, str(path)]
    given = judge.endorsements
    assert given is not None
    for option, parts in (("--rim", given.rims), ("--ocsp", given.ocsp), ("--crl", given.crls)):
        words.append(option)
        for number, raw in enumerate(parts):
            path = folder / f"{option[2:]}-{number}"
            path.write_bytes(raw)
            words.append(str(path))
    policy = folder / "policy.toml"
    counts = f"count = {len(gpus)}\nswitches = {len(switches)}\n"
    policy.write_text(f"[gpu]\n{counts}")
    return [*words, "--policy", str(policy)]
