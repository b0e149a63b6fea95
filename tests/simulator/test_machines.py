"""Launches and machines: what is measured, what stays fixed, what is kept."""

import hashlib
import uuid
from dataclasses import replace

import pytest

from ostiary.simulator.machine import DEMO_IMAGE, PARTS, LaunchRequest, launch_snp, launch_td
from ostiary.simulator.machines import (
    SnpMachine,
    TdxMachine,
    certificate_table,
    load_chip,
    load_platform,
    save_chip,
    save_platform,
)
from ostiary.simulator.store import SimulatorError
from tests.kit.vendors import chip, fake_amd, platform

CONFIG = bytes(range(48))


def image(**changes):
    return {**DEMO_IMAGE, **changes}


def registers(body):
    return {"firmware": body.mr_td, "config": body.rtmr0, "kernel": body.rtmr1, "image": body.rtmr2}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_moves_its_own_register_and_no_other(part):
    """One changed byte changes one measurement."""
    before = registers(launch_td(LaunchRequest(CONFIG)))

    after = registers(launch_td(LaunchRequest(CONFIG, image(**{part: b"other"}))))

    assert {part} == {name for name in before if before[name] != after[name]}


def test_rtmrs_are_extended_from_zero():
    """A register is SHA-384 of the old value and the digest, as the TDX module extends."""
    request = LaunchRequest(CONFIG)

    expected = hashlib.sha384(bytes(48) + request.digest("kernel")).digest()

    assert expected == launch_td(request).rtmr1
    assert launch_td(request).rtmr3 == bytes(48)


def test_the_launch_configuration_is_measured_as_it_is():
    """MRCONFIGID and HOST_DATA are the caller's; debug shows in the attributes."""
    body = launch_td(LaunchRequest(CONFIG, debug=True))
    report = launch_snp(LaunchRequest(CONFIG[:32], debug=True), "Milan")

    assert (body.mr_config_id, body.td_attributes[0]) == (CONFIG, 1)
    assert (CONFIG[:32], 1) == (report.host_data, report.policy >> 19)
    assert launch_td(LaunchRequest(CONFIG)).td_attributes[0] == 0


@pytest.mark.parametrize("part", PARTS)
def test_each_part_moves_an_snp_measurement(part):
    """SNP has one launch measurement for everything."""
    one = launch_snp(LaunchRequest(CONFIG[:32]))

    other = launch_snp(LaunchRequest(CONFIG[:32], image(**{part: b"other"})))

    assert one.measurement != other.measurement


@pytest.mark.parametrize("size", [0, 31, 33, 47, 49])
def test_other_configuration_sizes_are_refused(size):
    """A short configuration is never padded."""
    with pytest.raises(SimulatorError, match="48"):
        launch_td(LaunchRequest(bytes(size)))
    with pytest.raises(SimulatorError, match="32"):
        launch_snp(LaunchRequest(bytes(size)))


def test_images_with_other_parts_are_refused():
    """Content that nothing measures is not launched."""
    with pytest.raises(SimulatorError, match="exactly"):
        launch_td(LaunchRequest(CONFIG, image(extra=b"")))


@pytest.mark.parametrize("version", [4, 5])
def test_only_report_data_changes_between_reports(version):
    """Two quotes of one machine differ in report data and signatures."""
    machine = TdxMachine(platform(), launch_td(LaunchRequest(CONFIG)), version)
    start = 568 if version == 4 else 574

    first, second = (machine.report(bytes([n]) * 64)[0] for n in (1, 2))

    assert first[:start] == second[:start]
    assert [q[start : start + 64] for q in (first, second)] == [b"\1" * 64, b"\2" * 64]
    assert machine.claims()[0] == CONFIG
    assert machine.claims()[1][:520] == first[start - 520 : start]


def test_an_snp_machine_reports_its_chip():
    """Report data alone is the caller's; the table holds the chain under AMD's GUIDs."""
    machine = SnpMachine(chip("Genoa"), launch_snp(LaunchRequest(CONFIG[:32])))

    report, log, table = machine.report(b"\7" * 64)

    assert (report[0x50:0x90], log) == (b"\7" * 64, b"")
    assert report[0x1A0:0x1E0] == chip("Genoa").chip_id
    assert machine.claims() == (CONFIG[:32], report[:0x50] + bytes(64) + report[0x90:0x2A0])
    rows = [table[at : at + 24] for at in range(0, 72, 24)]
    spans = [(int.from_bytes(r[16:20], "little"), int.from_bytes(r[20:], "little")) for r in rows]
    assert chip("Genoa").chain == tuple(table[at : at + size] for at, size in spans)
    assert str(uuid.UUID(bytes=rows[0][:16])) == "63da758d-e664-4564-adc5-f4b93be8accd"
    assert certificate_table(fake_amd().vlek("Genoa"))[:16] != table[:16]


def test_a_kept_platform_is_the_same_platform(tmp_path):
    """A reboot has the same PPID, keys and chain."""
    save_platform(platform(), tmp_path / "m")

    loaded = load_platform(tmp_path / "m")

    assert loaded.chain == platform().chain
    assert loaded.sgx.ppid == platform().sgx.ppid
    one = TdxMachine(loaded, launch_td(LaunchRequest(CONFIG))).report(bytes(64))[0]
    other = TdxMachine(platform(), launch_td(LaunchRequest(CONFIG))).report(bytes(64))[0]
    assert one[700:764] == other[700:764]
    with pytest.raises(SimulatorError, match="exists already"):
        save_platform(platform(), tmp_path / "m")


def test_a_kept_chip_is_the_same_chip(tmp_path):
    """CHIP_ID, levels, chain and key come back."""
    save_chip(chip("Genoa"), tmp_path)

    loaded = load_chip(tmp_path)

    assert replace(loaded, key=chip("Genoa").key) == chip("Genoa")
    assert loaded.key.private_numbers() == chip("Genoa").key.private_numbers()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"ppid":"zz"}'])
def test_a_damaged_machine_is_refused(tmp_path, content):
    """Half a machine is an error of our own."""
    (tmp_path / "machine.json").write_bytes(content)

    for load in (load_platform, load_chip):
        with pytest.raises(SimulatorError):
            load(tmp_path)
