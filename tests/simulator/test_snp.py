"""Simulated SNP reports: layout beside real ones, signatures, both verifiers' views."""

import json
from dataclasses import replace

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ostiary.simulator.amd import DEFAULT_CSP, report_of
from ostiary.simulator.snp import CURRENT_TCB, PRODUCTS, Tcb, report_for, sign_bytes, sign_report
from ostiary.simulator.store import SimulatorError
from tests.kit import shapes
from tests.kit.vendors import NOW, anchors, chip, fake_amd, good_report
from verifier.appraise import Evidence, appraise
from verifier.policy import AppraisalPolicy, SnpRules
from verifier.result import Verdict
from verifier.snp import SnpEndorsements

CASES = {
    "v2-milan-virtee": "Milan",
    "v3-milan-vcek-ms": "Milan",
    "v3-genoa-vcek-ms": "Genoa",
    "v3-milan-vlek-vmpl1-masked-chip": "Milan",
    "v5-turin-vcek-ms": "Turin",
}


def tcb_of(product, raw):
    parts = bytes.fromhex(raw) if len(raw) == 16 else raw
    if product == "Turin":
        fmc, boot, tee, snp, micro = (parts[i] for i in (0, 1, 2, 3, 7))
        return Tcb(fmc=fmc, bootloader=boot, tee=tee, snp=snp, microcode=micro)
    boot, tee, snp, micro = (parts[i] for i in (0, 1, 6, 7))
    return Tcb(bootloader=boot, tee=tee, snp=snp, microcode=micro)


def version_of(text):
    return tuple(int(part) for part in text.split("."))


@pytest.mark.parametrize("case", CASES)
def test_a_real_report_rebuilt_from_its_fields_is_the_same(case):
    """Every signed byte of a recorded report comes out again."""
    folder = shapes.EVIDENCE / "snp" / case
    if not folder.is_dir():
        pytest.skip(f"no evidence corpus at {shapes.EVIDENCE}: set OSTIARY_EVIDENCE_DIR")
    told = json.loads((folder / "case.json").read_text())["expected"]["fields"]
    product = CASES[case]
    sixteen = ("family_id", "image_id")
    digests = ("measurement", "host_data", "id_key_digest", "author_key_digest")
    hexes = (*sixteen, *digests, "report_data", "report_id", "report_id_ma", "chip_id")
    tcbs = {
        name: tcb_of(product, told[name])
        for name in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")
    }

    made = report_for(
        product,
        version=told["version"],
        guest_svn=told["guest_svn"],
        policy=int(told["policy"], 16),
        vmpl=told["vmpl"],
        platform_info=int(told["platform_info"], 16),
        signer_info=int(told["signer_info"], 16),
        cpuid=(told.get("cpuid_fam") or 0, told.get("cpuid_mod") or 0, told.get("cpuid_step") or 0),
        current_version=version_of(told["cur_ver"]),
        committed_version=version_of(told["com_ver"]),
        launch_mit_vector=int(told["launch_mit_vector"], 16),
        current_mit_vector=int(told["current_mit_vector"], 16),
        **{name: bytes.fromhex(told[name]) for name in hexes},
        **tcbs,
    )

    assert (folder / "report.bin").read_bytes()[:0x2A0] == made.encode()


@pytest.mark.parametrize("product", PRODUCTS)
def test_reports_are_signed_as_amds_are(product):
    """P-384 with SHA-384, r and s little-endian in 72 bytes each, zeros to the end."""
    report = good_report(product)
    r, s = (int.from_bytes(report[o : o + 72], "little") for o in (0x2A0, 0x2E8))
    key = chip(product).key.public_key()

    key.verify(encode_dss_signature(r, s), report[:0x2A0], ec.ECDSA(hashes.SHA384()))
    assert len(report) == 0x4A0
    assert report[0x330:] == bytes(0x170)
    with pytest.raises(InvalidSignature):
        key.verify(encode_dss_signature(r, s), report[:0x29F] + b"\1", ec.ECDSA(hashes.SHA384()))


def judge(product, report, chain, rules=None):
    leaf, ask, ark = chain
    policy = None if rules is None else AppraisalPolicy(snp=rules)
    return appraise(
        Evidence("snp", report),
        SnpEndorsements(leaf, ask, ark, fake_amd().crl(product, NOW)),
        policy=policy,
        report_data=bytes(64),
        now=NOW,
        anchors=anchors(product),
    )


@pytest.mark.parametrize("product", PRODUCTS)
def test_our_verifier_accepts_a_current_machine(product):
    """Under the simulated root, and says that it is simulated."""
    result = judge(product, good_report(product), chip(product).chain)

    assert (result.verdict, result.simulated) == (Verdict.ACCEPT, True), result.reasons


def test_our_verifier_accepts_a_vlek_where_policy_lets_it():
    """A cloud key's report hides the chip and names the VLEK; strict rules refuse both."""
    cloud = fake_amd().vlek("Milan")
    report = cloud.sign(report_of(cloud, report_for("Milan")))
    rules = SnpRules(signing_keys=("VLEK",), csps=(DEFAULT_CSP,), allow_masked_chip_id=True)

    strict = judge("Milan", report, cloud.chain)
    lenient = judge("Milan", report, cloud.chain, rules)

    assert strict.verdict == Verdict.REJECT
    assert lenient.claims["signing_key"] == "VLEK"
    # Nothing but the missing reference values speaks against it.
    assert {"no_reference_values"} >= {str(reason) for reason in lenient.reasons}


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"signature_algo": 2},
        {"vmpl": 1},
        {"policy": 0x3001F | 1 << 19},
        {"platform_info": 0x05},
        {"chip_id": b"\1" * 64},
        {"reported_tcb": Tcb(bootloader=9, tee=0, snp=0x17, microcode=0x54)},
        {"signer_info": 7 << 2},
        {"committed_version": (1, 55, 28)},
        {"report_data": b"\1" * 64},
        {"cpuid": (0x19, 1, 1)},
    ],
    ids="-".join,
)
def test_bent_reports_are_refused(changes):
    """What a negative test bends, correctly signed, our verifier refuses."""
    fields = replace(report_of(chip("Genoa"), report_for("Genoa")), **changes)

    result = judge("Genoa", chip("Genoa").sign(fields), chip("Genoa").chain)

    assert result.verdict == Verdict.REJECT


def test_tcb_layouts_differ_by_generation():
    """Turin's firmware parts start with the FMC."""
    level = Tcb(bootloader=1, tee=2, snp=3, microcode=4, fmc=5)

    assert bytes.fromhex("0102000000000304") == level.encode("Genoa")
    assert bytes.fromhex("0501020300000004") == level.encode("Turin")
    assert set(PRODUCTS) == set(CURRENT_TCB)


def test_vectors_and_cpuid_exist_from_their_versions_on():
    """v2 has neither, v3 has CPUID, v5 has both."""
    report = report_for("Turin", launch_mit_vector=1, current_mit_vector=2)
    seen = {v: replace(report, version=v).encode() for v in (2, 3, 5)}

    assert [any(raw[0x188:0x18B]) for raw in seen.values()] == [False, True, True]
    assert [any(raw[0x1F8:0x208]) for raw in seen.values()] == [False, False, True]


def test_any_bytes_can_be_signed():
    """Negative tests set reserved bytes and sign what comes out."""
    raw = bytearray(report_for("Genoa").encode())
    raw[0x4C] = 1

    made = sign_bytes(bytes(raw), chip("Genoa").key)

    assert made[:0x2A0] == bytes(raw)
    assert len(sign_report(report_for("Genoa"), chip("Genoa").key)) == len(made)


def test_wrong_sizes_and_products_are_refused():
    """A field of another size would shift the layout; an unknown product has none."""
    with pytest.raises(ValueError, match="host_data"):
        report_for("Genoa", host_data=b"")
    with pytest.raises(SimulatorError, match="Rome"):
        report_for("Rome")
