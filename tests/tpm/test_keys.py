"""Attestation keys: forms, strengths, attributes, and who may have signed."""

from __future__ import annotations

import contextlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit import tpm_chain
from tests.kit.measured import ATTRIBUTES, ec_key, rsa_key, sign, tpmt_public
from verifier.errors import Reason, VerifierError
from verifier.tpm import attest as attests
from verifier.tpm import keys
from verifier.tpm.attest import ECDSA, RSASSA, Signature

DATA = b"attest"


def spki(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, encoding: Encoding) -> bytes:
    return key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


def refused(raw: bytes, reason: Reason) -> str:
    with pytest.raises(VerifierError) as caught:
        keys.load(raw)
    assert caught.value.reason is reason, caught.value
    return str(caught.value)


@pytest.mark.parametrize("key", [rsa_key(), ec_key(), ec_key("secp384r1")])
def test_forms(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    """DER, PEM, TPMT_PUBLIC and TPM2B_PUBLIC are the same key with the same scheme."""
    public = tpmt_public(key)
    forms = [
        spki(key, Encoding.DER),
        spki(key, Encoding.PEM),
        public,
        struct.pack(">H", len(public)) + public,
    ]
    loaded = [keys.load(form) for form in forms]

    assert len({each.hash for each in loaded}) == 1
    assert all(keys.same_key(each.key, key.public_key()) for each in loaded)
    assert [each.form for each in loaded] == ["key", "key", "tpmt_public", "tpmt_public"]
    assert "SPKI" in loaded[0].describe()
    for each in loaded:
        keys.check_signature(each, sign(DATA, key), DATA)


def test_certificates() -> None:
    """Of a certificate, DER or PEM, the key is read."""
    made = tpm_chain.intermediate()
    pem = made.certificate.public_bytes(Encoding.PEM)
    for raw in (made.der, pem):
        loaded = keys.load(raw)
        assert loaded.form == "certificate"
        assert keys.same_key(loaded.key, made.key.public_key())


def test_weak_and_other_keys() -> None:
    """Short RSA, other exponents, other curves and other kinds of key are refused."""
    refused(spki(rsa_key(1024), Encoding.DER), Reason.AK_REFUSED)
    refused(spki(rsa_key(2048, 3), Encoding.DER), Reason.AK_REFUSED)
    refused(spki(ec_key("secp521r1"), Encoding.PEM), Reason.AK_REFUSED)
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    refused(other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), Reason.AK_REFUSED)


def test_the_whole_key_is_compared() -> None:
    """The same modulus with another exponent is another key; so is another kind."""
    one = rsa_key().public_key()
    numbers = one.public_numbers()
    other = rsa.RSAPublicNumbers(3, numbers.n).public_key()

    assert keys.same_key(one, one)
    assert not keys.same_key(one, other)
    assert not keys.same_key(one, ec_key().public_key())


@pytest.mark.parametrize("bit", [1, 4, 16, 17, 18])
def test_attributes(bit: int) -> None:
    """fixedTPM, fixedParent, restricted and sign are needed, decrypt is refused."""
    refused(tpmt_public(attributes=ATTRIBUTES ^ 1 << bit), Reason.AK_REFUSED)


def test_schemes() -> None:
    """The key's scheme is RSASSA or ECDSA with a hash that may still sign, and nothing else."""
    for scheme in ((0x10, 0x16, 0x0B), (0x06, 0x14, 0x0B), (0x10, 0x14, 0x04)):
        refused(tpmt_public(scheme=scheme), Reason.AK_REFUSED)
    refused(tpmt_public(scheme=(0x10, 0x14, 0x12)), Reason.UNSUPPORTED)
    assert keys.load(tpmt_public(scheme=(0x10, 0x14, 0x0C))).hash == "sha384"


def test_shapes_of_a_tpmt_public() -> None:
    """Lengths must fill it, moduli have their bits, points lie on their curve."""
    good = tpmt_public()
    refused(good + b"\0", Reason.TRAILING_DATA)
    refused(good[:-1], Reason.MALFORMED)
    refused(b"\0\x01" + good[2:40], Reason.MALFORMED)
    rest = struct.pack(">HIH", 2048, 0, 255) + b"\xff" * 255
    refused(tpmt_public(tail=rest), Reason.MALFORMED)
    rest = struct.pack(">HIH", 2048, 0, 256) + b"\0" + b"\xff" * 255
    refused(tpmt_public(tail=rest), Reason.MALFORMED)
    even = struct.pack(">HIH", 2048, 4, 256) + b"\xff" * 256
    refused(tpmt_public(tail=even), Reason.MALFORMED)
    point = struct.pack(">HHH", 3, 0x10, 32) + bytes(32) + b"\0\x20" + bytes(32)
    refused(tpmt_public(ec_key(), tail=point), Reason.MALFORMED)
    for curve, kdf in ((5, 0x10), (3, 0x20)):
        tail = struct.pack(">HH", curve, kdf)
        refused(tpmt_public(ec_key(), tail=tail), Reason.AK_REFUSED)
    keyed = b"\0\x08" + good[2:]
    refused(struct.pack(">H", len(keyed)) + keyed, Reason.MALFORMED)


def test_what_is_no_key() -> None:
    """Other bytes, too many of them and empty PEM are refused."""
    refused(b"", Reason.MALFORMED)
    refused(b"hello, key", Reason.MALFORMED)
    refused(bytes(keys.MAX_KEY + 1), Reason.TOO_LARGE)
    refused(b"\x30\x03\x02\x01\x00", Reason.CERTIFICATE_INVALID)
    refused(b"-----BEGIN CERTIFICATE-----\n", Reason.CHAIN_INVALID)
    refused(b"-----BEGIN PUBLIC KEY-----\n", Reason.MALFORMED)


@given(st.binary(max_size=80), st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_any_bytes(raw: bytes, keep: int) -> None:
    """Any bytes give a key or our own error."""
    for data in (raw, tpmt_public()[:keep] + raw, spki(rsa_key(), Encoding.DER)[:keep] + raw):
        with contextlib.suppress(VerifierError):
            keys.load(data)


def wrong(key: keys.AttestationKey, signature: bytes, reason: Reason) -> None:
    with pytest.raises(VerifierError) as caught:
        keys.check_signature(key, signature, DATA)
    assert caught.value.reason is reason, caught.value


def test_signatures_of_others() -> None:
    """Another key, other bytes, another scheme and another hash are no signature of this AK."""
    ak = keys.from_public_key(rsa_key().public_key())
    curve = keys.from_public_key(ec_key().public_key())
    good = sign(DATA)
    wrong(ak, sign(b"other"), Reason.SIGNATURE_INVALID)
    wrong(ak, sign(DATA, ec_key()), Reason.SIGNATURE_INVALID)
    wrong(curve, good, Reason.SIGNATURE_INVALID)
    parts = attests.parse_signature(good).parts
    for name in ("sha1", "sha384"):
        bent = attests.encode_signature(Signature(RSASSA, name, parts))
        wrong(ak, bent, Reason.SIGNATURE_INVALID)
    wrong(ak, good[6:-1], Reason.UNSUPPORTED)
    keys.check_signature(ak, good[6:], DATA)
    wrong(ak, good[6:][::-1], Reason.SIGNATURE_INVALID)


def test_any_bit_of_a_signature() -> None:
    """A flipped bit of an RSA signature never verifies."""
    ak = keys.from_public_key(rsa_key().public_key())
    good = sign(DATA)
    for place in range(6, len(good), 16):
        wrong(
            ak,
            good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :],
            Reason.SIGNATURE_INVALID,
        )


def test_ecdsa_numbers() -> None:
    """r and s are from 1 to n - 1."""
    ak = keys.from_public_key(ec_key().public_key())
    r, s = attests.parse_signature(sign(DATA, ec_key())).parts
    order = keys._CURVE_ORDERS["secp256r1"].to_bytes(32, "big")
    for bad in ((bytes(32), s), (r, bytes(32)), (order, s), (r, order), (b"", s), (r, b"\1")):
        wrong(
            ak,
            attests.encode_signature(Signature(ECDSA, "sha256", bad)),
            Reason.SIGNATURE_INVALID,
        )
