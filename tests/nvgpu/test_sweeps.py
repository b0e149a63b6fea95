"""One bit anywhere, in report or certificates, denies: complete sweeps over recorded evidence."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.simulator import certificates
from tests.kit import corpus, nvgpu
from verifier.anchors import PINNED, Anchors
from verifier.cache import Cache
from verifier.errors import VerifierError
from verifier.nvgpu import chain, device
from verifier.nvgpu.device import DeviceEvidence
from verifier.result import Appraisal, Verdict
from verifier.x509 import split_pem

recorded = pytest.mark.skipif(not nvgpu.NAMES, reason=corpus.ABSENT)
FULL = "hopper/h100-550.90.07-full"
NOW = nvgpu.unix(nvgpu.AT)


def flipped(raw: bytes, at: int, bit: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]


def is_genuine(evidence: DeviceEvidence, cache: Cache, anchors: Anchors = PINNED) -> bool:
    try:
        device.verify(Appraisal("nvidia"), evidence, now=NOW, anchors=anchors, cache=cache)
    except VerifierError:
        return False
    return True


@recorded
@pytest.mark.parametrize("name", [FULL, "ls10/ls10-96.10.55-full", "rubin/gr100-620.54-nvdaod"])
def test_every_byte_of_a_report(name: str) -> None:
    """One bit of every byte of a real report: each makes it no report of the device's."""
    (good,) = nvgpu.load(name).sent()
    cache = Cache()
    assert is_genuine(good, cache)
    through = [
        at
        for at in range(len(good.report))
        if is_genuine(replace(good, report=flipped(good.report, at, at * 5 % 8)), cache)
    ]

    assert through == []


def loads(ders: list[bytes], cache: Cache) -> bool:
    try:
        chain.load(certificates.pem(*ders).encode(), cache).check_root(PINNED)
    except VerifierError:
        return False
    return True


@recorded
@pytest.mark.parametrize("place", range(5))
def test_every_byte_of_a_certificate(place: int) -> None:
    """One bit of every byte of every certificate, the signed part and all around it: refused."""
    (good,) = nvgpu.load(FULL).sent()
    ders = list(split_pem(good.chain, "chain", limit=5))
    cache = Cache()
    assert loads(ders, cache)
    through = []
    for at in range(len(ders[place])):
        bent = [*ders]
        bent[place] = flipped(ders[place], at, at * 3 % 8)
        if loads(bent, cache):
            through.append(at)

    assert through == []
    body = x509.load_der_x509_certificate(ders[place]).tbs_certificate_bytes
    assert body in ders[place]


@recorded
@settings(deadline=None, max_examples=120)
@given(st.data())
def test_any_bit_denies_the_whole_appraisal(data: st.DataObject) -> None:
    """Any bit of report or of the chain's text denies, through the front door, RIMs and all."""
    case = nvgpu.load(FULL)
    (good,) = case.sent()
    part = data.draw(st.sampled_from(["report", "chain"]))
    raw = getattr(good, part)
    at = data.draw(st.integers(0, len(raw) - 1))
    bent = flipped(raw, at, data.draw(st.integers(0, 7)))
    if part == "chain" and _same_certificates(bent, raw):
        return  # a line end for another: the certificates are the same
    changed = replace(good, report=bent) if part == "report" else replace(good, chain=bent)

    assert case.judge(devices=[changed]).verdict is Verdict.REJECT


def _same_certificates(one: bytes, other: bytes) -> bool:
    try:
        return split_pem(one, "chain", limit=5) == split_pem(other, "chain", limit=5)
    except VerifierError:
        return False


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(1, 2))
def test_garbage_is_a_result(report: bytes, pem: bytes, kind: int) -> None:
    """Whatever is handed in gives a result that denies, never an exception."""
    judge = nvgpu.Judge(nvgpu.make())
    good = judge.sent[0]
    text = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(pem) + b"\n-----END CERTIFICATE-----"
    judge.sent = [
        DeviceEvidence(device.DeviceKind(kind), report, pem),
        replace(good, report=report),
        replace(good, chain=text * 5),
    ]

    assert judge().verdict is Verdict.REJECT
