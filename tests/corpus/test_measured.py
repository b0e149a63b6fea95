"""Every event log and TPM case of the corpus, through the command line, against its `case.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kit import corpus
from tests.kit.corpus import Case
from tests.kit.measured import EVENTLOG_NAMES
from verifier import x509
from verifier.anchors import PINNED
from verifier.result import Appraisal
from verifier.tpm.chain import trim_der, verify_ak_chain

Row = dict[str, tuple[str, ...]]

VERDICTS = {
    "accept": "accept",
    "parse-ok": "accept",
    "parse-and-replay": "accept",
    "replay-ok-semantics-reject": "reject",
    "accept-signature": "accept",
    "reject-by-default-policy": "reject",
    "parse-only": "reject",
}
"""What the defaults make of the corpus' verdict words.

A log that only parses is accepted, with its registers told as not judged. A quote whose key nobody
certified (`accept-signature`) is accepted where the caller names key and nonce, with the key told
as not judged; one whose key and nonce come with the evidence is refused for want of a nonce.
"""
EXITS = {"accept": 0, "reject": 1}

measured = pytest.mark.skipif(not EVENTLOG_NAMES, reason=corpus.ABSENT)


def run(arguments: list[str]) -> tuple[int, dict[str, Any]]:
    status, out, err = corpus.run_cli([*arguments, "--json"])
    assert out, err
    return status, json.loads(out)


def write(row: Row, case: Case, name: str, result: dict[str, Any], what: str) -> None:
    reasons = ", ".join(result["reasons"]) or "-"
    row[name] = (case.expected["verdict"], result["verdict"], "-", f"{reasons}; {what}")


def registers(case: Case, folder: Path) -> list[str]:
    """Return the option that names the registers which the case tells, if it tells any."""
    told = case.expected
    found = {name: told[name] for name in ("rtmr", "pcrs", "replayed") if name in told}
    if not found:
        return []
    path = folder / "registers.json"
    path.write_text(json.dumps(found))
    return ["--registers", str(path)]


@measured
@pytest.mark.parametrize("name", EVENTLOG_NAMES or ["absent"])
def test_event_log(name: str, row: Row, tmp_path: Path) -> None:
    """A log gets its verdict, its events are counted, and every register replays."""
    case = corpus.load(name)
    kind = "ccel" if case.has("ccel.bin") else "tcg"
    path = case.folder / ("ccel.bin" if kind == "ccel" else "event_log.bin")
    status, result = run(
        ["verify", "eventlog", "--log", str(path), "--kind", kind, *registers(case, tmp_path)]
    )
    compared = [c for c in result["checks"] if c["name"].count(".") == 2]
    equal = sum(c["ok"] is True for c in compared)
    write(row, case, name, result, f"{equal} registers equal")
    verdict = VERDICTS[case.expected["verdict"]]

    assert result["verdict"] == verdict, result["checks"]
    assert status == EXITS[verdict]
    assert not any(c["ok"] is False for c in compared)
    assert bool(compared) == bool(registers(case, tmp_path))
    assert result["claims"]["events"] == case.told["validated"]["events"]
    assert result["claims"]["bytes_used"] == case.told["validated"]["bytes_used"]
    if verdict == "reject":
        assert result["reasons"] == ["event_log_refused"]
        assert case.told["validated"]["replay"] == {c["name"][-1]: c["ok"] for c in compared}


@measured
def test_what_the_logs_prove() -> None:
    """Secure Boot, command line, root hash, UKI and dbx are read where the logs have them."""

    def boot(name: str) -> dict[str, Any]:
        log = corpus.EVIDENCE / "eventlog" / name
        path = log / ("ccel.bin" if name.startswith("ccel") else "event_log.bin")
        kind = "ccel" if name.startswith("ccel") else "tcg"
        return dict(run(["verify", "eventlog", "--log", str(path), "--kind", kind])[1]["claims"])[
            "boot"
        ]

    rhel = boot("tpm-rhel8-uefi")
    assert (rhel["secure_boot"], rhel["dbx_present"], rhel["complete"]) == (True, True, True)
    assert rhel["kernel_cmdline"].startswith("(hd0,gpt2)/boot/vmlinuz-4.18.0")
    assert boot("tpm-ubuntu-2104-no-dbx")["dbx_present"] is False
    assert boot("tpm-ubuntu-2104-no-secure-boot")["secure_boot"] is False
    assert len(boot("tpm-cos-101-amd-sev")["verity_root_hashes"]) == 1
    uki = boot("tpm-dstack-gcp-uki")
    assert set(uki["uki_sections"]) == {
        ".linux",
        ".osrel",
        ".cmdline",
        ".initrd",
        ".uname",
        ".sbat",
    }
    assert uki["uki_digest"] is not None
    assert boot("ccel-live-tdreport")["initrd_digest"] is not None
    old = boot("ccel-data-grub")
    assert (old["secure_boot"], old["complete"]) == (True, False)


@measured
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("tdx/v4-00806f-cos113-ccel", "ccel.bin"),
        ("tdx/v4-90c06f-dstack-report", "event_log.json"),
    ],
)
def test_a_quote_with_its_log(name: str, file: str, row: Row) -> None:
    """A quote is accepted with its own log, whose events replay to the signed RTMRs."""
    case = corpus.load(name)
    arguments = [a for a in case.arguments() if a != "--json"]
    status, result = run([*arguments, "--event-log", str(case.folder / file)])
    equal = [c["name"][-1] for c in result["checks"] if c["name"].startswith("event_log.sha384.")]
    write(row, case, f"{name} with its log", result, f"RTMR {' '.join(equal)} replay")

    assert status == 0
    assert result["claims"]["boot"]["proven"] is True
    for register in case.expected.get("rtmr_replay_matches", range(4)):
        name_ = f"event_log.sha384.{register}"
        assert next(c["ok"] for c in result["checks"] if c["name"] == name_) is True
    other = corpus.EVIDENCE / "eventlog" / "ccel-live-tdreport" / "ccel.bin"
    status, result = run([*arguments, "--event-log", str(other)])
    assert (status, result["reasons"]) == (1, ["event_log_mismatch"])


@measured
def test_the_log_of_a_quote_without_collateral(tmp_path: Path) -> None:
    """A log is compared with the RTMRs of a quote that is refused for other reasons."""
    case = corpus.load("tdx/v4-b0c06f-live-no-collateral")
    body = case.expected["fields"]["body"]
    path = tmp_path / "registers.json"
    path.write_text(json.dumps({"rtmr": {str(n): body[f"rtmr{n}"] for n in range(4)}}))
    log = str(case.folder / "ccel.bin")
    status, result = run(
        ["verify", "eventlog", "--log", log, "--kind", "ccel", "--registers", str(path)]
    )

    assert status == 0
    equal = [int(c["name"][-1]) for c in result["checks"] if c["name"].count(".") == 2 and c["ok"]]
    assert set(case.expected["rtmr_replay_matches"]) <= set(equal)


def tpm(case: Case, **files: str) -> list[str]:
    found = ["verify", "tpm", "--at", case.told["verification_time"]["iso"]]
    for option, file in files.items():
        found += [f"--{option}", str(case.folder / file)]
    nonce = case.expected.get("nonce")
    return found if nonce is None else [*found, "--nonce", nonce]


@measured
@pytest.mark.parametrize(
    "name",
    ["tpm2/azure-vtpm-challenge", "tpm2/coco-tpm-tpmt-signature", "tpm2/gcp-attest-only"],
)
def test_quote(name: str, row: Row) -> None:
    """A quote gets its verdict and every parsed field."""
    case = corpus.load(name)
    files = {"attest": "attest.bin"}
    if case.has("signature.bin"):
        files |= {"signature": "signature.bin", "ak": "ak.pem", "pcrs": "pcrs.json"}
    status, result = run(tpm(case, **files))
    write(row, case, name, result, f"{len(case.expected['fields']['attest'])} fields, 0 differ")
    verdict = VERDICTS[case.expected["verdict"]]

    assert result["verdict"] == verdict, result["checks"]
    assert status == EXITS[verdict]
    assert result["claims"]["attest"] == case.expected["fields"]["attest"]


@measured
def test_quote_whose_key_comes_with_the_evidence() -> None:
    """Its signature is good: said aloud that freshness is not judged, it is accepted."""
    case = corpus.load("tpm2/coco-tpm-tpmt-signature")
    files = {"attest": "attest.bin", "signature": "signature.bin"}
    arguments = tpm(case, **files, ak="ak.pem", pcrs="pcrs.json")

    assert run(arguments)[1]["reasons"] == ["nonce_missing"]
    assert run([*arguments, "--no-nonce"])[1]["verdict"] == "accept"


@measured
def test_the_quotes_negatives(tmp_path: Path) -> None:
    """A reversed signature and another nonce are refused, as the case says."""
    case = corpus.load("tpm2/azure-vtpm-challenge")
    files = {"attest": "attest.bin", "ak": "ak.pem", "pcrs": "pcrs.json"}
    bent = tmp_path / "signature"
    bent.write_bytes(case.read("signature.bin")[::-1])

    assert run([*tpm(case, **files), "--signature", str(bent)])[1]["reasons"] == [
        "signature_invalid"
    ]
    good = [*tpm(case, **files, signature="signature.bin"), "--nonce", "01020304"]
    assert run(good)[1]["reasons"] == ["nonce_mismatch"]


@measured
@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
@pytest.mark.parametrize("ak", ["ak_pub.tpmt", "ak_cert.der"])
def test_gce(bank: str, ak: str, row: Row, tmp_path: Path) -> None:
    """GCE's three quotes verify with chain and log; SHA-1 needs the policy's word."""
    case = corpus.load("tpm2/gce-cos85-nonce9009")
    arguments = tpm(
        case,
        attest=f"quote_{bank}.attest",
        signature=f"quote_{bank}.sig",
        ak=ak,
        pcrs=f"pcrs_{bank}.json",
    )
    arguments += ["--event-log", str(case.folder / "event_log.bin")]
    if ak == "ak_cert.der":
        issuers = ("tpm_ek_intermediate_2.der", "tpm_ek_root_1.der")
        arguments += ["--ak-chain", *(str(case.folder / each) for each in issuers)]
    status, result = run(arguments)
    write(row, case, f"{case.name} {bank} {ak}", result, "with log")

    assert result["claims"][bank] == case.expected["fields"][bank]
    assert result["claims"]["boot"]["secure_boot"] is True
    assert result["reasons"] == (["hash_not_allowed"] if bank == "sha1" else [])
    assert status == (1 if bank == "sha1" else 0)
    policy = tmp_path / "policy.toml"
    pcr = json.loads(case.read(f"pcrs_{bank}.json"))["pcrs"]["7"]
    policy.write_text(
        f'[tpm]\nbank = "{bank}"\npcrs = [0, 7]\nallow_sha1 = true\n'
        f'[[reference]]\nkind = "tpm"\nname = "cos"\npcrs = {{ 7 = "{pcr}" }}\n'
        "boot = { secure_boot = true, dbx_present = true }\n"
    )
    assert run([*arguments, "--policy", str(policy)])[0] == 0


def der(case: Case, name: str) -> bytes:
    raw = case.read(name)
    start = raw.find(b"-----BEGIN CERTIFICATE-----")
    return raw if start < 0 else x509.split_pem(raw[start:], name, limit=1)[0]


@measured
@pytest.mark.parametrize(
    ("name", "leaf", "issuers", "now"),
    [
        (
            "tpm2/azure-ak-certificates",
            "test_azure_ak_certificate_01.der",
            ("azure_tpm_intermediate_03.pem", "azure_tpm_root_2023.pem"),
            1_770_000_000,
        ),
        (
            "tpm2/azure-ak-certificates",
            "test_azure_ak_certificate_03.nv.bin",
            ("azure_tpm_intermediate_03.pem", "azure_tpm_root_2023.pem"),
            1_770_000_000,
        ),
        (
            "tpm2/gce-ak-certificates",
            "test_gce_ak_cert.der",
            ("test_gce_ak_intermediate_cert.der", "gce_ek_ak_root.pem"),
            1_770_000_000,
        ),
        (
            "az-tdx-vtpm/90c06f-ak-chain-2026",
            "ak_cert.der",
            ("ak_intermediate_0.pem", "ak_intermediate_1.pem", "root_virtual-tpm-2023.pem"),
            1_785_000_000,
        ),
    ],
)
def test_ak_certificates(  # noqa: PLR0917 - a case's parts
    name: str, leaf: str, issuers: tuple[str, ...], now: int, row: Row, tmp_path: Path
) -> None:
    """AK certificates of Azure and Google chain to their makers' pinned roots."""
    del tmp_path
    case = corpus.load(name)
    appraisal = Appraisal("tpm")
    certificate = verify_ak_chain(
        appraisal,
        trim_der(der(case, leaf)),
        [der(case, each) for each in issuers],
        now=now,
        anchors=PINNED,
    )
    row[f"{name} {leaf}"] = (case.expected["verdict"], "chain good", "-", "a pinned root")

    told = case.expected["fields"].get(leaf)
    if told is not None:
        assert x509.rfc3339(x509.not_before(certificate)) == told["not_before"]
        assert x509.rfc3339(x509.not_after(certificate)) == told["not_after"]
    assert not appraisal.simulated
