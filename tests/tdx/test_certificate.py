"""Intel's certificates and revocation lists: the strict reader of their one profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509 as library
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.simulator import certificates as wrote
from ostiary.simulator import der
from ostiary.simulator.certificates import Extension
from ostiary.simulator.intel import intel_name
from tests.kit import vendors
from tests.kit.vendors import NOW
from verifier.anchors import Anchors
from verifier.errors import Reason, VerifierError
from verifier.tdx import certificate, crl, pck
from verifier.x509 import MAX_CERTIFICATE, MAX_CRL

INTEL = vendors.fake_intel()
PCK, CA, ROOT = vendors.platform().chain
LIST = INTEL.crl("platform_ca", NOW, revoked=[1 << 158 | n for n in range(20)])
ODD_LIST = INTEL.crl("platform_ca", NOW, revoked=[5, 1 << 159, 1 << 158, 0x7F, 0x80])


def reason_of(work: Callable[..., object], *arguments: Any) -> Reason | None:
    try:
        work(*arguments)
    except VerifierError as error:
        return error.reason
    return None


def issued(**changes: Any) -> bytes:
    """Return a PCK certificate by the simulated CA with other `Certificate` fields."""
    return INTEL.platform(**changes).chain[0]


def flipped(raw: bytes, bit: int) -> bytes:
    damaged = bytearray(raw)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def signed(body: bytes, *, algorithm: bytes | None = None, unused: int = 0) -> bytes:
    signer = INTEL.signer("platform_ca")
    return der.sequence(
        body, algorithm or signer.algorithm, der.bits(signer.sign(body), unused=unused)
    )


def list_of(*parts: bytes) -> bytes:
    """Return a signed CRL whose body is these parts."""
    return signed(der.sequence(*parts))


ALGORITHM = INTEL.signer("platform_ca").algorithm
ISSUER = intel_name("Intel SGX PCK Platform CA")
TIMES = (der.time(NOW - 1), der.time(NOW + 1))
EXTENSIONS = der.explicit(0, der.sequence(wrote.crl_number(1).encode()))
HEAD = (der.integer(1), ALGORITHM, ISSUER, *TIMES)


@pytest.mark.parametrize("raw", [PCK, CA, ROOT], ids=["PCK", "CA", "root"])
def test_the_library_reads_the_same(raw: bytes) -> None:
    """Every field is what an independent reader finds."""
    mine, theirs = certificate.load(raw, "x"), library.load_der_x509_certificate(raw)
    constraints = theirs.extensions.get_extension_for_class(library.BasicConstraints).value

    assert int.from_bytes(mine.serial) == theirs.serial_number
    assert (mine.issuer, mine.subject) == (
        theirs.issuer.public_bytes(),
        theirs.subject.public_bytes(),
    )
    assert mine.start == theirs.not_valid_before_utc.timestamp()
    assert mine.end == theirs.not_valid_after_utc.timestamp()
    assert mine.spki == theirs.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert (mine.ca, mine.path_length) == (constraints.ca, constraints.path_length)
    assert (mine.signed, mine.signature) == (theirs.tbs_certificate_bytes, theirs.signature)
    assert sorted(mine.extensions.values()) == sorted(
        each.value.public_bytes() for each in theirs.extensions
    )


@settings(max_examples=300)
@given(st.integers(0, 8 * len(PCK) - 1))
def test_no_flipped_certificate_is_believed(bit: int) -> None:
    """One flipped bit anywhere is refused with our error: by the reader or by the signature."""
    ca = certificate.load(CA, "CA")

    def check() -> None:
        certificate.check_issued_by(certificate.load(flipped(PCK, bit), "PCK"), ca)

    assert reason_of(check) in (Reason.CERTIFICATE_INVALID, Reason.CHAIN_INVALID)


@pytest.mark.parametrize("raw", [LIST, ODD_LIST], ids=["plain", "odd"])
@given(data=st.data())
def test_no_flipped_list_is_believed(raw: bytes, data: st.DataObject) -> None:
    """One flipped bit anywhere in a CRL is refused with our error."""
    ca = certificate.load(CA, "CA")
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))

    def check() -> None:
        crl.check_signature(crl.load(flipped(raw, bit), "CRL"), ca)

    assert reason_of(check) is Reason.CRL_INVALID


@given(st.binary(max_size=500))
def test_random_bytes_give_our_error(raw: bytes) -> None:
    """The readers raise nothing but `VerifierError`."""
    assert reason_of(certificate.load, raw, "x") is Reason.CERTIFICATE_INVALID
    assert reason_of(crl.load, raw, "x") is Reason.CRL_INVALID


def test_truncation_at_every_length_is_refused() -> None:
    """However short a certificate or a list is cut, and with a byte more, it is refused."""
    for length in range(len(PCK)):
        assert reason_of(certificate.load, PCK[:length], "x") is Reason.CERTIFICATE_INVALID
    for length in range(len(LIST)):
        assert reason_of(crl.load, LIST[:length], "x") is Reason.CRL_INVALID
    assert reason_of(certificate.load, PCK + b"\0", "x") is Reason.CERTIFICATE_INVALID
    assert reason_of(crl.load, LIST + b"\0", "x") is Reason.CRL_INVALID


def test_sizes_are_capped_first() -> None:
    """Nothing large is read."""
    assert reason_of(certificate.load, bytes(MAX_CERTIFICATE + 1), "x") is Reason.TOO_LARGE
    assert reason_of(crl.load, bytes(MAX_CRL + 1), "x") is Reason.TOO_LARGE


def other_key(curve: ec.EllipticCurve) -> bytes:
    return wrote.spki_of(ec.generate_private_key(curve).public_key())


@pytest.mark.parametrize(
    "raw",
    [
        issued(version=1),
        issued(version=2),
        issued(serial=-1),
        issued(serial=1 << 168),
        issued(spki=other_key(ec.SECP384R1())),
        issued(spki=other_key(ec.SECP256R1())[:-1] + b"\0"),
        issued(subject=der.sequence(der.octets(b""))),
        issued(subject=wrote.name(("CN", "x"))[:-1] + b"\xff"),
        issued(subject=der.sequence(der.set_of(der.sequence(der.oid("2.5.4.3"), der.ia5("text"))))),
        issued(
            subject=der.sequence(
                der.set_of(
                    der.sequence(der.oid("2.5.4.3"), der.utf8("a")),
                    der.sequence(der.oid("2.5.4.3"), der.utf8("b")),
                )
            )
        ),
        issued(extensions=(Extension("2.5.29.15", b"\x03\x01\x00"),)),
        issued(extensions=(Extension("2.5.29.15", b"\x03\x02\x08\x80"),)),
        issued(extensions=(Extension("2.5.29.15", b"\x03\x02\x07\xc0"),)),
        issued(extensions=(Extension("2.5.29.15", b"\x03\x04\x00\x80\x80\x80"),)),
        issued(extensions=(Extension("2.5.29.19", b"\x30\x03\x01\x01\x01"),)),
        issued(extensions=(Extension("2.5.29.19", b"\x30\x00\x00"),)),
        issued(extensions=(Extension("1.2.3", b"", critical=True),)),
        issued(extensions=(Extension("2.5.29.37", b"", critical=True),)),
        issued(extensions=(Extension("2.5.29.37", b""), Extension("2.5.29.37", b""))),
        issued(extensions=(Extension("1.2.3", b""), Extension("1.2.3", b""))),
    ],
    ids=range(20),
)
def test_other_profiles_are_refused(raw: bytes) -> None:
    """Versions, serials, keys, names and extensions that Intel's certificates never have."""
    assert reason_of(certificate.load, raw, "x") is Reason.CERTIFICATE_INVALID


@pytest.mark.parametrize(
    "times",
    [
        b"\x17\x0d2602300000000Z"[:15],
        b"\x17\x0d260230000000Z",
        b"\x17\x0d26010100000aZ",
        b"\x17\x0b2601010000Z",
        b"\x18\x0d260101000000Z",
        b"\x18\x0f20260101246000Z",
        b"\x02\x01\x05",
    ],
    ids=range(7),
)
def test_times_have_two_forms(times: bytes) -> None:
    """UTCTime and GeneralizedTime to the second, in UTC, of days that exist."""
    good = der.time(NOW)
    assert reason_of(crl.load, list_of(*HEAD[:3], good, good, EXTENSIONS), "x") is None

    raw = list_of(*HEAD[:3], times, good, EXTENSIONS)
    assert reason_of(crl.load, raw, "x") is Reason.CRL_INVALID


def test_utc_time_turns_in_1950() -> None:
    """Two-digit years from 50 on are of the last century (RFC 5280 §4.1.2.5.1)."""
    old = list_of(*HEAD[:3], b"\x17\x0d500101000000Z", b"\x17\x0d491231235959Z", EXTENSIONS)
    read = crl.load(old, "x")

    assert (read.start, read.end) == (-631_152_000, 2_524_607_999)


def test_the_unused_bits_of_a_signature_have_one_spelling() -> None:
    """A signature in whole bytes: otherwise one certificate would have several digests."""
    body = certificate.load(PCK, "x").signed
    listed = crl.load(LIST, "x").signed

    assert reason_of(certificate.load, signed(body), "x") is None
    for unused in (1, 7):
        raw = signed(body, unused=unused)
        assert reason_of(certificate.load, raw, "x") is Reason.CERTIFICATE_INVALID
        assert reason_of(crl.load, signed(listed, unused=unused), "x") is Reason.CRL_INVALID


def test_the_algorithm_is_one_and_stands_twice() -> None:
    """Another algorithm outside, or inside, is refused."""
    other = der.sequence(der.oid("1.2.840.10045.4.3.3"))
    body = certificate.load(PCK, "x").signed
    inside = body.replace(ALGORITHM, other, 1)
    listed = list_of(der.integer(1), other, *HEAD[2:], EXTENSIONS)

    assert reason_of(certificate.load, signed(body, algorithm=other), "x") is not None
    assert reason_of(certificate.load, signed(inside), "x") is Reason.CERTIFICATE_INVALID
    assert reason_of(crl.load, listed, "x") is Reason.CRL_INVALID


def test_certificates_without_the_two_extensions_are_no_cas() -> None:
    """No basicConstraints is no CA; no keyUsage is no right to sign certificates or lists."""
    bare = certificate.load(issued(extensions=(Extension("1.2.3", b""),)), "x")
    limits = wrote.basic_constraints(ca=True)
    ca = certificate.load(issued(extensions=(limits,)), "x")

    assert (bare.ca, bare.path_length, bare.usage) == (False, None, None)
    assert reason_of(lambda: certificate.check_ca(bare, path_length=0)) is Reason.CHAIN_INVALID
    assert reason_of(lambda: certificate.check_ca(ca, path_length=0)) is Reason.CHAIN_INVALID
    assert not certificate.may_sign_crls(ca)
    assert certificate.check_end_entity(bare) is None


def test_a_name_counts_only_if_there_is_one() -> None:
    """Two common names are none."""
    two = wrote.name(("CN", "one"), ("CN", "two"))

    assert certificate.load(issued(subject=two), "x").common_name == ""


def test_a_root_is_asked_for_its_pin_at_every_call() -> None:
    """What a process has read of a root once does not make it a root."""
    mine = Anchors().with_simulated(intel=[INTEL.root_pin])

    assert certificate.load_root(ROOT, mine, "x").common_name == "Intel SGX Root CA"
    assert reason_of(certificate.load_root, ROOT, Anchors(), "x") is Reason.ROOT_UNKNOWN


@pytest.mark.parametrize(
    "parts",
    [
        (der.integer(0), *HEAD[1:], EXTENSIONS),
        (*HEAD[1:], EXTENSIONS),
        (*HEAD[:4], EXTENSIONS),
        HEAD,
        (*HEAD, der.sequence(der.sequence(der.integer(5))), EXTENSIONS),
        (*HEAD, der.sequence(der.sequence(der.integer(-5), der.time(NOW))), EXTENSIONS),
        (*HEAD, der.sequence(der.sequence(der.integer(5), der.time(NOW), der.null())), EXTENSIONS),
        (
            *HEAD,
            der.sequence(
                der.sequence(
                    der.integer(5),
                    der.time(NOW),
                    der.sequence(Extension("2.5.29.29", b"", critical=True).encode()),
                )
            ),
            EXTENSIONS,
        ),
        (*HEAD, der.explicit(0, der.tlv(0x30, wrote.crl_number(1).encode()[:-1]))),
        (
            *HEAD,
            der.explicit(
                0, der.sequence(Extension("2.5.29.28", b"\x30\x00", critical=True).encode())
            ),
        ),
    ],
    ids=[
        "v1",
        "no version",
        "no nextUpdate",
        "no extensions",
        "entry without date",
        "negative serial",
        "odd entry",
        "indirect entry",
        "cut extension",
        "partial list",
    ],
)
def test_lists_of_other_shapes_are_refused(parts: tuple[bytes, ...]) -> None:
    """Only complete lists of version 2 with an end count."""
    assert reason_of(crl.load, list_of(*parts), "x") is Reason.CRL_INVALID


def test_every_listed_serial_is_found() -> None:
    """In the common form and in any other, at every size; an entry needs no reason."""
    serials = [0, 5, 0x7F, 0x80, 1 << 158, 1 << 159, (1 << 160) - 1]
    entries = [der.sequence(der.integer(n), der.time(NOW)) for n in serials]
    bare = crl.load(list_of(*HEAD, der.sequence(*entries), EXTENSIONS), "x")

    assert {int.from_bytes(raw) for raw in bare.revoked} == set(serials)
    for raw in (LIST, ODD_LIST, INTEL.crl("root", NOW)):
        listed = {entry.serial_number for entry in library.load_der_x509_crl(raw)}
        assert {int.from_bytes(serial) for serial in crl.load(raw, "x").revoked} == listed


@given(st.data())
def test_the_common_form_of_entries_is_read_as_any_other(data: st.DataObject) -> None:
    """With bytes of the entries overwritten, the fast way finds nothing that DER does not say."""
    entries = b"".join(wrote.Revoked(1 << 158 | n, NOW).encode() for n in range(3))
    at = data.draw(st.integers(0, len(entries) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=4))
    damaged = (entries[:at] + patch + entries[at + len(patch) :])[: len(entries)]
    raw = list_of(*HEAD, der.tlv(0x30, damaged), EXTENSIONS)

    try:
        mine = {int.from_bytes(serial) for serial in crl.load(raw, "x").revoked}
    except VerifierError:
        return
    assert mine == {entry.serial_number for entry in library.load_der_x509_crl(raw)}


def test_lists_are_their_issuers() -> None:
    """Name, right and signature."""
    root, ca = certificate.load(ROOT, "root"), certificate.load(CA, "CA")
    read = crl.load(LIST, "x")
    forged = crl.load(INTEL.crl("platform_ca", NOW, signed_by="root"), "x")
    usage = replace(ca, usage=0x04)

    assert crl.check_signature(read, ca) is None
    for wrong, issuer in ((read, root), (forged, ca), (read, usage)):
        assert reason_of(crl.check_signature, wrong, issuer) is Reason.CRL_INVALID


def slow(raw: bytes) -> pck.SgxExtension | None:
    """Read an SGX extension field by field."""
    try:
        return pck.parse_fields(raw)
    except VerifierError:
        return None


@settings(max_examples=300)
@given(st.data())
def test_the_fast_way_reads_sgx_extensions_as_the_slow_one(data: st.DataObject) -> None:
    """Damaged anywhere, an extension is refused by both ways or read alike."""
    good = vendors.platform().sgx.encode()
    at = data.draw(st.integers(0, len(good) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=3))
    raw = (good[:at] + patch + good[at + len(patch) :])[: len(good)]
    try:
        fast = pck.parse_extension(raw)
    except VerifierError:
        fast = None

    assert fast == slow(raw)


def test_a_chain_is_read_without_anything_remembered() -> None:
    """The PCK chain needs no store to share Intel's CA with collateral."""
    anchors = Anchors().with_simulated(intel=[INTEL.root_pin])
    chain = pck.load_chain(vendors.platform().chain_pem, anchors)

    assert chain.sgx.ppid == vendors.platform().sgx.ppid


@pytest.mark.parametrize(
    ("day", "there"),
    [
        ("240229", True),
        ("230229", False),
        ("230230", False),
        ("231130", True),
        ("231131", False),
        ("231231", True),
        ("231301", False),
        ("230100", False),
        ("000229", True),
    ],
)
def test_entries_of_days_that_there_are(day: str, there: bool) -> None:
    """The fast way takes a date if and only if there is such a day, as the slow one does."""
    entries = wrote.Revoked(1 << 158, NOW).encode()
    at = entries.index(b"\x17\r") + 2
    raw = list_of(*HEAD, der.tlv(0x30, entries[:at] + day.encode() + entries[at + 6 :]), EXTENSIONS)

    if there:
        assert {int.from_bytes(serial) for serial in crl.load(raw, "x").revoked} == {1 << 158}
    else:
        assert reason_of(crl.load, raw, "x") is Reason.CRL_INVALID
