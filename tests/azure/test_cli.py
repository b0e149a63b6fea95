"""`ostiary verify azure-snp` and `azure-tdx`: files in, exit status and result out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit import azure, corpus, vendors
from tests.kit.azure import Machine
from tests.kit.measured import NONCE, PCRS
from verifier.snp import SnpEndorsements

AT = ["--at", "2026-03-31T00:00:00Z", "--json"]


def write(folder: Path, machine: Machine) -> list[str]:
    """Write a machine's evidence to files and return the arguments that name them."""
    told = machine.evidence
    files: dict[str, bytes] = {
        "hcl-report": told.hcl_report,
        "tpm-message": told.tpm_message or b"",
        "tpm-signature": told.tpm_signature or b"",
        "pcrs": json.dumps({"bank": "sha256", "pcrs": [PCRS[n].hex() for n in range(24)]}).encode(),
    }
    if told.td_quote is not None:
        files["td-quote"] = told.td_quote
        files["collateral"] = json.dumps(vendors.good_collateral()).encode()
    else:
        amd = machine.endorsements
        assert isinstance(amd, SnpEndorsements)
        files |= {"vek": amd.vek, "ask": amd.ask, "ark": amd.ark, "crl": amd.crl or b""}
    arguments = ["verify", told.kind, *AT]
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
        arguments += [f"--{name}", str(folder / name)]
    return arguments


def reasons(arguments: list[str]) -> tuple[int, list[str]]:
    status, out, err = corpus.run_cli(arguments)
    assert out, err
    return status, list(json.loads(out)["reasons"])


def without(arguments: list[str], *options: str) -> list[str]:
    found = list(arguments)
    for option in options:
        place = found.index(option)
        del found[place : place + 2]
    return found


def test_a_simulators_roots_are_not_pinned(tmp_path: Path) -> None:
    """The command line trusts real vendors only: a simulated machine is told apart."""
    nonce = ["--nonce", NONCE.hex()]
    assert reasons([*write(tmp_path, azure.snp()), *nonce]) == (1, ["root_unknown"])
    status, found = reasons([*write(tmp_path, azure.tdx_machine()), *nonce])
    assert (status, found[0]) == (1, "root_unknown")


def test_without_endorsements(tmp_path: Path) -> None:
    """Missing certificates and collateral are a refusal, never a smaller check."""
    snp = write(tmp_path, azure.snp())
    for option in ("--vek", "--ask", "--ark"):
        assert reasons(without(snp, option)) == (1, ["collateral_missing"])
    tdx = without(write(tmp_path, azure.tdx_machine()), "--collateral")
    assert reasons([*tdx, "--no-nonce"]) == (1, ["collateral_missing"])
    assert reasons(without(tdx, "--td-quote")) == (1, ["signature_missing"])


def test_collateral_that_is_refused(tmp_path: Path) -> None:
    """Collateral of another form is a refusal, and one that is no JSON is unreadable."""
    arguments = write(tmp_path, azure.tdx_machine())
    (tmp_path / "collateral").write_bytes(b"{")
    assert corpus.run_cli(arguments)[0] == 2
    parts = vendors.good_collateral() | {"unheard_of": "[]"}
    (tmp_path / "collateral").write_text(json.dumps(parts))
    assert reasons(arguments) == (1, ["collateral_malformed"])


@pytest.mark.parametrize(
    "more",
    [
        ["--nonce", "xyz"],
        ["--nonce", "00 00"],
        ["--at", "yesterday"],
        ["--policy", "/nonexistent"],
        ["--pcrs", "/nonexistent"],
        ["--ak-chain", "/nonexistent"],
        ["--event-log", "/nonexistent"],
        ["--nonce", "00", "--no-nonce"],
    ],
)
def test_what_cannot_be_read(more: list[str], tmp_path: Path) -> None:
    """An option that is not what it should be is exit status 2, and no verdict."""
    status, out, err = corpus.run_cli([*write(tmp_path, azure.snp()), *more])
    assert (status, out) == (2, "")
    assert more[0] in err


def test_pcrs_that_are_no_registers(tmp_path: Path) -> None:
    """PCR values are read strictly."""
    arguments = write(tmp_path, azure.snp())
    for text in ("", "[]", '{"bank":"sha256","pcrs":[]}', '{"bank":"sha256","pcrs":["00"]}'):
        (tmp_path / "pcrs").write_text(text)
        assert corpus.run_cli(arguments)[0] == 2
    many = {"bank": "sha256", "pcrs": ["00" * 32] * 25}
    (tmp_path / "pcrs").write_text(json.dumps(many))
    assert corpus.run_cli(arguments)[0] == 2


def test_an_unsupported_hash(tmp_path: Path) -> None:
    """Claims under another hash are not judged: exit status 3."""
    arguments = write(tmp_path, azure.snp())
    raw = bytearray((tmp_path / "hcl-report").read_bytes())
    raw[0x4CC] = 2
    (tmp_path / "hcl-report").write_bytes(raw)
    assert reasons(arguments) == (3, ["unsupported"])


def test_for_people(tmp_path: Path) -> None:
    """Without --json the refusal leads, and says what was expected."""
    arguments = [a for a in write(tmp_path, azure.snp()) if a != "--json"]
    status, out, _ = corpus.run_cli(arguments)
    assert status == 1
    assert out.startswith("reject")
    assert "root_unknown" in out
