"""Simulated quotes: layout beside a real one, signatures, and every knob."""

import hashlib
import json
from dataclasses import fields, replace

import dcap_qvl
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ostiary.simulator.quote import (
    EnclaveReport,
    QuoteShape,
    TdBody,
    build_quote,
    public_point,
    quote_v4,
    quote_v5,
)
from tests.kit import shapes
from tests.kit.vendors import NOW, fake_intel, good_body, good_collateral, platform
from verifier.anchors import Anchors
from verifier.appraise import Evidence, appraise
from verifier.result import Verdict
from verifier.tdx import collateral as collaterals

MAKERS = {
    "v4": (quote_v4, 48, 584),
    "v5": (quote_v5, 54, 648),
    "v5-td10": (lambda p, b, **k: quote_v5(p, b, td15=False, **k), 54, 584),
}
FULL = TdBody(
    **{
        item.name: bytes([index + 1]) * len(item.default)
        for index, item in enumerate(fields(TdBody))
    }
)


def verify_raw(key, raw, message):
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:64], "big"))
    key.public_key().verify(der, message, ec.ECDSA(hashes.SHA256()))


def peer(quote):
    parsed = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(good_collateral()))
    root = fake_intel().certificates["root"]
    return dcap_qvl.verify_with_root_ca(quote, parsed, root, NOW)


@pytest.mark.parametrize("version", MAKERS)
def test_both_verifiers_accept_a_quote(version):
    """dcap-qvl and ours, each given our root, find a current platform."""
    made = MAKERS[version][0](platform(), good_body(b"\x2a" * 64))
    collateral = collaterals.from_json(json.dumps(good_collateral()).encode())
    anchors = Anchors().with_simulated(intel=[fake_intel().root_pin])

    result = appraise(
        Evidence("tdx", made),
        collateral,
        policy=None,
        report_data=b"\x2a" * 64,
        now=NOW,
        anchors=anchors,
    )

    assert peer(made).status == "UpToDate"
    assert (result.verdict, result.simulated) == (Verdict.ACCEPT, True), result.reasons


@pytest.mark.parametrize("version", MAKERS)
def test_every_signature_covers_what_it_should(version):
    """The attestation key signs header and body, the PCK the QE report, which names the key."""
    make, start, size = MAKERS[version]
    made = make(platform(), FULL)
    end = start + size
    data = made[end + 4 :]
    report = data[134 : 134 + 384]

    verify_raw(platform().attestation_key, data[:64], made[:end])
    verify_raw(platform().pck_key, data[134 + 384 :], report)
    assert data[64:128] == public_point(platform().attestation_key)
    assert report[320:352] == hashlib.sha256(data[64:128] + bytes(range(32))).digest()
    assert report[352:] == bytes(32)
    assert len(data) == int.from_bytes(made[end : end + 4], "little")


@pytest.mark.parametrize("version", MAKERS)
def test_the_peer_reads_every_field_of_the_body(version):
    """Each field stands where an independent parser looks for it."""
    report = dcap_qvl.parse_quote(MAKERS[version][0](platform(), FULL)).report
    names = {
        "mr_seam": "mr_seam",
        "mr_td": "mr_td",
        "mr_config_id": "mr_config_id",
        "mr_owner": "mr_owner",
        "mr_owner_config": "mr_owner_config",
        "rtmr0": "rt_mr0",
        "rtmr3": "rt_mr3",
        "report_data": "report_data",
        "td_attributes": "td_attributes",
        "tee_tcb_svn": "tee_tcb_svn",
    }
    read = {ours: bytes(getattr(report, theirs)) for ours, theirs in names.items()}

    assert {ours: getattr(FULL, ours) for ours in names} == read


@pytest.mark.parametrize(
    ("case", "version"), [("v4-00806f-cos113-ccel", "v4"), ("v5-90c06f-uptodate", "v5")]
)
def test_a_real_quote_rebuilt_from_its_fields_is_the_same(case, version):
    """Header, body and QE report of a recorded quote come out byte for byte."""
    folder = shapes.EVIDENCE / "tdx" / case
    if not folder.is_dir():
        pytest.skip(f"no evidence corpus at {shapes.EVIDENCE}: set OSTIARY_EVIDENCE_DIR")
    real = (folder / "quote.bin").read_bytes()
    told = json.loads((folder / "case.json").read_text())["expected"]["fields"]
    start, end = MAKERS[version][1], sum(MAKERS[version][1:])
    spelt = {"tee_tcb_svn2": "tee_tcb_svn_2"}
    body = TdBody(
        **{
            item.name: bytes.fromhex(told["body"][spelt.get(item.name, item.name)])
            for item in fields(TdBody)
            if spelt.get(item.name, item.name) in told["body"]
        }
    )
    qe = told["qe_report"]
    report = EnclaveReport(
        cpusvn=bytes.fromhex(qe["cpusvn"]),
        miscselect=bytes.fromhex(qe["miscselect"]),
        attributes=bytes.fromhex(qe["attributes"]),
        mrenclave=bytes.fromhex(qe["mrenclave"]),
        mrsigner=bytes.fromhex(qe["mrsigner"]),
        isvprodid=qe["isvprodid"],
        isvsvn=qe["isvsvn"],
        report_data=bytes.fromhex(qe["reportdata"]),
    )
    chain = real[real.index(b"-----BEGIN") : end + 4 + told["declared_sig_len"]]
    auth = real[end + 4 + 134 + 384 + 64 + 2 :][:32]
    data = end + 4

    made = MAKERS[version][0](
        platform(),
        body,
        user_data=real[28:48],
        qe_report=report,
        auth_data=auth,
        cert_data=chain,
        signature=real[data : data + 64],
        attestation_key=real[data + 64 : data + 128],
        qe_signature=real[data + 134 + 384 : data + 134 + 448],
    )

    assert start in {48, 54}
    assert real[: data + told["declared_sig_len"]] == made


@pytest.mark.parametrize(
    "knobs",
    [
        {"version": 3},
        {"key_type": 3},
        {"tee_type": 0},
        {"qe_vendor": bytes(16)},
        {"outer_cert_type": 5},
        {"inner_cert_type": 4},
        {"signature": bytes(64)},
        {"qe_signature": b"\xff" * 64},
        {"attestation_key": bytes(64)},
        {"qe_report": EnclaveReport(report_data=bytes(64))},
        {"qe_report": EnclaveReport(isvsvn=0)},
        {"qe_report": EnclaveReport(mrsigner=bytes(32))},
        {"cert_data": b""},
        {"auth_size_delta": 1},
        {"inner_cert_size_delta": -1, "outer_cert_size_delta": 1},
        {"signature_size_delta": 1},
    ],
)
def test_every_knob_breaks_a_quote(knobs):
    """What a negative test bends is refused by our verifier; without the knob it is not."""
    collateral = collaterals.from_json(json.dumps(good_collateral()).encode())
    anchors = Anchors().with_simulated(intel=[fake_intel().root_pin])

    bent = appraise(
        Evidence("tdx", quote_v4(platform(), good_body(), **knobs)),
        collateral,
        policy=None,
        report_data=None,
        now=NOW,
        anchors=anchors,
    )

    assert bent.verdict != Verdict.ACCEPT


def test_declared_body_type_and_size_can_lie():
    """v5's descriptor says what the knobs say; trailing bytes come last."""
    made = quote_v5(platform(), good_body(), body_type=9, body_size=1, trailing=b"zz")

    assert made[48:54] == bytes.fromhex("090001000000")
    assert made.endswith(b"zz")
    assert build_quote(platform(), b"", QuoteShape())[:2] == b"\x04\x00"


@pytest.mark.parametrize("item", fields(TdBody), ids=lambda item: item.name)
def test_fields_of_another_size_are_refused(item):
    """A body cannot be made with a field that would shift all the others."""
    with pytest.raises(ValueError, match=item.name):
        replace(TdBody(), **{item.name: b""})
