"""`ostiary verify gcp-tdx` and `gcp-snp`: files in, exit status and result out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kit import corpus, vendors
from tests.kit.corpus import EVIDENCE
from tests.kit.gcp import DATA, Machine, snp_machine, tdx_machine, vtpm
from verifier.snp import SnpEndorsements

AT = ["--at", "2026-03-31T00:00:00Z", "--json"]


def write(folder: Path, machine: Machine) -> list[str]:
    """Write a machine's evidence to files and return the arguments that name them."""
    told, amd = machine.evidence, machine.endorsements
    files: dict[str, bytes] = {}
    if isinstance(amd, SnpEndorsements):
        files |= {"report": told.cpu, "vek": amd.vek, "ask": amd.ask, "ark": amd.ark}
        files["crl"] = amd.crl or b""
    else:
        files |= {"quote": told.cpu, "collateral": json.dumps(vendors.good_collateral()).encode()}
    if told.tpm is not None:
        values = {str(n): value.hex() for n, value in (told.tpm.pcrs or {})["sha256"].items()}
        files |= {
            "tpm-message": told.tpm.attest or b"",
            "tpm-signature": told.tpm.signature or b"",
            "ak": told.tpm.ak or b"",
            "pcrs": json.dumps({"sha256": values}).encode(),
        }
    arguments = ["verify", told.kind, *AT, "--report-data", DATA.hex()]
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
        arguments += [f"--{name}", str(folder / name)]
    return arguments


def judged(arguments: list[str]) -> tuple[int, dict[str, Any]]:
    """Return exit status and result."""
    status, out, err = corpus.run_cli(arguments)
    assert out, err
    return status, json.loads(out)


@pytest.mark.parametrize("make", [tdx_machine, snp_machine])
def test_a_simulators_roots_are_not_pinned(tmp_path: Path, make: Any) -> None:
    """The command line trusts real vendors only; the vTPM is judged and shown all the same."""
    status, told = judged(write(tmp_path, make(vtpm())))

    assert (status, told["reasons"]) == (1, ["root_unknown"])
    checks = {each["name"]: each["ok"] for each in told["checks"]}
    assert checks["vtpm.tpm.nonce"] is True
    assert checks["vtpm.tpm.signature"] is True


def test_without_hardware(tmp_path: Path) -> None:
    """The vTPM alone is refused by name."""
    arguments = write(tmp_path, tdx_machine(vtpm()))
    place = arguments.index("--quote")
    del arguments[place : place + 2]

    status, told = judged(arguments)
    assert (status, told["reasons"]) == (1, ["hardware_report_missing"])


def test_unreadable(tmp_path: Path) -> None:
    """What is no hexadecimal or no file is exit status 2, and names the option."""
    arguments = write(tmp_path, tdx_machine())
    for option in ("--report-data", "--quote", "--collateral"):
        bad = list(arguments)
        bad[bad.index(option) + 1] = "zz"
        status, _, err = corpus.run_cli(bad)
        assert (status, option in err) == (2, True)


@pytest.mark.skipif(not EVIDENCE.is_dir(), reason="the corpus of evidence is absent")
def test_a_machine_of_googles() -> None:
    """A real TD at Google is accepted by its quote; a real vTPM of Google's denies if it is old."""
    folder = EVIDENCE / "tdx" / "v4-00806f-gcp-uptodate-2026-01"
    case = json.loads((folder / "case.json").read_text())
    tpm = EVIDENCE / "tpm2" / "gce-cos85-nonce9009"
    hardware = ["verify", "gcp-tdx", "--json", "--at", case["verification_time"]["iso"]]
    hardware += ["--quote", str(folder / "quote.bin")]
    hardware += ["--collateral", str(folder / "collateral.json")]
    hardware += ["--report-data", case["expected"]["report_data_hex"]]
    shown = ["--tpm-message", str(tpm / "quote_sha256.attest"), "--pcrs"]
    shown += [str(tpm / "pcrs_sha256.json"), "--tpm-signature", str(tpm / "quote_sha256.sig")]
    shown += ["--ak", str(tpm / "ak_pub.tpmt"), "--tpm-log", str(tpm / "event_log.bin")]

    assert judged(hardware)[0] == 0
    status, told = judged([*hardware, *shown, "--nonce", "9009"])
    assert (status, told["claims"]["vtpm"]["attest"]["extra_data"]) == (0, "9009")
    status, told = judged([*hardware, *shown])
    assert (status, told["reasons"]) == (1, ["nonce_mismatch"])
