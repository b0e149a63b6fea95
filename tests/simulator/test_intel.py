"""The simulated Intel by itself: signatures, overrides, folder."""

import json
import stat
import subprocess

import dcap_qvl
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from ostiary.simulator import tcb
from ostiary.simulator.certificates import pem
from ostiary.simulator.intel import FMSPC, ROLES, FakeIntel
from ostiary.simulator.pck import SgxExtension
from ostiary.simulator.quote import quote_v4
from ostiary.simulator.store import SimulatorError
from tests.kit import shapes
from tests.kit.vendors import NOW, fake_intel, good_body, good_collateral, platform


def peer(quote, collateral, now=NOW, vendor=None):
    """Return dcap-qvl's status, judged against our root."""
    parsed = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(collateral))
    root = (vendor or fake_intel()).certificates["root"]
    return dcap_qvl.verify_with_root_ca(quote, parsed, root, now)


def quote(machine=None):
    return quote_v4(machine or platform(), good_body())


@pytest.mark.parametrize("role", ROLES)
def test_certificates_are_signed_by_the_root(role):
    """The library reads them and the root's key verifies them."""
    root = x509.load_der_x509_certificate(fake_intel().certificates["root"])

    x509.load_der_x509_certificate(fake_intel().certificates[role]).verify_directly_issued_by(root)


def test_openssl_accepts_the_pck_chain_and_its_crls(tmp_path):
    """An independent library builds the chain and finds nothing revoked."""
    intel = fake_intel()
    (tmp_path / "root.pem").write_text(pem(intel.certificates["root"]))
    (tmp_path / "ca.pem").write_text(pem(intel.certificates["platform_ca"]))
    (tmp_path / "pck.pem").write_text(pem(platform().chain[0]))
    crls = b"".join(
        x509.load_der_x509_crl(intel.crl(role, NOW)).public_bytes(Encoding.PEM)
        for role in ("root", "platform_ca")
    )
    (tmp_path / "crls.pem").write_bytes(crls)

    done = subprocess.run(
        [
            *("openssl", "verify", "-attime", str(NOW), "-x509_strict", "-crl_check_all"),
            *("-CRLfile", "crls.pem", "-CAfile", "root.pem", "-untrusted", "ca.pem", "pck.pem"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == "pck.pem: OK\n", done.stderr


@pytest.mark.parametrize("role", ["root", "platform_ca", "processor_ca"])
def test_crls_list_what_they_are_told_and_are_signed(role):
    """A CRL holds the revoked serials and its issuer's signature."""
    der = fake_intel().crl(role, NOW, revoked=[7, 8])

    crl = x509.load_der_x509_crl(der)

    assert [entry.serial_number for entry in crl] == [7, 8]
    assert crl.is_signature_valid(fake_intel().keys[role].public_key())
    with pytest.raises(InvalidSignature):
        shapes.check_signed(der[:-1] + bytes([der[-1] ^ 1]), fake_intel().signer(role).spki)


def test_documents_are_signed_over_their_exact_text():
    """r ‖ s in hex, by the TCB signing key, over what stands in the member."""
    collateral = good_collateral()
    key = fake_intel().keys["tcb_signing"].public_key()

    for member in ("tcb_info", "qe_identity"):
        raw = bytes.fromhex(collateral[f"{member}_signature"])
        der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        key.verify(der, collateral[member].encode(), ec.ECDSA(hashes.SHA256()))


def test_the_peer_accepts_the_platform_and_reads_it():
    """dcap-qvl with our root: UpToDate, our PPID and FMSPC."""
    verified = peer(quote(), good_collateral())

    assert verified.status == "UpToDate"
    assert verified.advisory_ids == []
    assert bytes(verified.ppid) == platform().sgx.ppid
    assert dcap_qvl.parse_quote(quote()).fmspc().lower() == FMSPC.hex()


def test_the_peer_does_not_accept_it_under_intels_root():
    """A simulated quote is worth nothing to anyone who was not told to trust its root."""
    parsed = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(good_collateral()))

    with pytest.raises(ValueError, match=r"."):
        dcap_qvl.verify(quote(), parsed, NOW)


def old_platform(info):
    info["tcbLevels"].pop(0)


def needs_software(info):
    info["tcbLevels"][0].update(tcbStatus="SWHardeningNeeded")


def old_module(info):
    info["tdxModuleIdentities"][1]["tcbLevels"].pop(0)


@pytest.mark.parametrize(
    ("bend", "status"),
    [
        (old_platform, "OutOfDate"),
        (needs_software, "SWHardeningNeeded"),
        (old_module, "OutOfDate"),
    ],
)
def test_status_follows_the_documents(bend, status):
    """What a test changes in TCB info is what the peer reads out of it."""
    info = tcb.tcb_info(NOW, fmspc=FMSPC, pceid=bytes(2))
    bend(info)

    assert status == peer(quote(), good_collateral(tcb_info=info)).status


@pytest.mark.parametrize(
    "overrides",
    [
        {"tcb_info": tcb.tcb_info(NOW, fmspc=b"\x00\x80\x6f\x05\x00\x00", pceid=bytes(2))},
        {"tcb_info": tcb.tcb_info(NOW - 60 * tcb.DAY, fmspc=FMSPC, pceid=bytes(2))},
        {"tcb_info": tcb.tcb_info(NOW, fmspc=FMSPC, pceid=bytes(2), identity="SGX")},
        {"tcb_info": tcb.tcb_info(NOW, fmspc=FMSPC, pceid=bytes(2), levels=[])},
        {"tcb_info_signature": "00" * 64},
        {"qe_identity": tcb.qe_identity(NOW, mrsigner=bytes(32))},
        {"qe_identity": tcb.qe_identity(NOW, isvprodid=7)},
        {"root_ca_crl": ""},
    ],
)
def test_bent_collateral_is_refused_by_the_peer(overrides):
    """Each override makes collateral that an independent verifier refuses."""
    with pytest.raises(ValueError, match=r"."):
        peer(quote(), good_collateral(**overrides))


def test_revoked_certificates_are_refused_by_the_peer():
    """The PCK by the PCK CRL, its CA by the root CRL."""
    pck = x509.load_der_x509_certificate(platform().chain[0]).serial_number
    authority = x509.load_der_x509_certificate(platform().chain[1]).serial_number

    for overrides in ({"revoked_pcks": [pck]}, {"revoked_intermediates": [authority]}):
        with pytest.raises(ValueError, match=r"(?i)revoked|crl"):
            peer(quote(), good_collateral(**overrides))


def test_a_reissued_certificate_keeps_its_key_and_changes_what_was_asked():
    """Dates move, the key and everything else stay."""
    changed = fake_intel().reissue("tcb_signing", not_after=NOW - 1)
    before = x509.load_der_x509_certificate(fake_intel().certificates["tcb_signing"])
    after = x509.load_der_x509_certificate(changed.certificates["tcb_signing"])

    assert after.not_valid_after_utc.timestamp() == NOW - 1
    assert before.public_key() == after.public_key()
    assert before.subject == after.subject
    assert fake_intel().root_pin == changed.root_pin
    with pytest.raises(ValueError, match=r"(?i)expired"):
        peer(quote(), changed.collateral(NOW), vendor=changed)


def test_processor_ca_platforms_have_no_instance():
    """A Processor CA certifies standard platforms, without the fields of scalable ones."""
    machine = fake_intel().platform(ca="processor_ca")
    collateral = good_collateral(ca="processor_ca")

    assert machine.sgx.platform_instance_id is None
    assert peer(quote(machine), collateral).status == "UpToDate"


@pytest.mark.parametrize(
    ("components", "pcesvn"),
    [(tcb.SGX_CURRENT, 12), ((3, *tcb.SGX_CURRENT[1:]), 13)],
    ids=["pcesvn", "component"],
)
def test_a_lower_platform_meets_a_lower_level(components, pcesvn):
    """Components and PCESVN of the PCK certificate decide the level, whatever the quote says."""
    sgx = SgxExtension(bytes(16), components, pcesvn, FMSPC, platform_instance_id=bytes(16))

    assert peer(quote(fake_intel().platform(sgx=sgx)), good_collateral()).status == "OutOfDate"


def test_unknown_collateral_members_are_refused():
    """A misspelt override is an error, never silently ignored."""
    with pytest.raises(SimulatorError, match="tcb_infos"):
        good_collateral(tcb_infos="")


def test_a_saved_vendor_is_the_same_vendor(tmp_path):
    """Keys and certificates come back; files are 0600 and are never overwritten."""
    folder = tmp_path / "vendor"
    fake_intel().save(folder)

    loaded = FakeIntel.load(folder)

    assert fake_intel().certificates == loaded.certificates
    assert peer(quote(), loaded.collateral(NOW)).status == "UpToDate"
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with pytest.raises(SimulatorError, match="exists already"):
        fake_intel().save(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [("intel.json", b"{}"), ("intel.json", b"[]"), ("intel-root.key.pem", b"no key")],
)
def test_a_damaged_folder_is_refused(tmp_path, name, content):
    """A vendor that cannot be read whole is an error of our own."""
    fake_intel().save(tmp_path)
    (tmp_path / name).write_bytes(content)

    with pytest.raises(SimulatorError):
        FakeIntel.load(tmp_path)


def test_an_absent_vendor_is_refused(tmp_path):
    """No folder is no vendor; nothing is created silently."""
    with pytest.raises(SimulatorError, match="cannot read"):
        FakeIntel.load(tmp_path / "nobody")
