"""The simulated Intel beside the real one: same structure, other values."""

import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ostiary.simulator import tcb
from ostiary.simulator.certificates import pem
from ostiary.simulator.intel import FMSPC
from tests.kit import shapes, vendors

CASE = "tdx/v5-90c06f-uptodate"


@pytest.fixture(scope="module")
def real():
    folder = shapes.EVIDENCE / CASE
    if not folder.is_dir():
        pytest.skip(f"no evidence corpus at {shapes.EVIDENCE}: set OSTIARY_EVIDENCE_DIR")
    return json.loads((folder / "collateral.json").read_text()), (folder / "quote.bin").read_bytes()


def ders(chain):
    loaded = x509.load_pem_x509_certificates(chain.encode())
    return [c.public_bytes(Encoding.DER) for c in loaded]


@pytest.mark.parametrize("member", ["pck_crl_issuer_chain", "tcb_info_issuer_chain"])
def test_issuer_chains_have_the_structure_of_intels(real, member):
    """CA, signing and root certificates: same names, extensions, order and criticality."""
    ours = vendors.good_collateral()

    for mine, theirs in zip(ders(ours[member]), ders(real[0][member]), strict=True):
        assert shapes.skeleton(theirs) == shapes.skeleton(mine)


def test_pck_certificate_has_the_structure_of_intels(real):
    """Every field of the SGX extension included."""
    start = real[1].index(b"-----BEGIN")
    theirs = ders(real[1][start:].rstrip(b"\0").decode())

    mine = vendors.platform().chain

    assert [shapes.skeleton(c) for c in theirs] == [shapes.skeleton(c) for c in mine]


@pytest.mark.parametrize("member", ["root_ca_crl", "pck_crl"])
def test_crls_have_the_structure_of_intels(real, member):
    """With an entry where Intel's has some, without where it has none."""
    theirs = bytes.fromhex(real[0][member])
    count = len(x509.load_der_x509_crl(theirs))
    revoked = [1 << 158 | n for n in range(count)]
    ours = vendors.good_collateral(revoked_pcks=revoked if member == "pck_crl" else ())

    mine = shapes.skeleton(bytes.fromhex(ours[member]))

    assert shapes.skeleton(theirs) == mine


@pytest.mark.parametrize("member", ["tcb_info", "qe_identity"])
def test_signed_json_has_the_members_of_intels(real, member):
    """Same names in the same order, printed without whitespace."""
    theirs = json.loads(real[0][member])

    mine = json.loads(vendors.good_collateral()[member])

    assert shapes.members(theirs) == shapes.members(mine)
    assert real[0][member] == tcb.to_text(theirs)


def test_sgx_tcb_info_has_the_members_of_intels():
    """SGX TCB info has no TDX part anywhere."""
    path = shapes.EVIDENCE / "sgx/v3-00606a-debug-occlum/collateral.json"
    if not path.is_file():
        pytest.skip(f"no evidence corpus at {shapes.EVIDENCE}: set OSTIARY_EVIDENCE_DIR")
    real = json.loads(path.read_text())

    mine = vendors.good_collateral(tee="sgx")

    for member in ("tcb_info", "qe_identity"):
        theirs = json.loads(real[member])
        ours = json.loads(mine[member])
        assert list(theirs) == list(ours)
        assert theirs["id"] == ours["id"]
    level = json.loads(mine["tcb_info"])["tcbLevels"][0]
    assert (
        shapes.members(json.loads(real["tcb_info"])["tcbLevels"][0]["tcb"])[1]
        == (shapes.members(level["tcb"])[1])
    )


def test_collateral_has_the_members_of_the_corpus(real):
    """Same members in the same order, all text, PEM ending in one newline."""
    mine = vendors.good_collateral()

    assert list(real[0]) == list(mine)
    for member, value in mine.items():
        assert isinstance(value, str)
        assert value.endswith("-----END CERTIFICATE-----\n") == member.endswith("_chain")


def test_pem_is_what_the_library_prints():
    """Our PEM writer and the library's agree on real-sized certificates."""
    chain = vendors.platform().chain

    expected = b"".join(x509.load_der_x509_certificate(c).public_bytes(Encoding.PEM) for c in chain)

    assert expected.decode() == pem(*chain)
    assert FMSPC.hex() in vendors.good_collateral()["tcb_info"]
