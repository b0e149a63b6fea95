"""`ostiary verify`: options, exit statuses, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ostiary.cli.inputs import MAX_FILE, parse_time
from ostiary.simulator.quote import quote_v4
from tests.kit import corpus, vendors
from tests.kit.corpus import run_cli
from tests.kit.tdx import collateral
from verifier import x509
from verifier.tdx import collateral as collaterals

AT = ["--at", "2026-03-31T23:33:20Z"]
REAL = "tdx/v5-90c06f-uptodate"
real = pytest.mark.skipif(not corpus.NAMES, reason=corpus.ABSENT)


@pytest.fixture
def quote(tmp_path: Path) -> str:
    path = tmp_path / "quote.bin"
    path.write_bytes(vendors.good_quote())
    return str(path)


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    path = tmp_path / "collateral.json"
    path.write_bytes(collaterals.to_json(collateral()))
    return str(path)


def tdx(*arguments: str) -> tuple[int, str, str]:
    return run_cli(["verify", "tdx", *arguments])


def snp(*arguments: str) -> tuple[int, str, str]:
    return run_cli(["verify", "snp", *arguments])


def test_simulated_evidence_is_rejected_by_the_command_line(quote: str, bundle: str) -> None:
    """The command line trusts the vendors' own roots and no others."""
    status, out, _ = tdx("--quote", quote, "--collateral", bundle, *AT, "--json")

    assert status == 1
    assert json.loads(out)["reasons"] == ["root_unknown"]


def test_no_collateral_is_a_reject(quote: str) -> None:
    """Without `--collateral` the answer is `collateral_missing`."""
    status, out, _ = tdx("--quote", quote, *AT, "--json")

    assert status == 1
    assert json.loads(out)["reasons"] == ["collateral_missing"]


def test_other_quotes_are_unsupported(tmp_path: Path) -> None:
    """A kind that this version cannot judge has exit status 3."""
    path = tmp_path / "quote.bin"
    path.write_bytes(quote_v4(vendors.platform(), vendors.good_body(), key_type=3))
    status, out, _ = tdx("--quote", str(path), *AT, "--json")

    assert status == 3
    assert json.loads(out)["verdict"] == "unsupported"


def test_garbage_is_a_reject(tmp_path: Path) -> None:
    """Evidence that does not parse is judged: it is refused."""
    path = tmp_path / "quote.bin"
    path.write_bytes(b"no quote")
    status, out, _ = tdx("--quote", str(path), *AT, "--json")

    assert status == 1
    assert json.loads(out)["reasons"] == ["malformed"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--collateral", "/nowhere"],
        ["--policy", "/nowhere"],
        ["--policy", "NOT TOML"],
        ["--policy", "unknown = 1"],
        ["--policy", "[tdx]\nallow_debug = 1"],
        ["--collateral", "{"],
        ["--report-data", "xy"],
        ["--report-data", "abc"],
        ["--report-data", "ab cd"],
        ["--at", "yesterday"],
        ["--at", "2026-03-31"],
        ["--at", "2026-03-31T23:33:20"],
        ["--at", "2026-13-31T23:33:20Z"],
        ["--at", "1775000000"],
        ["--quote", "/nowhere"],
    ],
    ids=range(15),
)
def test_what_cannot_be_read_has_status_two(
    arguments: list[str], quote: str, tmp_path: Path
) -> None:
    """Files, times, hex and policies that are not what they should be: status 2 and one line."""
    option, value = arguments
    if option in ("--policy", "--collateral") and not value.startswith("/"):
        path = tmp_path / "input"
        path.write_text(value)
        value = str(path)
    status, out, err = tdx("--quote", quote, *AT, option, value)

    assert status == 2
    assert out == ""
    assert err.startswith(f"ostiary verify: {option}")
    assert err.count("\n") == 1


def test_a_time_is_needed(quote: str) -> None:
    """Nothing is judged by the machine's own clock."""
    assert tdx("--quote", quote)[0] == 2


def test_collateral_of_another_shape_is_a_reject(quote: str, tmp_path: Path) -> None:
    """JSON that is not collateral was read, and is refused."""
    path = tmp_path / "collateral.json"
    path.write_text('{"tcb_info": 1}')
    status, out, _ = tdx("--quote", quote, "--collateral", str(path), *AT, "--json")

    assert status == 1
    assert json.loads(out)["reasons"] == ["collateral_malformed"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-03-31T23:33:20Z", vendors.NOW),
        ("2026-04-01T01:33:20+02:00", vendors.NOW),
        ("2026-03-31t23:33:20.5z", vendors.NOW),
    ],
)
def test_times_are_rfc_3339(text: str, seconds: int) -> None:
    """`Z` and offsets name the same moment."""
    assert parse_time(text) == seconds


@real
def test_the_table_names_what_is_wrong_first(tmp_path: Path) -> None:
    """Without `--json` a person sees the verdict, then the failed check with both values."""
    case = corpus.load(REAL)
    arguments = [a for a in case.arguments() if a != "--json"]
    status, out, _ = run_cli([*arguments, "--report-data", "ab" * 64])
    lines = out.splitlines()

    assert status == 1
    assert lines[0].startswith("reject · TCB UpToDate · because of report_data_mismatch")
    assert lines[2].startswith("NO")
    assert "report_data" in lines[2]
    assert run_cli(arguments)[1].startswith("accept · TCB UpToDate")
    assert tmp_path.exists()


@real
def test_report_data_and_policy_are_judged(tmp_path: Path) -> None:
    """The right report data and the right reference accept; an empty policy refuses."""
    case = corpus.load(REAL)
    body = case.expected["fields"]["body"]
    policy = tmp_path / "policy.toml"
    policy.write_text(
        '[[reference]]\nkind = "tdx"\nname = "image"\n'
        + "".join(f'{name} = "{body[name]}"\n' for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2"))
    )
    with_data = [*case.arguments(), "--report-data", body["report_data"]]

    status, out, _ = run_cli([*with_data, "--policy", str(policy)])
    assert status == 0
    assert all(check["ok"] for check in json.loads(out)["checks"])
    policy.write_text("")
    status, out, _ = run_cli([*with_data, "--policy", str(policy)])
    assert status == 1
    assert json.loads(out)["reasons"] == ["no_reference_values"]


@real
def test_a_missing_amd_crl_must_be_said_aloud() -> None:
    """Without `--crl` and without `--no-crl` the answer is `crl_missing`; both is an error."""
    case = corpus.load("snp/v5-turin-vcek-ms")
    arguments = case.arguments()
    status, out, _ = run_cli([a for a in arguments if a != "--no-crl"])

    assert status == 1
    assert json.loads(out)["reasons"] == ["crl_missing"]
    assert run_cli([*arguments, "--crl", str(case.folder / "ark.der")])[0] == 2


@real
def test_certificates_may_be_pem(tmp_path: Path) -> None:
    """PEM with one certificate is as good as its DER."""
    case = corpus.load("snp/v5-turin-vcek-ms")
    arguments = case.arguments()
    for option in ("--vek", "--ask", "--ark"):
        at = arguments.index(option) + 1
        der = Path(arguments[at]).read_bytes()
        path = tmp_path / f"{option.strip('-')}.pem"
        path.write_bytes(x509.load_der(der, "certificate").public_bytes(Encoding.PEM))
        arguments[at] = str(path)

    assert run_cli(arguments)[0] == 0
    (tmp_path / "vek.pem").write_text("-----BEGIN CERTIFICATE-----\nno\n")
    assert run_cli(arguments)[0] == 2


def test_no_certificates_are_a_reject(quote: str) -> None:
    """Without its certificates a report is refused, not unreadable."""
    status, out, _ = snp("--report", quote, *AT, "--no-crl", "--json")

    assert status == 1
    assert json.loads(out)["verdict"] == "reject"


def test_a_file_is_read_to_a_limit(tmp_path: Path) -> None:
    """A file larger than any evidence is not read whole."""
    path = tmp_path / "quote.bin"
    with path.open("wb") as file:
        file.truncate(MAX_FILE + 1)

    assert tdx("--quote", str(path), *AT)[0] == 2


def test_a_refusal_without_status_prints_a_table(quote: str) -> None:
    """Where no TCB status was reached the verdict line has none."""
    status, out, _ = tdx("--quote", quote, *AT)

    assert status == 1
    assert out.startswith("reject · because of collateral_missing")
