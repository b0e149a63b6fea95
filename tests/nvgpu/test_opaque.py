"""Opaque data is read in both layouts, field by field, and each field is of one form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit import nvgpu
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import opaque, spdm
from verifier.nvgpu.opaque import Field, FieldType, Opaque

RAW = spdm.parse(nvgpu.make(8, "ppcie").gpus[0].report(nvgpu.NONCE)).opaque
HEADER = b"NVDAOD\0\0\2\0\0\0"


def made(kind: FieldType, data: bytes) -> Opaque:
    return Opaque(b"", {kind: Field(data)})


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(VerifierError) as caught:
        act()
    assert caught.value.reason is Reason.MALFORMED
    return str(caught.value)


@st.composite
def opaques(draw: st.DrawFn) -> Opaque:
    new = draw(st.booleans())
    field = st.builds(Field, st.binary(max_size=20), st.integers(0, 65535) if new else st.none())
    kinds = st.integers(0, 60).filter(lambda kind: new or kind != 0x564E)
    return Opaque(HEADER if new else b"", draw(st.dictionaries(kinds, field, max_size=6)))


@settings(deadline=None, max_examples=150)
@given(opaques())
def test_reading_what_was_written(fields: Opaque) -> None:
    """Fields read back as they were written, in either layout."""
    again = opaque.parse(opaque.encode(fields))

    assert (again.header, dict(again.fields)) == (fields.header, dict(fields.fields))
    assert opaque.claims(again).keys() == opaque.claims(fields).keys()


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.integers(0, len(RAW) - 1), st.booleans())
def test_anything_else_is_our_error(junk: bytes, at: int, new: bool) -> None:
    """Garbage gives our error, also from every question that can be asked of what was read."""
    for raw in ((HEADER if new else b"") + junk, RAW[:at] + junk + RAW[at:]):
        try:
            found = opaque.parse(raw)
        except VerifierError:
            continue
        assert opaque.encode(found) == raw
        questions: list[Callable[[], object]] = [
            found.driver_version,
            found.vbios_version,
            found.counters,
            found.link_pdis,
            found.own_pdi,
            found.gpu_pdis,
        ]
        questions += [partial(found.name, kind) for kind in FieldType]
        questions += [partial(found.number, kind, 2) for kind in FieldType]
        assert {asked(question) for question in questions} <= {None, Reason.MALFORMED}


def asked(question: Callable[[], object]) -> Reason | None:
    """Return why a question was refused, if it was."""
    try:
        question()
    except VerifierError as error:
        return error.reason
    return None


def test_every_truncation() -> None:
    """Data that was cut inside a field is refused; between fields a field is missing."""
    whole = opaque.parse(RAW)
    ends = {0}
    for field in whole.fields.values():
        ends.add(max(ends) + 4 + len(field.data))
    for size in range(len(RAW)):
        if size in ends:
            assert len(opaque.parse(RAW[:size]).fields) < len(whole.fields)
        else:
            refused(partial(opaque.parse, RAW[:size]))


def test_twice_the_same_field() -> None:
    """A type that stands there twice is refused: nobody could say which counts."""
    once = b"\x15\0\1\0\x55"

    assert "twice" in refused(lambda: opaque.parse(once + b"\x15\0\1\0\xaa"))
    assert opaque.parse(once).number(FieldType.PROTECTED_PCIE_STATUS, 1) == 0x55


@pytest.mark.parametrize("header", [b"NVDAOD\1\0\2\0\0\0", b"NVDAOD\0\0\2\0\0\1", HEADER[:11]])
def test_header_of_another_profile(header: bytes) -> None:
    """Only profile 0 with zeros where nothing is said is read."""
    assert "profile 0" in refused(lambda: opaque.parse(header))


def test_layouts_and_unknown_fields() -> None:
    """The layout has a name, and types nobody knows are told by number."""
    new = opaque.parse(HEADER + b"\x63\0\x82\0\1\0\7")

    assert (new.layout, new.unknown) == ("NVDAOD 2.0", (99,))
    assert opaque.claims(new) == {"field_99": "07"}
    assert opaque.parse(RAW).layout == "legacy"


def test_versions() -> None:
    """Versions are read as NVIDIA writes them."""
    gpu = made(FieldType.VBIOS_VERSION, bytes.fromhex("009f009601000000"))
    switch = made(FieldType.VBIOS_VERSION, b"96.10.55.00.01")

    assert gpu.vbios_version() == "96.00.9F.00.01"
    assert switch.vbios_version() == "96.10.55.00.01"
    assert made(FieldType.DRIVER_VERSION, b"550.90.07\0").driver_version() == "550.90.07"
    assert Opaque(b"", {}).driver_version() is None
    assert Opaque(b"", {}).vbios_version() is None
    assert Opaque(b"", {}).name(FieldType.PROJECT) is None
    assert Opaque(b"", {}).counters() == ()


@pytest.mark.parametrize("raw", [b"550.90.07", b"550.90.07\0\0", b"550\0", b"\xff.1\0", b"\0", b""])
def test_driver_versions_of_no_form(raw: bytes) -> None:
    """A driver version is numbers and points with one NUL behind."""
    assert "DRIVER_VERSION" in refused(made(FieldType.DRIVER_VERSION, raw).driver_version)


@pytest.mark.parametrize(
    "raw", [b"\0" * 7, b"96.10.55.00.0", b"96.10.55.00.0g", bytes.fromhex("009f009601000001")]
)
def test_vbios_versions_of_no_form(raw: bytes) -> None:
    """A VBIOS version is five bytes, in numbers or as text."""
    assert "VBIOS_VERSION" in refused(made(FieldType.VBIOS_VERSION, raw).vbios_version)


def test_names_numbers_and_counters_of_no_form() -> None:
    """Names end in NUL, numbers have their size, counters are whole words."""
    for raw in (b"1010", b"10\0001\0", b"g520\0", b"\xff\0", b"A" * 17 + b"\0", b""):
        refused(partial(made(FieldType.PROJECT, raw).name, FieldType.PROJECT))
    refused(lambda: made(FieldType.FEATURE_FLAG, b"\0").number(FieldType.FEATURE_FLAG, 2))
    refused(made(FieldType.MSRSCNT, bytes(6)).counters)
    refused(made(FieldType.PDIS, bytes(8)).link_pdis)
    refused(made(FieldType.PDIS, bytes(144)).own_pdi)
    refused(made(FieldType.SWITCH_GPU_PDIS, bytes(64)).gpu_pdis)
    assert made(FieldType.MSRSCNT, b"\2\0\0\0").counters() == (2,)
