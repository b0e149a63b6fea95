"""The simulated AMD: certificates beside the real ones, chains, CRLs, folder."""

import subprocess
import warnings

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from ostiary.simulator import der, store
from ostiary.simulator.amd import DEFAULT_CSP, FakeAmd, vek_extensions
from ostiary.simulator.certificates import Extension, spki_of
from ostiary.simulator.snp import CURRENT_TCB, PRODUCTS, Tcb
from ostiary.simulator.store import SimulatorError
from tests.kit import shapes
from tests.kit.vendors import NOW, chip, fake_amd

CASES = {
    "Milan": "v3-milan-vcek-ms",
    "Genoa": "v3-genoa-vcek-ms",
    "Turin": "v5-turin-vcek-ms",
}
VLEK_CASE = "v3-milan-vlek-vmpl1-masked-chip"


def load(certificate):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x509.load_der_x509_certificate(certificate)


def real(case, name):
    path = shapes.EVIDENCE / "snp" / case / f"{name}.der"
    if not path.is_file():
        pytest.skip(f"no {path}: set OSTIARY_EVIDENCE_DIR")
    return path.read_bytes()


def spki(certificate):
    return spki_of(load(certificate).public_key())


@pytest.mark.parametrize("product", PRODUCTS)
def test_ca_certificates_have_the_structure_of_amds(product):
    """Names, PSS parameters with their trailer field, extensions in AMD's order."""
    for name in ("ark", "ask"):
        mine = fake_amd().certificate(product, name)

        assert shapes.skeleton(real(CASES[product], name)) == shapes.skeleton(mine)


@pytest.mark.parametrize("product", PRODUCTS)
def test_vceks_have_the_structure_of_amds(product):
    """Same extensions, same order, bare integers, HWID raw and of the generation's size."""
    theirs, mine = load(real(CASES[product], "vcek")), load(chip(product).chain[0])

    assert [e.oid for e in theirs.extensions] == [e.oid for e in mine.extensions]
    assert [len(e.value.value) for e in theirs.extensions][:-1] == [
        len(e.value.value) for e in mine.extensions
    ][:-1]
    assert theirs.extensions[1].value == mine.extensions[1].value
    assert len(theirs.extensions[-1].value.value) == len(mine.extensions[-1].value.value)
    assert theirs.subject == mine.subject
    assert theirs.issuer == mine.issuer
    serials = (real(CASES[product], "vcek"), chip(product).chain[0])
    assert [shapes.serial(each) for each in serials] == [b"\0", b"\0"]


def test_vleks_have_the_structure_of_amds():
    """No HWID, a CSP id instead, under the ASVK."""
    cloud = fake_amd().vlek("Milan", tcb=Tcb(bootloader=4, tee=0, snp=0x18, microcode=0xD9))
    theirs, mine = load(real(VLEK_CASE, "vlek")), load(cloud.chain[0])

    assert shapes.skeleton(real(VLEK_CASE, "asvk")) == shapes.skeleton(cloud.chain[1])
    assert [e.oid for e in theirs.extensions] == [e.oid for e in mine.extensions]
    assert [e.value for e in theirs.extensions][:-1] == [e.value for e in mine.extensions][:-1]
    assert mine.extensions[-1].value.value == der.ia5(DEFAULT_CSP)
    assert (theirs.subject, theirs.issuer) == (mine.subject, mine.issuer)


def test_crls_have_the_structure_of_amds():
    """AKI before the number, no trailer field, no list where nothing is revoked."""
    assert shapes.skeleton(real(CASES["Milan"], "crl")) == shapes.skeleton(
        fake_amd().crl("Milan", NOW)
    )


@pytest.mark.parametrize("product", PRODUCTS)
def test_openssl_accepts_chain_and_crl(tmp_path, product):
    """An independent library verifies VCEK, ASK, ARK and the CRL."""
    leaf, ask, ark = chip(product).chain
    for name, certificate in (("leaf", leaf), ("ask", ask), ("ark", ark)):
        pem = load(certificate).public_bytes(Encoding.PEM)
        (tmp_path / f"{name}.pem").write_bytes(pem)
    crl = x509.load_der_x509_crl(fake_amd().crl(product, NOW))
    (tmp_path / "crl.pem").write_bytes(crl.public_bytes(Encoding.PEM))

    chain = subprocess.run(
        [
            *("openssl", "verify", "-attime", str(NOW)),
            *("-CAfile", "ark.pem", "-untrusted", "ask.pem", "leaf.pem"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    crls = subprocess.run(
        ["openssl", "crl", "-in", "crl.pem", "-CAfile", "ark.pem", "-noout", "-verify"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert chain.stdout == "leaf.pem: OK\n", chain.stderr
    assert crls.returncode == 0
    assert "verify OK" in crls.stdout + crls.stderr


def test_signatures_are_of_the_issuer_and_no_other():
    """Each link verifies under its issuer; a product's ARK does not vouch for another's ASK."""
    leaf, ask, ark = chip("Genoa").chain

    shapes.check_signed(leaf, spki(ask))
    shapes.check_signed(ask, spki(ark))
    shapes.check_signed(ark, spki(ark))
    with pytest.raises(InvalidSignature):
        shapes.check_signed(ask, spki(fake_amd().certificate("Milan", "ark")))


def test_crls_list_intermediates_and_can_be_signed_by_the_wrong_key():
    """The overrides of a negative test do what they say."""
    ark = fake_amd().certificate("Genoa", "ark")
    listed = x509.load_der_x509_crl(fake_amd().crl("Genoa", NOW, revoked=[0x20001]))
    forged = fake_amd().crl("Genoa", NOW, signed_by="ask")

    assert [entry.serial_number for entry in listed] == [0x20001]
    with pytest.raises(InvalidSignature):
        shapes.check_signed(forged, spki(ark))


def test_integers_above_127_have_a_leading_zero():
    """AMD writes microcode 0xDB as 02 02 00 DB."""
    rows = {e.oid: e.value for e in vek_extensions("Milan", CURRENT_TCB["Milan"])}

    assert rows["1.3.6.1.4.1.3704.1.3.8"] == bytes.fromhex("020200db")


def test_leaf_and_ca_certificates_can_be_bent():
    """Extensions, serial and dates change for negative tests; nothing else does."""
    extra = Extension("1.2.3", der.null(), critical=True)
    bent = load(fake_amd().vcek("Genoa", extensions=lambda e: (*e[:-1], extra), serial=5).chain[0])
    late = load(fake_amd().issue_ca("Genoa", "ask", not_after=NOW - 1))

    assert bent.serial_number == 5
    assert (bent.extensions[-1].oid.dotted_string, True) == ("1.2.3", bent.extensions[-1].critical)
    assert late.not_valid_after_utc.timestamp() == NOW - 1
    octets = vek_extensions("Genoa", CURRENT_TCB["Genoa"], hwid=bytes(64), hwid_octets=True)
    assert octets[-1].value == der.octets(bytes(64))


def test_a_saved_vendor_is_the_same_vendor(tmp_path):
    """Products that were saved come back; a chip made later chains to the same root."""
    folder = tmp_path / "vendor"
    fake_amd().save(folder, ["Genoa"])

    loaded = FakeAmd.load(folder)

    assert loaded.root_pin("Genoa") == fake_amd().root_pin("Genoa")
    shapes.check_signed(loaded.vcek("Genoa").chain[0], spki(fake_amd().certificate("Genoa", "ask")))
    with pytest.raises(SimulatorError, match="exists already"):
        fake_amd().save(folder, ["Genoa"])


@pytest.mark.parametrize("content", [b"", b"{}", b'{"created":1,"products":["Rome"]}'])
def test_a_damaged_folder_is_refused(tmp_path, content):
    """A vendor that cannot be read whole is an error of our own."""
    (tmp_path / "amd.json").write_bytes(content)

    with pytest.raises(SimulatorError):
        FakeAmd.load(tmp_path)


def test_a_key_of_another_kind_is_refused(tmp_path):
    """An EC key where an RSA key belongs is no vendor."""
    fake_amd().save(tmp_path, ["Genoa"])
    key = tmp_path / "amd-Genoa-ark.key.pem"
    key.unlink()
    store.write_key(key, chip("Genoa").key)

    with pytest.raises(SimulatorError, match="not an RSA key"):
        FakeAmd.load(tmp_path)
