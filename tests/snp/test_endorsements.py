"""AMD's certificate extensions are read strictly: exact types, exact sizes, exact sets."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.snp import AMAZON, reason_of
from verifier.errors import Reason, VerifierError
from verifier.snp.endorsements import VekExtensions, parse_vek
from verifier.snp.product import GENOA, MILAN, TURIN, Generation
from verifier.x509 import load_der

KEY = ec.generate_private_key(ec.SECP384R1())
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SEV-VCEK")])
ARC = "1.3.6.1.4.1.3704.1."

SPARE = {f"3.{number}": b"\x02\x01\x00" for number in (5, 6, 7)}
EARLY = SPARE | {
    "1": b"\x02\x01\x00",
    "3.1": b"\x02\x01\x04",
    "3.2": b"\x02\x01\x00",
    "3.3": b"\x02\x01\x18",
    "3.4": b"\x02\x01\x00",
    "3.8": b"\x02\x02\x00\xdb",
}
MILAN_VCEK = EARLY | {"2": b"\x16\x08Milan-B0", "4": bytes(range(64))}
MILAN_VLEK = EARLY | {"2": b"\x16\x05Milan", "5": bytes([0x16, len(AMAZON)]) + AMAZON.encode()}
TURIN_VCEK = SPARE | {
    "1": b"\x02\x01\x01",
    "2": b"\x16\x05Turin",
    "3.1": b"\x02\x01\x01",
    "3.2": b"\x02\x01\x02",
    "3.3": b"\x02\x01\x04",
    "3.8": b"\x02\x01\x51",
    "3.9": b"\x02\x01\x07",
    "4": b"\x59\x79\x0f\xb1\xc3\x9f\x35\xc1",
}


def certificate(extensions: dict[str, bytes]) -> x509.Certificate:
    """Return a certificate that carries these AMD extensions, by the end of their OID."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2033, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    for suffix, raw in extensions.items():
        value = x509.UnrecognizedExtension(x509.ObjectIdentifier(ARC + suffix), raw)
        builder = builder.add_extension(value, critical=False)
    der = builder.sign(KEY, hashes.SHA384()).public_bytes(Encoding.DER)
    return load_der(der, "VEK")


def refusal(extensions: dict[str, bytes]) -> Reason:
    """Return why a certificate with these extensions is refused."""
    with pytest.raises(VerifierError) as raised:
        parse_vek(certificate(extensions))
    return reason_of(raised)


def test_milan_vcek() -> None:
    """A Milan VCEK names its chip by 64 bytes and its TCB by four parts."""
    assert parse_vek(certificate(MILAN_VCEK)) == VekExtensions(
        MILAN,
        {"bootloader": 4, "tee": 0, "snp": 0x18, "microcode": 0xDB},
        bytes(range(64)),
        None,
    )


def test_turin_vcek() -> None:
    """A Turin VCEK names its chip by 8 bytes and its TCB by five parts, FMC first."""
    extensions = parse_vek(certificate(TURIN_VCEK))

    assert extensions == VekExtensions(
        TURIN,
        {"fmc": 7, "bootloader": 1, "tee": 2, "snp": 4, "microcode": 0x51},
        TURIN_VCEK["4"],
        None,
    )
    assert list(extensions.tcb) == list(TURIN.tcb_parts)


def test_vlek() -> None:
    """A VLEK names its cloud and no chip."""
    extensions = parse_vek(certificate(MILAN_VLEK))

    assert (extensions.hwid, extensions.csp_id) == (None, AMAZON)


def test_wrapped_hwid() -> None:
    """Some certificates wrap the HWID in a DER OCTET STRING; it is the same HWID."""
    milan = certificate(MILAN_VCEK | {"4": b"\x04\x40" + MILAN_VCEK["4"]})
    turin = certificate(TURIN_VCEK | {"4": b"\x04\x08" + TURIN_VCEK["4"]})

    assert parse_vek(milan).hwid == MILAN_VCEK["4"]
    assert parse_vek(turin).hwid == TURIN_VCEK["4"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(8),
        bytes(63),
        bytes(65),
        b"\x04\x40" + bytes(63),
        b"\x04\x40" + bytes(65),
        b"\x04\x3f" + bytes(63),
        b"\x04\x81\x40" + bytes(64),
        b"\x03\x40" + bytes(64),
    ],
)
def test_hwid_of_other_length(raw: bytes) -> None:
    """A HWID of any other length or type is refused."""
    assert refusal(MILAN_VCEK | {"4": raw}) is Reason.CERTIFICATE_INVALID


def test_hwid_of_other_generation() -> None:
    """Turin's chips have 8-byte HWIDs and the others 64, never the other way round."""
    assert refusal(TURIN_VCEK | {"4": bytes(64)}) is Reason.CERTIFICATE_INVALID
    assert refusal(MILAN_VCEK | {"4": TURIN_VCEK["4"]}) is Reason.CERTIFICATE_INVALID


@pytest.mark.parametrize("missing", ["1", "2", "3.1", "3.2", "3.3", "3.8"])
def test_missing_extension(missing: str) -> None:
    """Whatever names version, product or a TCB part must be there."""
    extensions = {suffix: raw for suffix, raw in MILAN_VCEK.items() if suffix != missing}

    assert refusal(extensions) is Reason.CERTIFICATE_INVALID


def test_parts_of_other_generation() -> None:
    """FMC belongs to Turin alone, and Turin never lacks it."""
    without = {suffix: raw for suffix, raw in TURIN_VCEK.items() if suffix != "3.9"}

    assert refusal(without) is Reason.CERTIFICATE_INVALID
    assert refusal(MILAN_VCEK | {"3.9": b"\x02\x01\x00"}) is Reason.CERTIFICATE_INVALID


@pytest.mark.parametrize("suffix", ["3.4", "3.5", "3.6", "3.7"])
def test_spare_part_set(suffix: str) -> None:
    """A spare TCB part that is not zero says something that we cannot compare."""
    assert refusal(MILAN_VCEK | {suffix: b"\x02\x01\x01"}) is Reason.CERTIFICATE_INVALID


@pytest.mark.parametrize("suffix", ["3.10", "3.11", "3.0", "3.1.1"])
def test_unknown_part(suffix: str) -> None:
    """A TCB part that nobody knows is refused, zero or not."""
    assert refusal(MILAN_VCEK | {suffix: b"\x02\x01\x00"}) is Reason.CERTIFICATE_INVALID


def test_unknown_extension() -> None:
    """Another extension of AMD's that is not critical and no TCB part changes nothing."""
    extended = certificate(MILAN_VCEK | {"6": b"\x05\x00"})

    assert parse_vek(extended) == parse_vek(certificate(MILAN_VCEK))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x02",
        b"\x02\x00",
        b"\x02\x01",
        b"\x02\x01\x80",
        b"\x02\x01\xff",
        b"\x02\x02\x01\x05",
        b"\x02\x02\x00\x05",
        b"\x02\x01\x05\x00",
        b"\x02\x81\x01\x05",
        b"\x02\x80\x05",
        b"\x0a\x01\x05",
        b"\x02\x03\x00\x00\x85",
    ],
)
@pytest.mark.parametrize("suffix", ["1", "3.3", "3.5"])
def test_loose_integer(suffix: str, raw: bytes) -> None:
    """An SVN is the shortest DER INTEGER from 0 to 255, with nothing behind it."""
    assert refusal(MILAN_VCEK | {suffix: raw}) is Reason.CERTIFICATE_INVALID


@given(svn=st.integers(0, 255))
@settings(max_examples=30, deadline=None)
def test_integers(svn: int) -> None:
    """All SVNs read back, those above 127 with their zero byte in front."""
    raw = b"\x02\x01" + bytes([svn]) if svn < 128 else b"\x02\x02\x00" + bytes([svn])

    assert parse_vek(certificate(MILAN_VCEK | {"3.3": raw})).tcb["snp"] == svn


@given(suffix=st.sampled_from(sorted(MILAN_VCEK)), raw=st.binary(max_size=70))
@settings(max_examples=60, deadline=None)
def test_arbitrary_extension(suffix: str, raw: bytes) -> None:
    """Whatever an extension holds, the answer is its meaning or our error."""
    parsed = certificate(MILAN_VCEK | {suffix: raw})
    try:
        found: Reason | Generation = parse_vek(parsed).generation
    except VerifierError as error:
        found = error.reason

    assert found in (MILAN, GENOA, Reason.CERTIFICATE_INVALID, Reason.PRODUCT_MISMATCH)


def test_unknown_struct_version() -> None:
    """A structure version that nobody knows is refused."""
    assert refusal(MILAN_VCEK | {"1": b"\x02\x01\x02"}) is Reason.CERTIFICATE_INVALID


def test_unknown_product() -> None:
    """A product without a pinned root is refused."""
    assert refusal(MILAN_VCEK | {"2": b"\x16\x06Venice"}) is Reason.PRODUCT_MISMATCH


@pytest.mark.parametrize(
    "raw", [b"\x16\x05Milan\x00", b"\x0c\x05Milan", b"\x16\x06Milan", b"Milan"]
)
def test_loose_text(raw: bytes) -> None:
    """The product name is one DER IA5String, with nothing behind it."""
    assert refusal(MILAN_VCEK | {"2": raw}) is Reason.CERTIFICATE_INVALID


def test_text_beyond_ascii() -> None:
    """An IA5String is 7-bit."""
    assert refusal(MILAN_VLEK | {"5": b"\x16\x02\xc3\xa9"}) is Reason.CERTIFICATE_INVALID
