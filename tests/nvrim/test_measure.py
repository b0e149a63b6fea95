"""Measurements against golden values: everything active is compared, nothing is relaxed."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.simulator.nvidia import firmware
from tests.kit import nvrim
from tests.kit.corpus import ABSENT
from tests.kit.vendors import NOW
from verifier.anchors import PINNED
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import measure, rim, spdm
from verifier.nvgpu.rim import Golden, Rim

real = pytest.mark.skipif(not nvrim.REAL.is_dir(), reason=ABSENT)


def read(kind: str) -> Rim:
    return rim.verify(nvrim.good_rim(kind), now=NOW, anchors=nvrim.anchors())


DRIVER, VBIOS, SWITCH = map(read, ("driver", "vbios", "switch"))


def running(*kinds: Any, blocks: int = 64) -> dict[int, bytes]:
    """Return the blocks of a device that runs the simulated versions."""
    made = firmware.measured(*((k, nvrim.VERSIONS[k]) for k in kinds), blocks=blocks)
    return {block.index: block.value for block in made}


GPU = running("driver", "vbios")


def refused(reason: Reason, *arguments: Any) -> None:
    with pytest.raises(VerifierError) as caught:
        measure.compare(*arguments)
    assert caught.value.reason is reason


def test_a_good_gpu_matches() -> None:
    """All 33 active values are compared while the decoder is on, and 32 while it is off."""
    found = measure.compare(GPU, DRIVER, VBIOS, 0xAA)
    assert found.ok
    assert (len(found.compared), found.skipped) == (33, ())
    assert set(found.unnamed) == set(range(64)) - set(found.compared)
    off = measure.compare(GPU, DRIVER, VBIOS, 0x55)
    assert off.ok
    assert (len(off.compared), off.skipped) == (32, (35,))


def test_a_good_switch_matches() -> None:
    """A switch has one RIM and no decoder."""
    found = measure.compare(running("switch", blocks=31), None, SWITCH, None)
    assert found.ok
    assert found.compared == tuple(range(31))
    assert found.unnamed == ()


def test_index_35_is_compared_unless_the_decoder_is_off() -> None:
    """A wrong value at index 35 counts exactly while the decoder is on."""
    bent = GPU | {36: bytes(48)}
    assert [m.index for m in measure.compare(bent, DRIVER, VBIOS, 0xAA).mismatches] == [35]
    assert measure.compare(bent, DRIVER, VBIOS, 0x55).ok


@pytest.mark.parametrize("state", [None, 0, 1, 0x54, 0xFF])
def test_an_unknown_decoder_state_is_refused(state: int | None) -> None:
    """NVDEC0_STATUS is AA or 55 on a GPU, and absent on a switch."""
    refused(Reason.MALFORMED, GPU, DRIVER, VBIOS, state)
    if state is not None:
        refused(Reason.MALFORMED, running("switch", blocks=31), None, SWITCH, state)


def test_blocks_are_counted_from_one() -> None:
    """Index i of a RIM is of block i + 1: off by one nothing matches."""
    shifted = {at - 1: value for at, value in GPU.items()}
    assert not measure.compare(shifted, DRIVER, VBIOS, 0xAA).ok


@given(st.sampled_from(sorted(firmware.ACTIVE["driver"] + firmware.ACTIVE["vbios"])), st.data())
@settings(max_examples=60, deadline=None)
def test_any_other_value_is_a_mismatch(index: int, data: st.DataObject) -> None:
    """A flipped bit, a missing block, another size: each is a mismatch at its index."""
    good = GPU[index + 1]
    bit = data.draw(st.integers(0, 8 * 48 - 1))
    flipped = bytearray(good)
    flipped[bit // 8] ^= 1 << bit % 8
    worse = data.draw(st.sampled_from([bytes(flipped), good[:-1], good + b"\0", b"", None]))
    bent = {at: value for at, value in GPU.items() if at != index + 1}
    if worse is not None:
        bent[index + 1] = worse
    found = measure.compare(bent, DRIVER, VBIOS, 0xAA)
    assert not found.ok
    (only,) = found.mismatches
    assert (only.index, only.seen) == (index, worse)
    assert only.source == ("driver" if index in firmware.ACTIVE["driver"] else "vbios")
    assert (worse.hex() if worse is not None else "no measurement") in str(only)


def test_each_alternative_is_good() -> None:
    """Where a RIM has several values any of them will do."""
    for value in DRIVER.golden[35].alternatives:
        assert measure.compare(GPU | {36: value}, DRIVER, VBIOS, 0xAA).ok


def test_inactive_values_say_nothing() -> None:
    """What a RIM holds as inactive is not compared."""
    assert measure.compare(GPU | {64: b"anything"}, DRIVER, VBIOS, 0xAA).ok


def with_golden(of: Rim, **changes: Golden) -> Rim:
    table = dict(of.golden) | {int(index[1:]): value for index, value in changes.items()}
    return nvrim.changed(of, golden=MappingProxyType(table))


def test_an_index_of_both_rims_is_refused() -> None:
    """Driver and VBIOS share no active index."""
    both = with_golden(VBIOS, _7=Golden(active=True, alternatives=(bytes(48),)))
    refused(Reason.COLLATERAL_MISMATCH, GPU, DRIVER, both, 0xAA)


def test_a_rim_without_values_is_refused() -> None:
    """No golden values are not good values."""
    none = nvrim.changed(VBIOS, golden=MappingProxyType({}))
    refused(Reason.NO_REFERENCE_VALUES, GPU, DRIVER, none, 0xAA)
    idle = {i: Golden(active=False, alternatives=g.alternatives) for i, g in DRIVER.golden.items()}
    refused(
        Reason.NO_REFERENCE_VALUES,
        GPU,
        nvrim.changed(DRIVER, golden=MappingProxyType(idle)),
        VBIOS,
        0xAA,
    )


@pytest.mark.parametrize(
    ("driver", "vbios"),
    [(VBIOS, VBIOS), (DRIVER, DRIVER), (None, VBIOS), (DRIVER, SWITCH), (None, DRIVER)],
)
def test_rims_of_other_kinds_are_refused(driver: Rim | None, vbios: Rim) -> None:
    """A GPU has a driver's and a VBIOS's RIM, a switch has its BIOS's."""
    refused(Reason.COLLATERAL_MISMATCH, GPU, driver, vbios, 0xAA)


def real_blocks(case: str) -> dict[int, bytes]:
    report = spdm.parse(nvrim.real(f"{case}/report.bin"))
    return {at: block.value for at, block in report.blocks.items()}


def real_rim(name: str, now: int) -> Rim:
    return rim.verify(nvrim.real(name), now=now, anchors=PINNED)


@real
def test_the_real_h100_matches() -> None:
    """550.90.07: 32 of 33 golden values are compared and match, index 35 is skipped."""
    case, now = "hopper/h100-550.90.07-full", 1_772_323_200
    found = measure.compare(
        real_blocks(case),
        real_rim(f"{case}/NV_GPU_DRIVER_GH100_550.90.07.swidtag.xml", now),
        real_rim(f"{case}/NV_GPU_VBIOS_1010_0200_882_96009F0001.swidtag.xml", now),
        0x55,
    )
    assert found.ok
    assert (len(found.compared), found.skipped) == (32, (35,))


@real
def test_the_real_switch_matches_both_issues_of_its_rim() -> None:
    """LS10 96.10.55: 31 of 31, by the RIM of 2024 and by that of 2026."""
    case = "ls10/ls10-96.10.55-full"
    for name, now in (("rim_signed_2024-05", 1_735_689_600), ("rim_signed_2026-05", 1_795_132_800)):
        golden = real_rim(f"{case}/{name}.xml", now)
        found = measure.compare(real_blocks(case), None, golden, None)
        assert found.ok
        assert len(found.compared) == 31


@real
def test_the_real_mismatch_is_at_index_9() -> None:
    """535.86.09: the VBIOS RIM of June 2023 matches, that of December differs at index 9."""
    case, now = "hopper/h100-535.86.09-rim-mismatch", 1_735_689_600
    blocks = real_blocks(case)
    good = real_rim(f"{case}/vbios_PROD_2023.swidtag.xml", now)
    other = real_rim(f"{case}/vbios_mismatch_signed.xml", now)
    driver = nvrim.changed(
        real_rim("hopper/h100-550.90.07-full/NV_GPU_DRIVER_GH100_550.90.07.swidtag.xml", now),
        golden=MappingProxyType({7: Golden(active=True, alternatives=(blocks[8],))}),
    )
    assert measure.compare(blocks, driver, good, 0x55).ok
    found = measure.compare(blocks, driver, other, 0x55)
    assert [(m.index, m.source, m.name) for m in found.mismatches] == [
        (9, "vbios", "Measurement_9")
    ]
