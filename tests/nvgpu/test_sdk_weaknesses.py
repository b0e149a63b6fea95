"""What NVIDIA's Python SDK 2.7.3 says yes to, and what is said here: A to G of the finding.

The letters are those of the study that found them, each by running the SDK on real evidence with
RIM and OCSP answers stubbed as good.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ostiary.simulator.nvidia import devices, faults
from ostiary.simulator.nvidia.pki import FakeNvidia
from tests.kit import corpus, nvgpu
from tests.kit.nvgpu import Judge
from verifier.anchors import PINNED
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import nras
from verifier.nvgpu.device import DeviceEvidence, DeviceKind
from verifier.result import Verdict

TWO = nvgpu.make(2)


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


@pytest.mark.parametrize("bad", ["tampered", "garbage", "bad signature"])
def test_a_second_gpu_is_bad(bad: str) -> None:
    """A: GPU 0 good and GPU 1 bad is no, and what is said of GPU 1 is not what GPU 0 deserved."""
    judge = Judge(TWO)
    sent = judge.sent[1]
    report = {
        "tampered": flipped(sent.report, 100),
        "garbage": b"\xa5" * 4000,
        "bad signature": sent.report[:-96] + judge.sent[0].report[-96:],
    }[bad]
    judge.sent[1] = replace(sent, report=report)
    result = judge()
    first, second = result.claims["devices"]

    assert result.verdict is Verdict.REJECT
    assert (first["verdict"], second["verdict"]) == ("accept", "reject")
    assert second["genuine"] is False
    assert "compared" not in second["claims"]
    assert not any(c.ok for c in result.checks if c.name == "gpu[1].signature")


def test_b_tampered_report_alone() -> None:
    """B: a tampered report is no, and nothing of it is told as measured or matched."""
    judge = Judge(nvgpu.make())
    judge.sent[0] = replace(judge.sent[0], report=flipped(judge.sent[0].report, 2000))
    result = judge()

    assert [r.value for r in result.reasons] == ["signature_invalid"]
    assert result.claims["devices"][0]["claims"] == {}
    assert not any("measurements" in c.name for c in result.checks)


def test_c_second_call_in_one_process() -> None:
    """C: a call about another device says nothing of the device before, shared cache or not."""
    cache = Cache()
    first, second = Judge(nvgpu.make()), Judge(TWO)
    first.options = second.options = {"cache": cache}
    one, two = first(), second()
    ids = [each["device_id"] for r in (one, two, first()) for each in r.claims["devices"]]

    assert len(set(ids)) == 3
    assert ids[0] == ids[3]
    second.options = {}
    assert [each["device_id"] for each in second().claims["devices"]] == ids[1:3]


def test_d_forged_chain() -> None:
    """D: a whole chain of the forger's own, with NVIDIA's names, is no: its root is not pinned."""
    forger = FakeNvidia.create(nvgpu.NOW)
    judge = Judge(devices.device_set(forger, 1))
    for anchors in (PINNED, nvgpu.anchors()):
        judge.options = {"anchors": anchors}
        result = judge()
        assert [r.value for r in result.reasons] == ["root_unknown"]
        assert result.claims["devices"][0]["genuine"] is False


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


KEY = ec.generate_private_key(ec.SECP384R1())
SERIALS = tuple(range(1000, 1008))


def keys() -> nras.Keys:
    told = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))
    return nras.load_keys(json.dumps({"keys": [told | {"kid": "k1"}]}).encode())


def token(claims: dict[str, Any]) -> str:
    return jwt.encode(claims, KEY, algorithm="ES384", headers={"kid": "k1"})


def answer(nonce: bytes, leave_out: int = 0, *, cover: bool = False) -> bytes:
    """Return NRAS's answer about eight GPUs, of which some tokens were taken out on the way.

    `cover` has the overall token name only those that are left.
    """
    common = {
        "iss": nras.ISSUER,
        "iat": nvgpu.NOW,
        "nbf": nvgpu.NOW,
        "exp": nvgpu.NOW + 3600,
        "eat_nonce": nonce.hex(),
    }
    each = {
        f"GPU-{at}": token(
            common
            | {"measres": "success", "secboot": True, "dbgstat": "disabled", "ueid": str(serial)}
        )
        for at, serial in enumerate(SERIALS)
    }
    left = dict(list(each.items())[: len(each) - leave_out])
    submods = {
        name: ["DIGEST", ["SHA-256", hashlib.sha256(text.encode()).hexdigest()]]
        for name, text in (left if cover else each).items()
    }
    overall = token(common | {"x-nvidia-overall-att-result": True, "submods": submods})
    return json.dumps([["JWT", overall], left]).encode()


def check(raw: bytes) -> nras.Opinion:
    return nras.check(raw, keys(), nonce=nvgpu.NONCE, leaf_serials=SERIALS, now=nvgpu.NOW)


def test_e_token_made_by_hand() -> None:
    """E: a token signed with a word, with no GPU in it, no nonce and no end, is no."""
    assert len(check(answer(nvgpu.NONCE)).devices) == 8
    body = {"x-nvidia-overall-att-result": True, "iss": "LOCAL_GPU_VERIFIER"}
    for secret in ("secret" * 8, "notasecret" * 5):
        text = jwt.encode(body, secret, algorithm="HS256", headers={"kid": "k1"})
        for tokens in ({}, {f"GPU-{at}": text for at in range(8)}):
            with pytest.raises(VerifierError) as caught:
                check(json.dumps([["JWT", text], tokens]).encode())
            assert caught.value.reason in {Reason.SIGNATURE_INVALID, Reason.COLLATERAL_MISMATCH}


def test_f_tokens_of_another_session_or_taken_away() -> None:
    """F: tokens of another session, or with seven or all GPUs' tokens taken out, are no."""
    for raw, reason in (
        (answer(bytes(32)), Reason.NONCE_MISMATCH),
        (answer(nvgpu.NONCE, 7), Reason.COLLATERAL_MISMATCH),
        (answer(nvgpu.NONCE, 8), Reason.COLLATERAL_MISMATCH),
        (answer(nvgpu.NONCE, 7, cover=True), Reason.COLLATERAL_MISMATCH),
    ):
        with pytest.raises(VerifierError) as caught:
            check(raw)
        assert caught.value.reason is reason


def test_g_same_gpu_twice() -> None:
    """G: one GPU that is listed twice is no."""
    judge = Judge(TWO)
    judge.sent[1] = judge.sent[0]

    assert judge.reasons() == ["gpu_duplicate"]


recorded = pytest.mark.skipif(not nvgpu.NAMES, reason=corpus.ABSENT)


@recorded
def test_a_to_d_and_g_on_real_evidence() -> None:
    """The same on the very evidence that the SDK said yes to."""
    case = nvgpu.load("hopper/h100-550.90.07-full")
    (good,) = case.sent()
    other = nvgpu.load("hopper/h100-570.86.10-certhold").sent()[0]
    assert case.judge().verdict is Verdict.ACCEPT
    for bad in (
        replace(good, report=flipped(good.report, 100)),
        replace(good, report=b"\xa5" * 4000),
        replace(good, report=good.report[:-96] + other.report[-96:]),
    ):
        result = case.judge(devices=[good, bad])
        verdicts = [each["verdict"] for each in result.claims["devices"]]
        assert (result.verdict, verdicts) == (Verdict.REJECT, ["accept", "reject"])
    assert {r.value for r in case.judge(devices=[good, good]).reasons} == {"gpu_duplicate"}
    forger = FakeNvidia.create(nvgpu.NOW)
    identity = forger.device("GH100", bytes(48))
    forged = DeviceEvidence(DeviceKind.GPU, good.report, identity.chain_pem)
    assert [r.value for r in case.judge(devices=[forged]).reasons] == ["root_unknown"]
    seen = case.judge(devices=[other]).claims["devices"][0]["device_id"]
    assert seen != case.judge().claims["devices"][0]["device_id"]


def test_bad_signature_fault_is_the_simulators() -> None:
    """The simulated fault that demos show is refused like any forgery."""
    whole = faults.at_gpu(TWO, 1, faults.bad_signature)

    assert Judge(whole).reasons() == ["signature_invalid"]
