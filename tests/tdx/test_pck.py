"""The SGX extension of PCK certificates and the strict DER under it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.simulator import der as wrote
from ostiary.simulator.pck import SgxExtension
from tests.kit import vendors
from tests.kit.tdx import judge, refused
from verifier.der import BOOLEAN, INTEGER, Der
from verifier.errors import Reason, VerifierError
from verifier.tdx.pck import parse_extension

GOOD = SgxExtension(
    ppid=bytes(range(16)),
    components=tuple(range(120, 136)),
    pcesvn=300,
    fmspc=bytes(range(6)),
    pceid=b"\1\2",
    platform_instance_id=bytes(16),
)


def reason_of(raw: bytes) -> Reason | None:
    try:
        parse_extension(raw)
    except VerifierError as error:
        return error.reason
    return None


@given(
    components=st.lists(st.integers(0, 255), min_size=16, max_size=16),
    pcesvn=st.integers(0, 65535),
    ppid=st.binary(min_size=16, max_size=16),
    platform=st.booleans(),
    sgx_type=st.integers(0, 2),
)
def test_what_is_written_is_read(
    *, components: list[int], pcesvn: int, ppid: bytes, platform: bool, sgx_type: int
) -> None:
    """Every value that a PCK can carry is read back, of both CAs."""
    said = replace(
        GOOD,
        components=tuple(components),
        pcesvn=pcesvn,
        ppid=ppid,
        sgx_type=sgx_type,
        platform_instance_id=bytes(16) if platform else None,
    )
    read = parse_extension(said.encode())

    assert read.components == said.components
    assert (read.pcesvn, read.ppid, read.fmspc) == (pcesvn, ppid, said.fmspc)
    assert (read.pceid, read.sgx_type) == (said.pceid, sgx_type)
    assert read.cpusvn == bytes(components)


@pytest.mark.parametrize(
    "changed",
    [
        replace(GOOD, ppid=bytes(15)),
        replace(GOOD, fmspc=bytes(7)),
        replace(GOOD, pceid=bytes(1)),
        replace(GOOD, cpusvn=bytes(17)),
        replace(GOOD, components=(0,) * 15),
        replace(GOOD, components=(0,) * 17),
        replace(GOOD, components=(256, *(0,) * 15), cpusvn=bytes(16)),
        replace(GOOD, components=(-1, *(0,) * 15), cpusvn=bytes(16)),
        replace(GOOD, pcesvn=65536),
        replace(GOOD, pcesvn=-1),
        replace(GOOD, platform_instance_id=bytes(15)),
    ],
    ids=range(11),
)
def test_values_out_of_range_are_refused(changed: SgxExtension) -> None:
    """Each field has one size or range."""
    assert reason_of(changed.encode()) is Reason.MALFORMED


def test_a_pck_with_such_an_extension_is_refused() -> None:
    """The reader is reached by quotes, and a PCK without the extension is none."""
    intel = vendors.fake_intel()
    short = intel.platform(sgx_der=GOOD.encode()[:-1])

    assert refused(judge(machine=short), Reason.MALFORMED)
    bare = intel.platform(extensions=())
    assert refused(judge(machine=bare), Reason.CERTIFICATE_INVALID, saying="SGX extension")


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_cut_extension_is_refused(cut: int) -> None:
    """Cut anywhere, the extension is refused, and so is anything after it."""
    raw = GOOD.encode()

    assert reason_of(raw[:-cut]) is Reason.MALFORMED
    assert reason_of(raw + bytes(cut)) is Reason.MALFORMED


@given(st.binary(max_size=200))
def test_random_bytes_give_our_error(raw: bytes) -> None:
    """The reader raises nothing but `VerifierError`."""
    assert reason_of(raw) is Reason.MALFORMED


@given(st.data())
def test_a_flipped_bit_gives_our_error_or_another_value(data: st.DataObject) -> None:
    """A damaged extension is refused, or read as other values."""
    raw = bytearray(GOOD.encode())
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8

    assert reason_of(bytes(raw)) in (None, Reason.MALFORMED)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x02",
        b"\x02\x00",
        b"\x02\x02\x00\x05",
        b"\x02\x02\x01\x05",
        b"\x02\x01\x80",
        b"\x02\x81\x01\x05",
        b"\x02\x80\x05\x00\x00",
        b"\x02\x82\x00\x01\x05",
        b"\x02\x85\x00\x00\x00\x00\x01\x05",
        b"\x0a\x01\x05",
        b"\x02\x02\x05",
    ],
    ids=bytes.hex,
)
def test_integers_have_one_form(raw: bytes) -> None:
    """Only the shortest INTEGER with the shortest length is one; its last byte is not enough."""
    with pytest.raises(VerifierError) as caught:
        Der(raw, "test").integer(below=256)

    assert caught.value.reason is Reason.MALFORMED


@given(st.integers(0, 2**40))
def test_integers_are_read_as_written(number: int) -> None:
    """An INTEGER of any size is the number that was written."""
    assert Der(wrote.integer(number), "test").integer(below=2**41) == number


@given(
    st.tuples(st.integers(0, 2), st.integers(0, 39)),
    st.lists(st.integers(0, 2**30), max_size=6),
)
def test_object_identifiers_are_read_as_written(first: tuple[int, int], more: list[int]) -> None:
    """Any OBJECT IDENTIFIER is the one that was written."""
    dotted = ".".join(str(arc) for arc in (*first, *more))

    assert Der(wrote.oid(dotted), "test").oid() == dotted


@pytest.mark.parametrize("raw", [b"\x06\x00", b"\x06\x01\x80", b"\x06\x03\x2a\x80\x01"])
def test_object_identifiers_have_one_form(raw: bytes) -> None:
    """Padded and unfinished OBJECT IDENTIFIERs are refused."""
    with pytest.raises(VerifierError):
        Der(raw, "test").oid()


def test_long_lengths_are_read() -> None:
    """Lengths of one, two and three bytes are read; what is left over is refused."""
    for size in (127, 128, 255, 256, 65535, 65536):
        reader = Der(wrote.octets(bytes(size)) + b"\x01\x01\xff", "test")

        assert reader.octets(size) == bytes(size)
        with pytest.raises(VerifierError):
            reader.end()
        assert reader.value(BOOLEAN) == b"\xff"
        reader.end()
    assert INTEGER == 2
