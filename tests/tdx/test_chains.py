"""Certificate chains and revocation lists, in the quote and in the collateral."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ostiary.simulator import certificates
from ostiary.simulator.certificates import Extension
from ostiary.simulator.intel import FakeIntel, Role, intel_name
from tests.kit import vendors
from tests.kit.tdx import accepted, collateral, judge, refused
from tests.kit.vendors import NOW, good_collateral
from verifier import x509
from verifier.anchors import Anchors
from verifier.appraise import Evidence, appraise
from verifier.errors import Reason
from verifier.result import Verdict

CA_PARTS: tuple[Role, ...] = ("root", "platform_ca", "tcb_signing")


def serial(der: bytes) -> int:
    return x509.serial_number(x509.load_der(der, "certificate"))


def chain_pem(*ders: bytes) -> bytes:
    return certificates.pem(*ders).encode()


@pytest.mark.parametrize("role", CA_PARTS)
def test_a_certificate_counts_to_its_last_second(role: Role) -> None:
    """One second after notAfter, and one before notBefore, any certificate is refused."""
    last = vendors.fake_intel().reissue(role, not_after=NOW)
    late = vendors.fake_intel().reissue(role, not_after=NOW - 1)
    first = vendors.fake_intel().reissue(role, not_before=NOW)
    early = vendors.fake_intel().reissue(role, not_before=NOW + 1)

    assert accepted(judge(vendor=last))
    assert refused(judge(vendor=late), Reason.CERTIFICATE_EXPIRED)
    assert accepted(judge(vendor=first))
    assert refused(judge(vendor=early), Reason.CERTIFICATE_INVALID)


def test_the_pck_counts_to_its_last_second() -> None:
    """The PCK certificate's own window is judged too."""
    intel = vendors.fake_intel()

    assert accepted(judge(machine=intel.platform(not_after=NOW)))
    assert refused(judge(machine=intel.platform(not_after=NOW - 1)), Reason.CERTIFICATE_EXPIRED)
    assert refused(judge(machine=intel.platform(not_before=NOW + 1)), Reason.CERTIFICATE_INVALID)


def test_the_result_expires_with_the_first_thing_that_does() -> None:
    """`expires` is the earliest end of everything that the verdict rests on."""
    result = judge(machine=vendors.fake_intel().platform(not_after=NOW + 60))

    assert result.expires == NOW + 60


def test_another_root_of_the_same_name_is_refused() -> None:
    """A root is known by its digest, not by its name."""
    stranger = FakeIntel.create(NOW)
    intel = vendors.fake_intel()

    assert refused(judge(machine=stranger.platform()), Reason.ROOT_UNKNOWN)
    assert refused(judge(endorsements=stranger.collateral(NOW)), Reason.ROOT_UNKNOWN)
    mixed = chain_pem(*stranger.platform().chain[:2], intel.certificates["root"])
    assert refused(judge(cert_data=mixed), Reason.CHAIN_INVALID)


def test_two_pinned_roots_do_not_mix() -> None:
    """Quote and collateral rest on one root, so that a simulator cannot vouch for the other."""

    other = FakeIntel.create(NOW)
    result = appraise(
        Evidence("tdx", vendors.good_quote()),
        collateral(other.collateral(NOW)),
        policy=None,
        report_data=None,
        now=NOW,
        anchors=Anchors().with_simulated(intel=[vendors.fake_intel().root_pin, other.root_pin]),
    )

    assert refused(result, Reason.CHAIN_INVALID, saying="root")


def test_the_simulators_root_does_not_count_by_default() -> None:
    """Without the frightening setting, simulated evidence has an unknown root."""

    result = appraise(
        Evidence("tdx", vendors.good_quote()),
        collateral(),
        policy=None,
        report_data=None,
        now=NOW,
    )

    assert refused(result, Reason.ROOT_UNKNOWN)


@pytest.mark.parametrize(
    "pick", [(), (0,), (0, 1), (0, 1, 2, 2), (0, 1, 1, 2), (0, 0, 1, 2), (1, 2), (2, 2, 2, 2)]
)
def test_a_pck_chain_has_three_certificates(pick: tuple[int, ...]) -> None:
    """Short, empty, long and repeating chains are refused."""
    chain = vendors.platform().chain
    result = judge(cert_data=chain_pem(*(chain[index] for index in pick)) if pick else b"")

    assert refused(result, Reason.CHAIN_INVALID)


@pytest.mark.parametrize("pick", [(1, 0, 2), (1, 1, 2), (2, 1, 0), (2, 1, 2), (0, 2, 2), (0, 1, 1)])
def test_a_pck_chain_has_one_order(pick: tuple[int, ...]) -> None:
    """A CA as leaf, the leaf as CA, or any other order is refused."""
    chain = vendors.platform().chain
    result = judge(cert_data=chain_pem(*(chain[index] for index in pick)))

    assert result.verdict is Verdict.REJECT
    assert result.reasons[0] in (Reason.CHAIN_INVALID, Reason.ROOT_UNKNOWN)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"-----END CERTIFICATE-----\n", b"-----END CERTIFICATE-----\nsubject: me\n"),
        (b"-----BEGIN", b"text\n-----BEGIN"),
        (b"-----BEGIN CERTIFICATE", b"-----BEGIN TRUSTED CERTIFICATE"),
        (b"-----BEGIN CERTIFICATE-----\n", b"-----BEGIN CERTIFICATE-----\nProc-Type: 4\n"),
        (b"-----BEGIN CERTIFICATE-----\n", b"-----BEGIN CERTIFICATE-----\nA"),
        (b"MII", b"M*I"),
        (b"\x00", b"\x00x"),
        (b"\x00", b" "),
    ],
)
def test_pem_has_nothing_around_it(old: bytes, new: bytes) -> None:
    """Text between blocks, headers, other blocks and loose base64 are refused."""
    pem = vendors.platform().chain_pem
    assert old in pem
    result = judge(cert_data=pem.replace(old, new, 1))

    assert result.verdict is Verdict.REJECT
    assert result.reasons[0] in (Reason.CHAIN_INVALID, Reason.CERTIFICATE_INVALID)


def test_a_ca_as_pck_is_refused() -> None:
    """A leaf that is itself a CA could make PCKs of its own."""
    ca = certificates.basic_constraints(ca=True)
    usage = certificates.key_usage(certificates.DIGITAL_SIGNATURE, certificates.KEY_CERT_SIGN)
    for extension in (ca, usage):
        good = vendors.fake_intel().platform().chain[0]
        kept = [
            Extension(e.oid.dotted_string, e.value.public_bytes(), e.critical)
            for e in x509.load_der(good, "PCK").extensions
            if e.oid.dotted_string != extension.oid
        ]
        machine = vendors.fake_intel().platform(extensions=(*kept, extension))

        assert refused(judge(machine=machine), Reason.CHAIN_INVALID)


@pytest.mark.parametrize(
    "extension",
    [
        Extension("1.2.3.4", b"\x05\x00", critical=True),
        Extension("2.5.29.37", bytes.fromhex("300a06082b06010505070301"), critical=True),
    ],
)
def test_a_critical_extension_that_is_not_understood_is_refused(extension: Extension) -> None:
    """Critical means: whoever does not understand it must refuse."""
    good = x509.load_der(vendors.platform().chain[0], "PCK").extensions
    kept = [Extension(e.oid.dotted_string, e.value.public_bytes(), e.critical) for e in good]
    machine = vendors.fake_intel().platform(extensions=(*kept, extension))

    assert refused(judge(machine=machine), Reason.CERTIFICATE_INVALID, saying="critical")


def test_an_extension_twice_is_refused() -> None:
    """A repeated extension has two readings."""
    good = x509.load_der(vendors.platform().chain[0], "PCK").extensions
    kept = [Extension(e.oid.dotted_string, e.value.public_bytes(), e.critical) for e in good]
    machine = vendors.fake_intel().platform(extensions=(*kept, kept[-1]))

    assert refused(judge(machine=machine), Reason.CERTIFICATE_INVALID)


@pytest.mark.parametrize("version", [1, 2])
def test_only_x509_v3_counts(version: int) -> None:
    """Certificates of earlier versions have no extensions to judge by."""
    machine = vendors.fake_intel().platform(version=version)

    assert refused(judge(machine=machine), Reason.CERTIFICATE_INVALID)


@pytest.mark.parametrize(
    ("role", "common_name"),
    [
        ("platform_ca", "Intel SGX PCK Platform CA 2"),
        ("platform_ca", "Intel SGX TCB Signing"),
        ("tcb_signing", "Intel SGX PCK Platform CA"),
        ("root", "Intel SGX Root CA 2"),
    ],
)
def test_names_are_intels(role: Role, common_name: str) -> None:
    """Each certificate has the common name of its role."""
    vendor = vendors.fake_intel().reissue(role, subject=intel_name(common_name))

    assert refused(judge(vendor=vendor), Reason.CHAIN_INVALID, saying="common name")


def test_the_pck_has_its_name() -> None:
    """The leaf of a quote's chain is a PCK certificate, not another that the CA issued."""
    machine = vendors.fake_intel().platform(subject=intel_name("Intel SGX Something"))

    assert refused(judge(machine=machine), Reason.CHAIN_INVALID, saying="common name")


@pytest.mark.parametrize("role", ["platform_ca", "root"])
def test_issuers_are_cas_with_room_below(role: Role) -> None:
    """An issuer without CA bit, without keyCertSign or with too short a path is refused."""
    usage = certificates.key_usage(certificates.KEY_CERT_SIGN, certificates.CRL_SIGN)
    for extensions in (
        (usage,),
        (usage, certificates.basic_constraints(ca=False)),
        (certificates.basic_constraints(ca=True),),
        (certificates.key_usage(certificates.CRL_SIGN), certificates.basic_constraints(ca=True)),
    ):
        vendor = vendors.fake_intel().reissue(role, extensions=extensions)

        assert refused(judge(vendor=vendor), Reason.CHAIN_INVALID)

    short = certificates.basic_constraints(ca=True, path_length=0)
    vendor = vendors.fake_intel().reissue("root", extensions=(usage, short))
    assert refused(judge(vendor=vendor), Reason.CHAIN_INVALID, saying="path length")


def test_a_p384_key_in_the_chain_is_refused() -> None:
    """Intel's chains are P-256; another curve is another vendor."""
    wide = ec.generate_private_key(ec.SECP384R1()).public_key()
    machine = vendors.fake_intel().platform(spki=certificates.spki_of(wide))

    assert refused(judge(machine=machine), Reason.CERTIFICATE_INVALID, saying="P-256")


def test_a_revoked_pck_is_refused() -> None:
    """A PCK in the PCK CRL is refused; its neighbour is not."""
    revoked = serial(vendors.platform().chain[0])

    assert refused(
        judge(endorsements=good_collateral(revoked_pcks=[7, revoked])), Reason.CERTIFICATE_REVOKED
    )
    assert accepted(judge(endorsements=good_collateral(revoked_pcks=[7, revoked + 1])))


@pytest.mark.parametrize("role", ["platform_ca", "tcb_signing"])
def test_a_revoked_intermediate_is_refused(role: Role) -> None:
    """The PCK CA and the TCB signer are looked up in the root CRL."""
    revoked = serial(vendors.fake_intel().certificates[role])
    endorsements = good_collateral(revoked_intermediates=[revoked])

    assert refused(judge(endorsements=endorsements), Reason.CERTIFICATE_REVOKED)


def test_the_quotes_own_ca_is_looked_up_too() -> None:
    """Two certificates of one CA key: the one in the quote's chain must not be revoked either."""
    intel = vendors.fake_intel()
    twin = intel.reissue("platform_ca", serial=99)
    endorsements = good_collateral(revoked_intermediates=[99])

    assert refused(
        judge(machine=twin.platform(), endorsements=endorsements), Reason.CERTIFICATE_REVOKED
    )


def test_the_crl_of_the_other_ca_is_refused() -> None:
    """A PCK of the Platform CA is not judged by the Processor CA's CRL."""
    endorsements = good_collateral(ca="processor_ca")
    intel = vendors.fake_intel()

    assert refused(judge(endorsements=endorsements), Reason.CRL_INVALID)
    crl = intel.crl("processor_ca", NOW).hex()
    assert refused(judge(endorsements=good_collateral(pck_crl=crl)), Reason.CRL_INVALID)
    assert accepted(judge(machine=intel.platform(ca="processor_ca"), endorsements=endorsements))


@pytest.mark.parametrize(("part", "role"), [("root_ca_crl", "root"), ("pck_crl", "platform_ca")])
def test_crls_are_current_and_signed_by_their_ca(part: str, role: Role) -> None:
    """CRLs count from thisUpdate to nextUpdate, with no grace, and need their CA's signature."""
    intel = vendors.fake_intel()

    def with_crl(**changes: Any) -> Any:
        crl = intel.crl(role, NOW, **changes).hex()
        return judge(endorsements={**good_collateral(), part: crl})

    assert accepted(with_crl(next_update=NOW))
    assert refused(with_crl(next_update=NOW - 1), Reason.CRL_EXPIRED)
    assert accepted(with_crl(this_update=NOW))
    assert refused(with_crl(this_update=NOW + 1), Reason.CRL_INVALID)
    assert refused(with_crl(signed_by="processor_ca"), Reason.CRL_INVALID)


@pytest.mark.parametrize("part", ["root_ca_crl", "pck_crl", "pck_crl_issuer_chain"])
@pytest.mark.parametrize("absent", ["", None])
def test_a_missing_crl_is_refused_and_the_rest_is_told(part: str, absent: str | None) -> None:
    """Without a CRL the verdict is reject, whatever the TCB status that is still told."""
    result = judge(endorsements={**good_collateral(), part: absent})

    assert refused(result, Reason.CRL_MISSING)
    assert result.tcb_status == "UpToDate"


@pytest.mark.parametrize("part", ["root_ca_crl", "pck_crl"])
@pytest.mark.parametrize("damage", ["00", "3000", "tail", "certificate"])
def test_a_crl_that_is_not_one_is_refused(part: str, damage: str) -> None:
    """Other DER, or anything after the CRL, is refused."""
    good = good_collateral()
    bad = {
        "tail": good[part] + "00",
        "certificate": vendors.fake_intel().certificates["root"].hex(),
    }.get(damage, damage)

    assert refused(judge(endorsements={**good, part: bad}), Reason.CRL_INVALID)


@pytest.mark.parametrize(
    "extension",
    [
        Extension("2.5.29.28", bytes.fromhex("3003830101"), critical=True),
        Extension("2.5.29.27", bytes.fromhex("020101"), critical=True),
        Extension("1.2.3.4", b"\x05\x00", critical=True),
    ],
)
def test_a_partial_crl_is_refused(extension: Extension) -> None:
    """A CRL with a critical extension (only some certificates, a delta) does not tell all."""
    crl = certificates.issue_crl(
        issuer=intel_name("Intel SGX PCK Platform CA"),
        this_update=NOW,
        next_update=NOW + 1,
        revoked=[],
        extensions=(certificates.crl_number(1), extension),
        signer=vendors.fake_intel().signer("platform_ca"),
    )

    assert refused(judge(endorsements=good_collateral(pck_crl=crl.hex())), Reason.CRL_INVALID)


def test_a_crl_without_next_update_is_refused() -> None:
    """Nothing would ever make such a list stale."""
    crl = certificates.issue_crl(
        issuer=intel_name("Intel SGX PCK Platform CA"),
        this_update=NOW,
        next_update=None,
        revoked=[],
        extensions=(certificates.crl_number(1),),
        signer=vendors.fake_intel().signer("platform_ca"),
    )

    assert refused(judge(endorsements=good_collateral(pck_crl=crl.hex())), Reason.CRL_INVALID)


def test_two_roots_within_the_collateral_are_refused() -> None:
    """QE identity or CRLs under another pinned root than TCB info do not mix."""
    other = FakeIntel.create(NOW)
    anchors = Anchors().with_simulated(intel=[vendors.fake_intel().root_pin, other.root_pin])
    theirs = other.collateral(NOW)
    for parts in (
        ("qe_identity_issuer_chain", "qe_identity", "qe_identity_signature"),
        ("pck_crl_issuer_chain", "pck_crl"),
    ):
        mixed = {**good_collateral(), **{part: theirs[part] for part in parts}}
        result = appraise(
            Evidence("tdx", vendors.good_quote()),
            collateral(mixed),
            policy=None,
            report_data=None,
            now=NOW,
            anchors=anchors,
        )

        assert refused(result, Reason.CHAIN_INVALID, saying="different roots")
