"""Every Azure case of the corpus, through the command line, against its `case.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kit import azure, corpus

Row = dict[str, tuple[str, ...]]

VERDICTS = {
    "accept": "accept",
    "reject": "reject",
    "accept-if-v2-allowed": "reject",
    "accept-hardware-only": "reject",
    "parse-only": "reject",
}
"""What the defaults make of the corpus' verdict words.

Hardware alone (`accept-hardware-only`) is refused for want of a TPM quote, and for nothing else.
"""
REASONS = {
    "accept": [],
    "accept-if-v2-allowed": ["report_version_not_allowed", "tcb_provisional"],
    "accept-hardware-only": ["tpm_quote_missing"],
    "parse-only": ["signature_missing"],
}
EXITS = {"accept": 0, "reject": 1}

cases = pytest.mark.skipif(not azure.NAMES, reason=corpus.ABSENT)


def run(arguments: list[str]) -> tuple[int, dict[str, Any]]:
    status, out, err = corpus.run_cli(arguments)
    assert out, err
    return status, json.loads(out)


def differences(expected: Any, seen: Any, path: str = "") -> list[str]:
    """Return where `seen` lacks or contradicts a value of `expected`."""
    if isinstance(expected, dict) and isinstance(seen, dict):
        return [
            line
            for key, value in expected.items()
            for line in differences(value, seen.get(key, "absent"), f"{path}.{key}")
        ]
    return [] if expected == seen else [f"{path}: {expected!r} expected, {seen!r} seen"]


def fields(told: Any) -> int:
    return sum(fields(value) for value in told.values()) if isinstance(told, dict) else 1


@cases
@pytest.mark.parametrize("name", azure.NAMES or ["absent"])
def test_case(name: str, row: Row) -> None:
    """A case gets its verdict, TCB status and every parsed field, for the reasons it tells."""
    case = corpus.load(name)
    told = case.expected
    status, result = run(azure.arguments(case))
    wrong = differences(told["fields"], result["claims"], "claims")
    reasons = ", ".join(result["reasons"]) or "-"
    compared = f"{fields(told['fields'])} fields, {len(wrong)} differ"
    row[name] = (
        told["verdict"],
        result["verdict"],
        result["tcb_status"] or "-",
        f"{reasons}; {compared}",
    )

    assert result["verdict"] == VERDICTS[told["verdict"]], result["checks"]
    assert status == EXITS[result["verdict"]]
    assert wrong == []
    assert result["tcb_status"] == told.get("tcb_status")
    if "pcr00" in told:
        assert result["claims"]["pcrs"]["sha256"]["0"] == told["pcr00"]
    if told["verdict"] in REASONS:
        assert result["reasons"] == REASONS[told["verdict"]]


@cases
def test_version_2_where_policy_admits_it(tmp_path: Path) -> None:
    """An old report is accepted by a policy that names its versions, firmware and boot."""
    case = corpus.load("az-snp-vtpm/milan-v2-report")
    seen = run(azure.arguments(case))[1]["claims"]
    policy = tmp_path / "policy.toml"
    policy.write_text(
        "[snp]\nreport_versions = [2]\nallow_provisional_firmware = true\n"
        '[[reference]]\nkind = "snp"\nname = "paravisor"\n'
        f'measurement = "{seen["snp"]["measurement"]}"\n'
        '[[reference]]\nkind = "tpm"\nname = "image"\n'
        f'pcrs = {{ 4 = "{seen["pcrs"]["sha256"]["4"]}" }}\n'
    )

    assert run([*azure.arguments(case), "--policy", str(policy)])[1]["reasons"] == []


@cases
@pytest.mark.parametrize(
    "name", ["az-snp-vtpm/genoa-v3-hcl-only", "az-tdx-vtpm/90c06f-hcl-and-quote-only"]
)
def test_hardware_only_where_policy_admits_it(name: str, tmp_path: Path) -> None:
    """Hardware alone is accepted by a policy that says so and pins the paravisor."""
    case = corpus.load(name)
    claims = run(azure.arguments(case))[1]["claims"]
    if "snp" in claims:
        pins = f'kind = "snp"\nmeasurement = "{claims["snp"]["measurement"]}"\n'
    else:
        body = claims["quote"]["body"]
        told = ("mr_td", "rtmr0", "rtmr1", "rtmr2")
        pins = 'kind = "tdx"\n' + "".join(f'{name} = "{body[name]}"\n' for name in told)
    policy = tmp_path / "policy.toml"
    policy.write_text(
        f'[azure]\nrequire_tpm_quote = false\n[[reference]]\nname = "paravisor"\n{pins}'
    )
    status, result = run([*azure.arguments(case), "--policy", str(policy)])

    assert (status, result["reasons"]) == (0, [])


@cases
def test_the_negatives_of_a_case(tmp_path: Path) -> None:
    """Every edit that a case lists is refused for what it breaks."""
    case = corpus.load("az-snp-vtpm/milan-v3-challenge-v1")

    def edited(name: str, place: int, value: int) -> str:
        raw = bytearray(case.read(name))
        raw[place] = value & 0xFF
        path = tmp_path / f"{name}-{place}"
        path.write_bytes(raw)
        return str(path)

    report, signature = case.read("hcl_report.bin"), case.read("tpm_signature.bin")
    pcrs = json.loads(case.read("pcrs.json"))
    pcrs["pcrs"][0] = f"{int(pcrs['pcrs'][0][:2], 16) ^ 1:02x}{pcrs['pcrs'][0][2:]}"
    other = tmp_path / "pcrs.json"
    other.write_text(json.dumps(pcrs))
    for files, reason in (
        ({"tpm_signature": edited("tpm_signature.bin", 0, signature[0] ^ 1)}, "signature_invalid"),
        ({"pcrs": str(other)}, "pcr_digest_mismatch"),
        ({"nonce": bytes.fromhex(case.expected["nonce_hex"])[::-1].hex()}, "nonce_mismatch"),
        (
            {"hcl_report": edited("hcl_report.bin", 0x6E0, report[0x6E0] + 1)},
            "report_data_mismatch",
        ),
        ({"hcl_report": edited("hcl_report.bin", 0x540, 0)}, "malformed"),
        ({"hcl_report": edited("hcl_report.bin", 0x1A6, 0)}, "tcb_mismatch"),
    ):
        status, result = run(azure.arguments(case, **files))
        assert (status, result["reasons"]) == (1, [reason])


@cases
def test_user_data(tmp_path: Path) -> None:
    """User data is compared whole: the case's own is accepted, a prefix or another is not."""
    case = corpus.load("az-snp-vtpm/milan-v3-user-data-v2")
    seen = run(azure.arguments(case))[1]["claims"]
    told = case.expected["report_data"].ljust(128, "0")
    policy = tmp_path / "policy.toml"
    for user_data, reasons in ((told, []), ("123abc".ljust(128, "0"), ["user_data_mismatch"])):
        policy.write_text(
            f'[azure]\nuser_data = "{user_data}"\n'
            '[[reference]]\nkind = "snp"\nname = "paravisor"\n'
            f'measurement = "{seen["snp"]["measurement"]}"\n'
            '[[reference]]\nkind = "tpm"\nname = "image"\n'
            f'pcrs = {{ 4 = "{seen["pcrs"]["sha256"]["4"]}" }}\n'
        )
        assert run([*azure.arguments(case), "--policy", str(policy)])[1]["reasons"] == reasons
    policy.write_text('[azure]\nuser_data = "123abc"\n')
    assert corpus.run_cli([*azure.arguments(case), "--policy", str(policy)])[0] == 2


@cases
def test_another_root_for_the_key() -> None:
    """A key's chain that ends in another of Microsoft's roots is no chain."""
    case = corpus.load("az-tdx-vtpm/90c06f-ak-chain-2026")
    other = str(case.folder / "root_rsa-devices-2021.pem")
    arguments = azure.arguments(case, **{"root_virtual-tpm-2023": other})

    assert run(arguments)[1]["reasons"] == ["chain_invalid"]
