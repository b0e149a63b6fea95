"""OCSP responses: read strictly, and believed only from whom the issuer lets speak."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as library
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.simulator import certificates, der
from ostiary.simulator.certificates import Certificate, EcdsaSha384Signer, Extension, name
from ostiary.simulator.nvidia.pki import SUBJECTS
from tests.kit import nvrim
from tests.kit.vendors import NOW
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import ocsp
from verifier.nvgpu.endorsements import MAX_OCSP
from verifier.nvgpu.ocsp import Status

ROLE = "gh100_ica"


def refused(call: Callable[[], object], match: str | None = None) -> None:
    with pytest.raises(VerifierError, match=match) as caught:
        call()
    assert caught.value.reason is Reason.REVOCATION_INVALID


def said(raw: bytes) -> ocsp.Single | None:
    return ocsp.answer(ocsp.parse(raw), *nvrim.pair(ROLE))


def checked(raw: bytes, cache: Cache | None = None) -> ocsp.Checked:
    return ocsp.check_signature(ocsp.parse(raw), nvrim.certificate("identity"), cache)


@pytest.mark.parametrize("by", ["sha1", "sha256", "sha384"])
@pytest.mark.parametrize("signer", ["responder", "issuer"])
def test_an_honest_answer_is_read(by: str, signer: str) -> None:
    """By each hash, from the issuer itself or from whom it named."""
    raw = nvrim.answered(ROLE, by=by, signer=signer, nonce=b"n" * 32)
    found = said(raw)
    assert found is not None
    assert (found.status, found.this_update, found.next_update) == (
        Status.GOOD,
        NOW - 3600,
        NOW - 3600 + nvrim.DAY,
    )
    cache = Cache()
    assert checked(raw, cache) == checked(raw, cache) == checked(raw)
    assert len(cache) == 1
    assert ocsp.parse(raw).nonce == b"n" * 32


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("good", Status.GOOD),
        ("hold", Status.HOLD),
        ("revoked", Status.REVOKED),
        ("unknown", Status.UNKNOWN),
    ],
)
def test_what_is_said_is_what_is_read(status: str, expected: Status) -> None:
    """A hold is told apart from a revocation, and unknown from both."""
    found = said(nvrim.answered(ROLE, status=status))
    assert found is not None
    assert found.status is expected


def test_the_library_reads_the_same() -> None:
    """The library's own reader agrees about every field."""
    raw = nvrim.answered(ROLE, status="hold", nonce=b"n" * 32)
    ours, theirs = ocsp.parse(raw), library.load_der_ocsp_response(raw)
    (single,) = ours.singles
    assert single.cert_id.serial == theirs.serial_number
    assert single.cert_id.key == theirs.issuer_key_hash
    assert single.cert_id.name == theirs.issuer_name_hash
    assert ours.signed == theirs.tbs_response_bytes
    assert ours.signature == theirs.signature
    assert theirs.revocation_reason is x509.ReasonFlags.certificate_hold


def test_an_answer_about_another_certificate_says_nothing() -> None:
    """Another serial number, or another issuer, is another certificate."""
    assert said(nvrim.answered(ROLE, serial=1)) is None
    assert said(nvrim.answered("ls10_ica")) is None
    assert said(nvrim.answered("gh100_rim_ca", serial=nvrim.vendor().serial(ROLE))) is None


def test_a_nonce_must_be_the_one_that_was_sent() -> None:
    """Another nonce, or none, is no answer to our question."""
    ocsp.check_nonce(ocsp.parse(nvrim.answered(ROLE, nonce=b"n" * 32)), b"n" * 32)
    for nonce in (None, b"m" * 32, b"n" * 31):
        raw = nvrim.answered(ROLE, nonce=nonce)
        refused(lambda raw=raw: ocsp.check_nonce(ocsp.parse(raw), b"n" * 32), "nonce")  # type: ignore[misc]


def test_a_responder_without_the_right_is_refused() -> None:
    """Without OCSPSigning, or named by another issuer, nobody speaks for this one."""
    refused(lambda: checked(nvrim.answered(ROLE, signer="no_right")), "ExtendedKeyUsage|may not")
    refused(lambda: checked(nvrim.answered(ROLE, signer="other_issuer")), "may not sign")
    raw = nvrim.answered(ROLE)
    refused(
        lambda: ocsp.check_signature(ocsp.parse(raw), nvrim.certificate("rim_root")), "may not sign"
    )


def made(
    key: Any = None,
    digest: Any = None,
    *,
    by_name: bool = False,
    usage: tuple[str, ...] = ("1.3.6.1.5.5.7.3.9",),
    critical: bool = False,
    shown: bool = True,
    extensions: tuple[Extension, ...] = (),
) -> bytes:
    """Return an answer about `ROLE`, signed by a responder that the issuer made."""
    signer = nvrim.vendor().signer("identity")
    key = key or ec.generate_private_key(ec.SECP384R1())
    purpose = Extension("2.5.29.37", der.sequence(*map(der.oid, usage)), critical=critical)
    issued = Certificate(
        subject=name(("CN", "responder")),
        issuer=SUBJECTS["identity"],
        serial=77,
        not_before=NOW - nvrim.DAY,
        not_after=NOW + nvrim.DAY,
        spki=EcdsaSha384Signer(key).spki,
        extensions=(*extensions, purpose) if usage else extensions,
    ).issue(signer)
    certificate = x509.load_der_x509_certificate(issued)
    subject_, issuer = nvrim.pair(ROLE)
    at = x509.load_der_x509_certificate(issued).not_valid_before_utc.replace(tzinfo=None)
    builder: Any = library.OCSPResponseBuilder()
    builder = builder.add_response(
        subject_, issuer, hashes.SHA384(), library.OCSPCertStatus.GOOD, at, at, None, None
    )
    encoding = library.OCSPResponderEncoding
    builder = builder.responder_id(encoding.NAME if by_name else encoding.HASH, certificate)
    if shown:
        builder = builder.certificates([certificate])
    return bytes(builder.sign(key, digest or hashes.SHA384()).public_bytes(Encoding.DER))


def test_a_responder_may_be_named_by_its_name() -> None:
    """By name as well as by key; and OCSPSigning may be critical."""
    assert checked(made(by_name=True, critical=True)) == ocsp.Checked(
        NOW - nvrim.DAY, NOW + nvrim.DAY
    )
    p256 = ec.generate_private_key(ec.SECP256R1())
    assert checked(made(p256, hashes.SHA256())).end == NOW + nvrim.DAY


def test_a_response_by_another_responder_is_refused() -> None:
    """What names somebody who is not there, or whose key did not sign, is refused."""
    refused(lambda: checked(made(shown=False)), "neither the issuer")
    refused(lambda: checked(made(usage=("1.3.6.1.5.5.7.3.3",))), "no OCSPSigning")
    refused(lambda: checked(made(usage=())), "may not sign")
    ca = certificates.basic_constraints(ca=True)
    refused(lambda: checked(made(extensions=(ca,))), "CA certificate")
    unknown = Extension("1.2.3", der.null(), critical=True)
    refused(lambda: checked(made(extensions=(unknown,))), "unknown critical")
    named = t(0xA1, SUBJECTS["identity"])
    refused(lambda: checked(response(responder=named)), "not signed by its responder")
    unreadable = response(certificates=t(0xA0, t(0x30, t(0x30))))
    refused(lambda: checked(unreadable))


def test_a_weak_or_other_signature_is_refused() -> None:
    """The key fixes the algorithm: P-384 with SHA-384, P-256 with SHA-256."""
    refused(lambda: checked(made(digest=hashes.SHA256())), "another key")
    refused(lambda: checked(made(digest=hashes.SHA512())), "another key")
    p256 = ec.generate_private_key(ec.SECP256R1())
    refused(lambda: checked(made(p256, hashes.SHA384())), "another key")


def test_a_changed_answer_is_refused() -> None:
    """The signature covers everything that is said."""
    raw = nvrim.answered(ROLE, status="revoked")
    bent = raw.replace(b"\x0a\x01\x01", b"\x0a\x01\x06")
    assert bent != raw
    found = said(bent)
    assert found is not None
    assert found.status is Status.HOLD
    refused(lambda: checked(bent), "not signed by its responder")


@pytest.mark.parametrize("status", range(1, 7))
def test_an_unsuccessful_response_is_refused(status: int) -> None:
    """Whatever the responder is sorry for is no answer."""
    refused(lambda: ocsp.parse(bytes.fromhex(f"30030a01{status:02x}")), "the responder says")


def test_a_huge_response_is_refused() -> None:
    """Size is looked at first."""
    with pytest.raises(VerifierError) as caught:
        ocsp.parse(bytes(MAX_OCSP + 1))
    assert caught.value.reason is Reason.TOO_LARGE


def t(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    short = bytes([size]) if size < 128 else bytes([0x81, size & 255])
    length = short if size < 256 else bytes([0x82, size >> 8, size & 255])
    return bytes([tag]) + length + body


TIME = t(0x18, b"20260331000000Z")
LATER = t(0xA0, t(0x18, b"20260401000000Z"))
SHA1 = t(0x30, der.oid("1.3.14.3.2.26"), b"\x05\0")


def identity(algorithm: bytes = SHA1, size: int = 20, serial: bytes = b"\x02\x01\x07") -> bytes:
    return t(0x30, algorithm, t(4, bytes(size)), t(4, bytes(size)), serial)


def single(*, who: bytes | None = None, status: bytes = b"\x80\0", more: bytes = LATER) -> bytes:
    return t(0x30, who or identity(), status, TIME, more)


def response(
    singles: tuple[bytes, ...] = (single(),),
    *,
    responder: bytes | None = None,
    tail: bytes = b"",
    certificates: bytes = b"",
    algorithm: bytes | None = None,
    kind: str = "1.3.6.1.5.5.7.48.1.1",
    after: bytes = b"",
    time: bytes = TIME,
) -> bytes:
    data = t(0x30, responder or t(0xA2, t(4, bytes(20))), time, t(0x30, *singles), tail)
    own = algorithm or t(0x30, der.oid("1.2.840.10045.4.3.3"))
    basic = t(0x30, data, own, t(3, b"\0sig"), certificates)
    body = t(0xA0, t(0x30, der.oid(kind), t(4, basic)))
    return t(0x30, b"\x0a\x01\0", body) + after


def extension(oid: str, value: bytes = b"", *, critical: bool = False) -> bytes:
    return t(0x30, der.oid(oid), b"\x01\x01\xff" if critical else b"", t(4, value))


NONCE = "1.3.6.1.5.5.7.48.1.2"
DIFFERENT: dict[str, bytes] = {
    "trailing bytes": response(after=b"\0"),
    "another type": response(kind="1.3.6.1.5.5.7.48.1.9"),
    "a version": response(responder=t(0xA0, b"\x02\x01\0") + t(0xA2, t(4, bytes(20)))),
    "a short key": response(responder=t(0xA2, t(4, bytes(19)))),
    "more behind the key": response(responder=t(0xA2, t(4, bytes(20)), b"\x05\0")),
    "no statement": response(()),
    "many statements": response((single(),) * 65),
    "UTCTime": response(time=t(0x17, b"260331000000Z")),
    "a short year": response(time=t(0x18, b"260331000000Z")),
    "a fraction": response(time=t(0x18, b"20260331000000.5Z")),
    "no zone": response(time=t(0x18, b"20260331000000")),
    "single digits": response(time=t(0x18, b"2026 3 31 0 0 0Z")),
    "a spaced date": response(time=t(0x18, b"20260331 00000Z")),
    "no date": response(time=t(0x18, b"2026\xff331000000Z")),
    "an unknown hash": response((single(who=identity(t(0x30, der.oid("1.2.3")))),)),
    "contents of NULL": response(
        (single(who=identity(t(0x30, der.oid("1.3.14.3.2.26"), b"\x05\x01\0"))),)
    ),
    "a hash of another size": response((single(who=identity(size=48)),)),
    "good with contents": response((single(status=b"\x80\x01\0"),)),
    "unknown with contents": response((single(status=b"\x82\x01\0"),)),
    "another status": response((single(status=b"\x83\0"),)),
    "an unknown reason": response((single(status=t(0xA1, TIME, t(0xA0, b"\x0a\x01\x0b"))),)),
    "a critical extension": response(tail=t(0xA1, t(0x30, extension("1.2.3", critical=True)))),
    "an extension twice": response(tail=t(0xA1, t(0x30, extension("1.2.3"), extension("1.2.3")))),
    "a critical extension of one": response(
        (single(more=LATER + t(0xA1, t(0x30, extension("1.2.3", critical=True)))),)
    ),
    "a bare nonce": response(tail=t(0xA1, t(0x30, extension(NONCE, b"n")))),
    "a long nonce": response(tail=t(0xA1, t(0x30, extension(NONCE, t(4, b"n") + b"\0")))),
    "parameters": response(algorithm=t(0x30, der.oid("1.2.840.10045.4.3.3"), b"\x05\0")),
    "many certificates": response(certificates=t(0xA0, t(0x30, *(t(0x30),) * 7))),
    "something behind nextUpdate": response((single(more=LATER + b"\x05\0"),)),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_response_of_another_form_is_refused(what: str) -> None:
    """Every field is in its place, in its one form, or nothing is read."""
    refused(lambda: ocsp.parse(DIFFERENT[what]))


def test_what_is_optional_may_be_there_or_not() -> None:
    """A response may have no nextUpdate, no certificates, a reason or none, and extensions."""
    assert len(ocsp.parse(response((single(),) * 64)).singles) == 64
    plain = ocsp.parse(response((single(more=b""), single(status=t(0xA1, TIME)))))
    assert [each.next_update for each in plain.singles] == [None, 1_775_001_600]
    assert plain.singles[1].status is Status.REVOKED
    assert plain.certificates == ()
    noted = ocsp.parse(
        response(
            (single(more=LATER + t(0xA1, t(0x30, extension("1.2.3")))),),
            tail=t(0xA1, t(0x30, extension(NONCE, t(4, b"n"), critical=True), extension("1.2.3"))),
        )
    )
    assert noted.nonce == b"n"
    without_null = identity(t(0x30, der.oid("1.3.14.3.2.26")))
    assert ocsp.parse(response((single(who=without_null),))).singles[0].cert_id.hash == "sha1"


def test_two_statements_about_one_certificate_are_refused() -> None:
    """A response that calls a certificate good and revoked says nothing; twice the same is once."""
    certificate, issuer = nvrim.pair(ROLE)
    wanted = ocsp.cert_id(certificate, issuer, "sha1")
    good = ocsp.Single(wanted, Status.GOOD, 1, 2)
    bad = ocsp.Single(wanted, Status.REVOKED, 1, 2)
    parsed = ocsp.parse(nvrim.answered(ROLE))

    def of(*singles: ocsp.Single) -> ocsp.Response:
        values = {f: getattr(parsed, f) for f in ocsp.Response.__dataclass_fields__}
        return ocsp.Response(**values | {"singles": singles})

    assert ocsp.answer(of(good, good), certificate, issuer) == good
    refused(lambda: ocsp.answer(of(good, bad), certificate, issuer), "two statements")


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_refused_by_name(raw: bytes) -> None:
    """Nothing but our error leaves the reader."""
    refused(lambda: ocsp.parse(raw))


@functools.cache
def one_answer() -> bytes:
    return nvrim.answered(ROLE, nonce=b"n" * 32)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_never_changes_what_is_said(data: st.DataObject) -> None:
    """One bit anywhere in an answer: refused, silent, or the same statement."""
    good = one_answer()
    raw = bytearray(good)
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    try:
        checked(bytes(raw))
        found = said(bytes(raw))
    except VerifierError:
        return
    assert found == said(good)


def test_a_cert_id_is_that_of_the_rfc() -> None:
    """Hashes of the issuer's name and of its key's bits, and the serial number."""
    certificate, issuer = nvrim.pair(ROLE)
    found = ocsp.cert_id(certificate, issuer, "sha384")
    asked = library.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA384())
    request = asked.build()
    assert (found.name, found.key, found.serial) == (
        request.issuer_name_hash,
        request.issuer_key_hash,
        request.serial_number,
    )
    assert hashlib.sha384(issuer.subject.public_bytes()).digest() == found.name
