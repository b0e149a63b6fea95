"""Certificates and CRLs: the strict reader under both vendors' chains."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_der_x509_crl
from hypothesis import given
from hypothesis import strategies as st

from ostiary.simulator import certificates, der
from ostiary.simulator.intel import intel_name
from tests.kit import vendors
from tests.kit.vendors import NOW
from verifier import x509
from verifier.der import Der
from verifier.errors import Reason, VerifierError
from verifier.tdx.signature import p256_key

INTEL = vendors.fake_intel()
PCK, CA, ROOT = vendors.platform().chain


def reason_of(load: object, *arguments: object) -> Reason | None:
    assert callable(load)
    try:
        load(*arguments)
    except VerifierError as error:
        return error.reason
    return None


def flipped(raw: bytes, bit: int) -> bytes:
    damaged = bytearray(raw)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@given(st.integers(0, 8 * len(PCK) - 1))
def test_no_flipped_certificate_is_believed(bit: int) -> None:
    """One flipped bit anywhere is refused with our error: by the reader or by the signature."""
    bad = flipped(PCK, bit)
    ca = x509.load_der(CA, "CA")

    def check() -> None:
        x509.check_issued_by(x509.load_der(bad, "PCK"), ca, "PCK")

    assert reason_of(check) in (Reason.CERTIFICATE_INVALID, Reason.CHAIN_INVALID)


@given(st.integers(0, 8 * 300))
def test_no_flipped_crl_is_believed(bit: int) -> None:
    """One flipped bit anywhere in a CRL is refused with our error."""
    crl = INTEL.crl("platform_ca", NOW, revoked=[5])
    ca = x509.load_der(CA, "CA")

    def check() -> None:
        x509.check_crl(x509.load_crl(flipped(crl, bit % (8 * len(crl))), "CRL"), ca, NOW, "CRL")

    assert reason_of(check) is Reason.CRL_INVALID


@given(st.binary(max_size=500))
def test_random_bytes_give_our_error(raw: bytes) -> None:
    """The readers raise nothing but `VerifierError`."""
    assert reason_of(x509.load_der, raw, "test") is Reason.CERTIFICATE_INVALID
    assert reason_of(x509.load_crl, raw, "test") is Reason.CRL_INVALID
    assert reason_of(lambda: x509.load_pem_chain(raw, "test", count=1)) is Reason.CHAIN_INVALID


def test_sizes_are_capped_first() -> None:
    """Nothing large reaches the certificate library."""
    big = bytes(x509.MAX_CRL + 1)

    assert reason_of(x509.load_der, big[: x509.MAX_CERTIFICATE + 1], "x") is Reason.TOO_LARGE
    assert reason_of(x509.load_crl, big, "x") is Reason.TOO_LARGE
    pem = big[: x509.MAX_PEM + 1]
    assert reason_of(lambda: x509.load_pem_chain(pem, "x", count=1)) is Reason.TOO_LARGE


def test_nothing_may_follow() -> None:
    """DER and PEM end where the certificate ends."""
    assert reason_of(x509.load_der, PCK + b"\0", "x") is Reason.CERTIFICATE_INVALID
    assert reason_of(x509.load_der, PCK[:-1], "x") is Reason.CERTIFICATE_INVALID


def test_serial_zero_is_read_and_a_negative_one_is_not() -> None:
    """AMD's VCEK and VLEK certificates all have serial 0; the library's warning stays inside."""
    zero = INTEL.platform(serial=0).chain[0]
    negative = INTEL.platform(serial=-1).chain[0]

    assert x509.serial_number(x509.load_der(zero, "x")) == 0
    assert reason_of(x509.load_der, negative, "x") is Reason.CERTIFICATE_INVALID


def test_what_the_library_only_warns_of_is_refused() -> None:
    """A country name of eleven letters is a warning there and an error here."""
    subject = certificates.name(("C", "United Kin"))

    assert (
        reason_of(x509.load_der, INTEL.platform(subject=subject).chain[0], "x")
        is Reason.CERTIFICATE_INVALID
    )


@pytest.mark.parametrize("blocks", [(), (PCK, CA)])
def test_a_chain_has_as_many_certificates_as_asked_for(blocks: tuple[bytes, ...]) -> None:
    """Fewer and more are refused."""
    text = certificates.pem(*blocks)

    assert reason_of(lambda: x509.load_pem_chain(text, "x", count=1)) is Reason.CHAIN_INVALID


def test_names_and_fingerprints() -> None:
    """A name counts only if there is exactly one."""
    two = certificates.name(("CN", "one"), ("CN", "two"))

    assert x509.common_name(x509.load_der(PCK, "x")) == "Intel SGX PCK Certificate"
    assert x509.common_name(x509.load_der(INTEL.platform(subject=two).chain[0], "x")) == ""
    assert x509.fingerprint(x509.load_der(ROOT, "x")) == INTEL.root_pin


def test_windows_include_both_ends() -> None:
    """notBefore and notAfter are inside."""
    pck = x509.load_der(PCK, "x")
    start, end = x509.not_before(pck), x509.not_after(pck)

    assert reason_of(x509.check_window, pck, start, "x") is None
    assert reason_of(x509.check_window, pck, end, "x") is None
    assert reason_of(x509.check_window, pck, start - 1, "x") is Reason.CERTIFICATE_INVALID
    assert reason_of(x509.check_window, pck, end + 1, "x") is Reason.CERTIFICATE_EXPIRED


def test_a_crl_of_another_issuer_says_nothing() -> None:
    """A list is only good for the certificates of its own issuer."""
    crl = x509.load_crl(INTEL.crl("root", NOW), "x")
    pck = x509.load_der(PCK, "x")

    assert reason_of(x509.check_not_revoked, pck, crl, "x") is Reason.CRL_INVALID
    assert reason_of(x509.check_not_revoked, x509.load_der(CA, "x"), crl, "x") is None


def test_a_listed_certificate_is_revoked() -> None:
    """A serial in its issuer's list is refused."""
    ca = x509.load_der(CA, "x")
    crl = x509.load_crl(INTEL.crl("root", NOW, revoked=[x509.serial_number(ca)]), "x")

    assert reason_of(x509.check_not_revoked, ca, crl, "x") is Reason.CERTIFICATE_REVOKED


def test_an_issuer_without_the_right_may_not_sign_crls() -> None:
    """keyUsage must allow CRLs."""
    usage = certificates.key_usage(certificates.KEY_CERT_SIGN)
    limits = certificates.basic_constraints(ca=True, path_length=0)
    vendor = INTEL.reissue("platform_ca", extensions=(usage, limits))
    crl = x509.load_crl(INTEL.crl("platform_ca", NOW), "x")
    ca = x509.load_der(vendor.certificates["platform_ca"], "x")

    assert reason_of(x509.check_crl, crl, ca, NOW, "x") is Reason.CRL_INVALID


@pytest.mark.parametrize("name", ["Intel SGX Root CB", "Intel SGX PCK Platform CA"])
def test_issuer_names_are_compared(name: str) -> None:
    """A good signature under another issuer's name is no chain."""
    machine = INTEL.platform(issuer=intel_name(name + " 2"))
    leaf = x509.load_der(machine.chain[0], "x")

    assert (
        reason_of(x509.check_issued_by, leaf, x509.load_der(CA, "x"), "x") is Reason.CHAIN_INVALID
    )


def test_certificates_of_version_1_are_refused() -> None:
    """A certificate without extensions has no version 3."""
    names = intel_name("Intel SGX PCK Certificate")
    signer = INTEL.signer("platform_ca")
    times = der.sequence(der.time(NOW - 1), der.time(NOW + 1))
    body = der.sequence(der.integer(1), signer.algorithm, names, times, names, signer.spki)
    raw = der.sequence(body, signer.algorithm, der.bits(signer.sign(body)))

    assert reason_of(x509.load_der, raw, "x") is Reason.CERTIFICATE_INVALID


def test_crls_of_version_1_are_refused() -> None:
    """A CRL without a version has no extensions that could tell what it covers."""
    signer = INTEL.signer("platform_ca")
    body = der.sequence(
        signer.algorithm,
        intel_name("Intel SGX PCK Platform CA"),
        der.time(NOW - 1),
        der.time(NOW + 1),
    )
    raw = der.sequence(body, signer.algorithm, der.bits(signer.sign(body)))

    assert reason_of(x509.load_crl, raw, "x") is Reason.CRL_INVALID


@pytest.mark.parametrize(
    "text", ["é", "-----BEGIN CERTIFICATE-----\nA=B=\n-----END CERTIFICATE-----"]
)
def test_loose_pem_is_refused(text: str) -> None:
    """PEM is ASCII and its base64 has one form."""
    assert reason_of(lambda: x509.load_pem_chain(text, "x", count=1)) is Reason.CHAIN_INVALID


@pytest.mark.parametrize("curve", ["ed25519", "p384"])
def test_the_issuers_key_fixes_the_algorithm(curve: str) -> None:
    """ECDSA with SHA-256 under a P-384 key, or under a key of another kind, is no signature."""
    key = (
        ed25519.Ed25519PrivateKey.generate().public_key()
        if curve == "ed25519"
        else ec.generate_private_key(ec.SECP384R1()).public_key()
    )
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ca = x509.load_der(INTEL.reissue("platform_ca", spki=spki).certificates["platform_ca"], "x")
    crl = x509.load_crl(INTEL.crl("platform_ca", NOW), "x")

    assert reason_of(x509.check_issued_by, x509.load_der(PCK, "x"), ca, "x") is Reason.CHAIN_INVALID
    assert reason_of(x509.check_crl, crl, ca, NOW, "x") is Reason.CRL_INVALID


def test_crls_count_from_this_update_to_next_update() -> None:
    """Both ends are inside, with no grace; a list without an end never counts."""
    ca = x509.load_der(CA, "x")
    crl = x509.load_crl(INTEL.crl("platform_ca", NOW, this_update=NOW, next_update=NOW + 9), "x")
    endless = certificates.issue_crl(
        issuer=intel_name("Intel SGX PCK Platform CA"),
        this_update=NOW,
        next_update=None,
        revoked=[],
        extensions=(certificates.crl_number(1),),
        signer=INTEL.signer("platform_ca"),
    )

    assert reason_of(x509.check_crl, crl, ca, NOW, "x") is None
    assert reason_of(x509.check_crl, crl, ca, NOW + 9, "x") is None
    assert reason_of(x509.check_crl, crl, ca, NOW - 1, "x") is Reason.CRL_INVALID
    assert reason_of(x509.check_crl, crl, ca, NOW + 10, "x") is Reason.CRL_EXPIRED
    assert reason_of(x509.crl_window, load_der_x509_crl(endless)) is Reason.CRL_INVALID


def test_long_common_names_are_read() -> None:
    """Issuers of TPMs have common names of 79 characters; the library's warning stays inside."""
    subject = certificates.name(("CN", "x" * 79))

    assert (
        x509.common_name(x509.load_der(INTEL.platform(subject=subject).chain[0], "x")) == "x" * 79
    )


@pytest.mark.parametrize("unused", [1, 2, 7])
def test_the_unused_bits_of_a_signature_have_one_spelling(unused: int) -> None:
    """Else one certificate, or one list, would have several digests (found by flipping bits)."""
    for raw, load, reason in (
        (PCK, x509.load_der, Reason.CERTIFICATE_INVALID),
        (INTEL.crl("root", NOW), x509.load_crl, Reason.CRL_INVALID),
    ):
        outer = Der(raw, "x").sequence()
        body, algorithm, signature = outer.element(0x30), outer.element(0x30), outer.whole_bits()
        spelled = der.sequence(body, algorithm, der.bits(signature, unused=unused))

        assert reason_of(load, der.sequence(body, algorithm, der.bits(signature)), "x") is None
        assert reason_of(load, spelled, "x") is reason


@pytest.mark.parametrize(
    "extension",
    [
        certificates.basic_constraints(ca=True),
        certificates.key_usage(certificates.KEY_CERT_SIGN),
        certificates.key_usage(certificates.NON_REPUDIATION),
    ],
)
def test_only_signers_are_end_entities(extension: certificates.Extension) -> None:
    """A CA, and a key that may issue certificates or not sign, is no end entity."""
    leaf = x509.load_der(INTEL.platform(extensions=(extension,)).chain[0], "x")

    assert reason_of(x509.check_end_entity, leaf, "x") is Reason.CHAIN_INVALID
    assert reason_of(x509.check_end_entity, x509.load_der(PCK, "x"), "x") is None


def test_a_p256_key_is_asked_for() -> None:
    """Any other key is refused."""
    spki = certificates.spki_of(ec.generate_private_key(ec.SECP384R1()).public_key())
    other = x509.load_der(INTEL.platform(spki=spki).chain[0], "x")

    assert reason_of(p256_key, other, "x") is Reason.CERTIFICATE_INVALID
    assert p256_key(x509.load_der(PCK, "x"), "x").curve.name == "secp256r1"


def test_threads_do_not_disturb_each_other() -> None:
    """Serial 0 and strict reading hold on many threads at once, and no filter is lost."""
    zero = INTEL.platform(serial=0).chain[0]
    country = certificates.name(("C", "United Kin"))
    bad = INTEL.platform(subject=country).chain[0]

    def work(number: int) -> Reason | None:
        raw = bad if number % 3 == 0 else zero
        return reason_of(lambda: x509.serial_number(x509.load_der(raw, "x")))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(600)))
    filters = len(warnings.filters)

    assert [work(number) for number in range(600)] == found
    assert found == [Reason.CERTIFICATE_INVALID if n % 3 == 0 else None for n in range(600)]
    assert len(warnings.filters) == filters
