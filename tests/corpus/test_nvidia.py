"""Every case of recorded NVIDIA devices, RIMs and tokens, against its `case.json`.

Nobody recorded revocation, so that it is not asked for here; a device is then accepted if its RIMs
lie with it, and else told to be genuine and refused for want of them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.kit import corpus, nvgpu
from tests.kit.nvgpu import Recorded
from verifier import x509
from verifier.anchors import PINNED
from verifier.errors import VerifierError
from verifier.nvgpu import chain, nras, opaque, rim, spdm
from verifier.nvgpu.device import DeviceEvidence
from verifier.nvgpu.opaque import FieldType
from verifier.result import AttestationResult

Row = dict[str, tuple[str, ...]]
Fields = dict[str, Any]

recorded = pytest.mark.skipif(not nvgpu.NAMES, reason=corpus.ABSENT)

RESULTS: dict[str, tuple[str, str, list[str]]] = {
    "hopper/h100-550.90.07-full": ("PASS", "accept", []),
    "ls10/ls10-96.10.55-full": ("PASS", "accept", []),
    "hopper/h100-535.86.09-rim-mismatch": ("FAIL", "reject", ["gpu_fwid", "collateral_signature"]),
    "hopper/h100-590.12-ppcie-single": ("PASS, no RIMs", "reject", ["collateral_missing"]),
    "hopper/h100-570.86.10-certhold": ("PASS, no RIMs", "reject", ["collateral_missing"]),
    "hopper/h100x4-590.12-ppcie-multi": ("PASS, no RIMs", "reject", ["collateral_missing"]),
    "hopper/h100-560.00-invalid-signature": ("FAIL", "reject", ["signature_invalid"]),
    "hopper/h100-580.95.05-trailing-byte": ("FAIL", "reject", ["trailing_data"]),
    "hgx/hgx8-h100-4xls10-ppcie-590.12": ("12 of 12 valid", "reject", ["collateral_missing"]),
    "blackwell/gb100-575.32": ("genuine", "unsupported", ["gpu_unsupported"]),
    "rubin/gr100-620.54-nvdaod": ("unsupported", "unsupported", ["gpu_unsupported"]),
    "ls10/ls10-invalid-signature": ("FAIL", "reject", ["signature_invalid"]),
}
"""By case: what it says in a word, and the verdict of each of its devices, with the reasons."""
SETS = {
    # In mode ppcie there is no set of one GPU or four: these are parts of a board.
    "hopper/h100-590.12-ppcie-single": ["gpu_topology"],
    "hopper/h100x4-590.12-ppcie-multi": ["gpu_topology"],
}
"""Reasons that a set has beside those of its devices."""
LAYOUTS = {"legacy": "legacy-TLV", "NVDAOD 2.0": "NVDAOD profile=0 v2.0"}
FWIDS = {None: "absent in report", True: "match", False: "MISMATCH"}
FORGED = {"hopper/h100-560.00-invalid-signature", "hopper/h100-580.95.05-trailing-byte"} | {
    "ls10/ls10-invalid-signature"
}


def told(case: Recorded) -> list[Fields]:
    """Return what a case says of each device's fields, in the order of its evidence."""
    if "gpus" in case.told:
        return [*case.told["gpus"], *case.told["switches"]]
    if "devices" in case.told:
        return list(case.told["devices"])
    return [case.told["device"]]


def seen(evidence: DeviceEvidence) -> Fields:
    """Return the same fields as they are read here."""
    found: Fields = {"report_bytes": len(evidence.report)}
    try:
        report = spdm.parse(evidence.report)
    except VerifierError as error:
        return found | {"parse": f"FAIL: {str(error).rpartition(', ')[2]}"}
    certificates = chain.load(evidence.chain)
    certificates.check_root(PINNED)
    fields = opaque.parse(report.opaque)
    fwid = fields.get(FieldType.FWID)
    name = certificates.identity
    return found | {
        "parse": "ok",
        "report_signature": "valid" if report.verifies(certificates.key) else "INVALID",
        "device_chain": "valid to pinned NVIDIA Device Identity CA",
        "fwid": FWIDS[None if fwid is None else fwid == certificates.fwid],
        "leaf_cn": name.model,
        "leaf_serial_dec": str(x509.serial_number(certificates.certificates[0])),
        "brom_serial_hex": name.device_id.hex(),
        "driver": fields.driver_version(),
        "vbios": fields.vbios_version(),
        "request_nonce": report.nonce.hex(),
        "blocks": len(report.blocks),
        "opaque_format": LAYOUTS[fields.layout],
        "opaque_types": sorted(fields.fields),
        "nvdec0": _hex(fields.get(FieldType.NVDEC0_STATUS)),
        "protected_pcie": _hex(fields.get(FieldType.PROTECTED_PCIE_STATUS)),
        "opaque_data_version": _hex(fields.get(FieldType.OPAQUE_DATA_VERSION)),
        "feature_flag": _hex(fields.get(FieldType.FEATURE_FLAG)),
        "chip_info": fields.name(FieldType.CHIP_INFO),
    }


def _hex(raw: bytes | None) -> str | None:
    return None if raw is None else raw.hex()


def differences(case: Recorded) -> list[str]:
    found = []
    for number, (expected, evidence) in enumerate(zip(told(case), case.sent(), strict=True)):
        mine = seen(evidence)
        found += [
            f"device {number}: {key}: {value!r} expected, {mine.get(key)!r} seen"
            for key, value in expected.items()
            if mine.get(key) != value and not (key == "parse" and "trailing" in value)
        ]
    return found


def compared(result: AttestationResult) -> str:
    some = [c.seen for c in result.checks if c.name.endswith("measurements") and c.ok is not None]
    return "; ".join(dict.fromkeys(some)) or "no RIMs to compare with"


@recorded
@pytest.mark.parametrize("name", RESULTS)
def test_devices(name: str, row: Row) -> None:
    """A case's devices get the verdict that it names, for its reason, and every field of it."""
    case = nvgpu.load(name)
    says, verdict, reasons = RESULTS[name]
    result = case.judge()
    wrong = differences(case)
    whole = [reason.value for reason in result.reasons]
    count = sum(map(len, told(case)))
    why = f"{', '.join(whole) or '-'}; {compared(result)}; {count} fields, {len(wrong)} differ"
    row[f"nvidia/{name}"] = (says, result.verdict.value, "-", why)

    assert wrong == []
    devices = result.claims["devices"]
    assert [(each["verdict"], each["reasons"]) for each in devices] == [
        (verdict, reasons) for _ in devices
    ]
    assert whole == reasons + SETS.get(name, [])
    assert {each["genuine"] for each in devices} == {name not in FORGED}


@recorded
def test_measurements_of_the_full_cases() -> None:
    """Every golden value matches, as many as the cases say, and index 35 is skipped."""
    (gpu,) = nvgpu.load("hopper/h100-550.90.07-full").judge().claims["devices"]
    (switch,) = nvgpu.load("ls10/ls10-96.10.55-full").judge().claims["devices"]

    assert (len(gpu["claims"]["compared"]), gpu["claims"]["skipped"]) == (32, [35])
    assert (len(switch["claims"]["compared"]), switch["claims"]["skipped"]) == (31, [])
    assert gpu["claims"]["mismatches"] == switch["claims"]["mismatches"] == []


@recorded
@pytest.mark.parametrize(
    ("name", "rims"),
    [
        ("hopper/h100-550.90.07-full", None),
        ("ls10/ls10-96.10.55-full", ["rim_signed_2024-05.xml"]),
    ],
)
def test_signers_that_have_ended(name: str, rims: list[str] | None) -> None:
    """At the clock of November 2026 a RIM of a signer that has ended is refused as expired."""
    case = nvgpu.load(name)
    now = nvgpu.unix("2026-11-20T00:00:00Z")
    result = case.judge(endorsements=case.endorsements(rims), now=now)

    assert [reason.value for reason in result.reasons] == ["rim_expired"]


@recorded
def test_board_of_eight_and_four() -> None:
    """The recorded HGX board closes its topology both ways, under one nonce, each device once."""
    case = nvgpu.load("hgx/hgx8-h100-4xls10-ppcie-590.12")
    nonce = bytes.fromhex(told(case)[0]["request_nonce"])
    checks = {c.name: c for c in case.judge(nonce=nonce).checks}

    for name in ("topology", "nonce", "device_ids", "chip", "driver", "mode"):
        assert checks[f"gpus.{name}"].ok, checks[f"gpus.{name}"]
    assert checks["switch[3].nonce"].ok
    without = case.judge(devices=case.sent()[:8])
    assert [c.name for c in without.checks if c.ok is False][-1] == "gpus.topology"
    other = nvgpu.load("ls10/ls10-96.10.55-full").sent()[0]
    spliced = case.judge(devices=[*case.sent()[:11], other])
    assert {"gpu_topology", "gpu_set_mixed"} < {reason.value for reason in spliced.reasons}


@recorded
def test_without_the_trailing_byte() -> None:
    """The report with a byte too many is good without it."""
    case = nvgpu.load("hopper/h100-580.95.05-trailing-byte")
    (sent,) = case.sent()
    cut = replace(sent, report=sent.report[:-1])

    assert seen(cut) == case.told["device_without_last_byte"]
    assert case.judge(devices=[cut]).claims["devices"][0]["genuine"] is True


@recorded
def test_two_rims_of_one_name() -> None:
    """NVIDIA signed two VBIOS RIMs of one name: the report fits the one, and not the other at 9."""
    case = nvgpu.load("hopper/h100-535.86.09-rim-mismatch")
    blocks = spdm.parse(case.sent()[0].report).blocks
    found = {}
    for file in ("vbios_PROD_2023.swidtag.xml", "vbios_mismatch_signed.xml"):
        manifest = rim.verify(case.read(file), now=case.now, anchors=PINNED)
        active = {at: each for at, each in manifest.golden.items() if each.active}
        found[manifest.tag_id, manifest.version, file] = (
            len(active),
            [at for at, each in active.items() if blocks[at + 1].value not in each.alternatives],
        )

    assert list(found.values()) == [(12, []), (12, [9])]
    assert len({name[:2] for name in found}) == 1


@recorded
def test_chains_alone(row: Row) -> None:
    """The chains that lack a certificate, or begin at the boot ROM, are refused."""
    for name, files in (
        ("hopper/device-chain-missing-brom", ("chain.pem",)),
        ("hopper/device-chain-negatives", tuple(f"chain_case{at}.pem" for at in range(1, 5))),
    ):
        case = nvgpu.load(name)
        results = []
        for file in files:
            try:
                chain.load(case.read(file)).check_root(PINNED)
                results.append("valid")
            except VerifierError as error:
                results.append(error.reason.value)
        good = ["valid"] if len(files) > 1 else []
        assert results == good + ["chain_invalid"] * (len(files) - len(good))
        says = "FAIL" if len(files) == 1 else "1 valid, 3 FAIL"
        row[f"nvidia/{name}"] = (says, "as said", "-", ", ".join(results))


def _rim_result(case: Recorded, file: str) -> str:
    try:
        return rim.verify(case.read(file), now=case.now, anchors=PINNED).kind
    except VerifierError as error:
        return error.reason.value


@recorded
def test_rims_alone(row: Row) -> None:
    """NVIDIA's RIMs hold at their time; the one with another signature value does not."""
    case = nvgpu.load("rims/vbios-prod-2023-public")
    files = [name for name in case.told["files"] if name.endswith(".swidtag")]
    assert {_rim_result(case, name) for name in files} == {"vbios"}
    row[f"nvidia/{case.name}"] = ("all valid", "valid", "-", f"{len(files)} RIMs")
    case = nvgpu.load("rims/driver-550.144.03-good-and-badsig")
    results = {name: _rim_result(case, name) for name in case.told["files"]}
    assert results == {
        "NV_GPU_DRIVER_GH100_550.144.03.xml": "driver",
        "incorrect_signature_driver_rim.xml": "collateral_signature",
    }
    row[f"nvidia/{case.name}"] = ("1 valid, 1 not", "as said", "-", ", ".join(results.values()))


def _token(raw: bytes) -> str:
    try:
        nras.check(raw, nras.Keys({}), nonce=bytes(32), leaf_serials=[0], now=0)
    except VerifierError as error:
        return error.reason.value
    return "accepted"


@recorded
def test_tokens(row: Row) -> None:
    """A token that nobody signed is refused, and so are real ones whose keys nobody has."""
    case = nvgpu.load("nras/nvattest-local-eat-alg-none")
    said = json.loads(case.read("nvattest_output.json"))
    results = {_token(json.dumps(value).encode()) for value in (said, said["detached_eat"])}
    assert "accepted" not in results
    row[f"nvidia/{case.name}"] = ("REJECT", "reject", "-", ", ".join(sorted(results)))
    case = nvgpu.load("nras/claims-samples-v2-v3")
    result = _token(case.read("hopperClaimsv3_detached_eat.json"))
    assert result == "signature_invalid"
    row[f"nvidia/{case.name}"] = ("samples, no keys", "reject", "-", result)


JUDGED = {
    *RESULTS,
    "hopper/device-chain-missing-brom",
    "hopper/device-chain-negatives",
    "rims/vbios-prod-2023-public",
    "rims/driver-550.144.03-good-and-badsig",
    "nras/claims-samples-v2-v3",
    "nras/nvattest-local-eat-alg-none",
}


@recorded
def test_no_case_is_left_out(row: Row) -> None:
    """Every case whose files are here is judged; those that only the index names are told."""
    for name in nvgpu.NAMES:
        if not (nvgpu.FOLDER / name).is_dir():
            row[f"nvidia/{name}"] = ("(in the index only)", "-", "-", "its files are not here")
            continue
        assert name in JUDGED, name
