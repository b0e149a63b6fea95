"""Collateral from a folder: found by platform, read again when it changes, never invented."""

import json
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.simulator.machines import certificate_table as make_table
from tests.kit import vendors
from verifier.collateral import certificate_table
from verifier.collateral.folder import FolderSource
from verifier.errors import Reason, VerifierError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tdx").mkdir()
    (tmp_path / "tdx" / "a.json").write_text(json.dumps(vendors.good_collateral()))
    return tmp_path


def test_tdx_collateral_is_found_by_the_platform_in_the_quote(folder):
    """The FMSPC in the PCK certificate picks the file."""
    found = FolderSource(folder).find("tdx", vendors.good_quote(), b"")

    assert json.loads(found.raw)["tcb_info"] == found.endorsements.tcb_info


def test_an_unknown_platform_has_no_collateral(tmp_path):
    """Nothing missing is skipped."""
    with pytest.raises(VerifierError) as caught:
        FolderSource(tmp_path).find("tdx", vendors.good_quote(), b"")

    assert caught.value.reason is Reason.COLLATERAL_MISSING


def test_a_changed_file_is_read_again(folder):
    """What was parsed is forgotten with the file that it came from."""
    source = FolderSource(folder)
    before = source.find("tdx", vendors.good_quote(), b"")
    path = folder / "tdx" / "a.json"
    path.write_text(json.dumps(vendors.good_collateral(vendors.NOW + 60)))
    os.utime(path, ns=(1, 1))

    assert source.find("tdx", vendors.good_quote(), b"").digest != before.digest


def test_evidence_that_cannot_be_read_is_our_error(folder):
    """Garbage never gets as far as a file."""
    for kind in ("tdx", "snp"):
        with pytest.raises(VerifierError):
            FolderSource(folder).find(kind, b"garbage", b"")


def test_snp_endorsements_come_from_the_product_and_the_table(tmp_path):
    """The host's table brings the VCEK, the folder everything else."""
    product, amd = "Genoa", vendors.fake_amd("Genoa")
    chip = vendors.chip(product)
    target = tmp_path / "snp" / product
    target.mkdir(parents=True)
    (target / "ask.der").write_bytes(chip.chain[1])
    (target / "ark.der").write_bytes(chip.chain[2])
    (target / "crl.der").write_bytes(amd.crl(product, vendors.NOW))

    found = FolderSource(tmp_path).find("snp", vendors.good_report(product), make_table(chip))

    assert found.endorsements.vek == chip.chain[0]
    with pytest.raises(VerifierError) as caught:
        FolderSource(tmp_path).find("snp", vendors.good_report(product), b"")
    assert caught.value.reason is Reason.COLLATERAL_MISSING


@given(st.binary(max_size=120))
def test_a_certificate_table_of_any_bytes_is_read_or_refused(table):
    """Offsets and lengths that lie are errors of ours."""
    try:
        found = certificate_table.find(table, certificate_table.VCEK)
    except VerifierError:
        return

    assert found == b"" or found in table


ROW = struct.Struct("<16sII")
END = bytes(24)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (bytes(certificate_table.MAX_TABLE + 1), Reason.TOO_LARGE),
        (ROW.pack(certificate_table.VCEK, 48, 1), Reason.MALFORMED),
        (ROW.pack(bytes(15) + b"\1", 0, 0), Reason.MALFORMED),
        (ROW.pack(bytes(15) + b"\1", 0, 0) * 17 + END, Reason.MALFORMED),
        (ROW.pack(certificate_table.VCEK, 0xFFFFFFFF, 0xFFFFFFFF) + END, Reason.MALFORMED),
    ],
)
def test_certificate_tables_that_lie(table, reason):
    """Sizes, offsets and ends are checked before anything is cut out."""
    with pytest.raises(VerifierError) as caught:
        certificate_table.find(table, certificate_table.VCEK)

    assert caught.value.reason is reason


def test_a_certificate_table_is_searched_to_its_end():
    """An entry behind others is found; where it is not, there is nothing."""
    rows = ROW.pack(bytes(15) + b"\1", 0, 0) + ROW.pack(certificate_table.VCEK, 72, 3) + END

    assert certificate_table.find(rows + b"abc", certificate_table.VCEK) == b"abc"
    assert certificate_table.find(rows + b"abc", certificate_table.VLEK) == b""


def test_an_unchanged_file_is_read_once(folder):
    """The same object comes back."""
    source = FolderSource(folder)
    first = source.find("tdx", vendors.good_quote(), b"")

    assert source.find("tdx", vendors.good_quote(), b"") is first


def test_other_families_are_told(folder):
    """The refusal says what is there."""
    path = folder / "tdx" / "a.json"
    path.write_text(path.read_text().replace("b0c06f5a0000", "b0c06f5a0001"))
    with pytest.raises(VerifierError, match="b0c06f5a0001"):
        FolderSource(folder).find("tdx", vendors.good_quote(), b"")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"tcb_info":"{}"}', Reason.COLLATERAL_MALFORMED),
        (" " * ((4 << 20) + 1), Reason.TOO_LARGE),
    ],
)
def test_files_that_are_no_collateral(folder, text, reason):
    """A bad file is an error, not a file that is passed by."""
    (folder / "tdx" / "a.json").write_text(text)
    with pytest.raises(VerifierError) as caught:
        FolderSource(folder).find("tdx", vendors.good_quote(), b"")

    assert caught.value.reason is reason


def test_a_file_that_cannot_be_looked_at(folder):
    """A dangling link is missing collateral."""
    (folder / "tdx" / "0.json").symlink_to(folder / "nowhere")
    with pytest.raises(VerifierError) as caught:
        FolderSource(folder).find("tdx", vendors.good_quote(), b"")

    assert caught.value.reason is Reason.COLLATERAL_MISSING
