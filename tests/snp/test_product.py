"""CPUID and certificate names lead to a product with a pinned root, or nowhere."""

from __future__ import annotations

import pytest

from tests.kit.snp import reason_of
from verifier.errors import Reason, VerifierError
from verifier.snp.product import GENOA, MILAN, TURIN, Generation, from_cpuid, from_name

KNOWN = {
    **{(0x19, model): MILAN for model in range(0x10)},
    **{(0x19, model): GENOA for model in range(0x10, 0x20)},
    **{(0x19, model): GENOA for model in range(0xA0, 0xB0)},
    **{(0x1A, model): TURIN for model in range(0x12)},
}


def test_every_cpuid() -> None:
    """Of all 65,536 pairs of family and model only the listed ones are products."""
    found: dict[tuple[int, int], Generation] = {}
    for family in range(256):
        for model in range(256):
            if (family, model) in KNOWN:
                found[family, model] = from_cpuid(family, model)
            else:
                with pytest.raises(VerifierError, match="CPUID"):
                    from_cpuid(family, model)

    assert found == KNOWN


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("Milan", MILAN),
        ("Milan-B0", MILAN),
        ("Genoa", GENOA),
        ("Genoa-B1", GENOA),
        ("Turin", TURIN),
    ],
)
def test_names(name: str, generation: Generation) -> None:
    """A stepping behind the name changes nothing."""
    assert from_name(name) is generation


@pytest.mark.parametrize(
    "name",
    ["", "milan", "Milan-", "Milan-B", "Milan-B0 ", "Milan\n", "Milan-B0-B0", "Venice", "Naples"],
)
def test_other_names(name: str) -> None:
    """Any other name is refused."""
    with pytest.raises(VerifierError) as raised:
        from_name(name)

    assert reason_of(raised) is Reason.PRODUCT_MISMATCH


def test_layouts_differ() -> None:
    """Turin has FMC first, so its TCB does not read as Milan's, nor Milan's as Turin's."""
    turin = bytes.fromhex("0101010400000051")
    milan = bytes.fromhex("04000000000018db")

    assert TURIN.decode_tcb(turin, "TCB") == {
        "fmc": 1,
        "bootloader": 1,
        "tee": 1,
        "snp": 4,
        "microcode": 0x51,
    }
    assert MILAN.decode_tcb(milan, "TCB") == {
        "bootloader": 4,
        "tee": 0,
        "snp": 0x18,
        "microcode": 0xDB,
    }
    for generation, raw in ((MILAN, turin), (GENOA, turin), (TURIN, milan)):
        with pytest.raises(VerifierError, match="spare bytes") as raised:
            generation.decode_tcb(raw, "TCB")
        assert reason_of(raised) is Reason.MALFORMED


@pytest.mark.parametrize("generation", [MILAN, GENOA, TURIN])
def test_spare_bytes(generation: Generation) -> None:
    """Each byte of a TCB is a named part or must be zero."""
    for index in range(8):
        raw = bytes(1 if position == index else 0 for position in range(8))
        if index in generation.tcb_parts.values():
            assert max(generation.decode_tcb(raw, "TCB").values()) == 1
        else:
            with pytest.raises(VerifierError):
                generation.decode_tcb(raw, "TCB")
