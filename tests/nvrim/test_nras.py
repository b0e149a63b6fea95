"""NRAS: a second opinion counts only if every token is NVIDIA's, of now, and about our devices."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit import nvrim
from tests.kit.corpus import ABSENT
from tests.kit.nvrim import KID, NONCE, jwks, nras_answer, nras_of, token
from tests.kit.vendors import NOW
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import nras
from verifier.result import Appraisal, Verdict

real = pytest.mark.skipif(not nvrim.REAL.is_dir(), reason=ABSENT)


def check(raw: bytes, serials: tuple[int, ...] = (11,), **more: Any) -> nras.Opinion:
    arguments = {"nonce": NONCE, "leaf_serials": serials, "now": NOW} | more
    return nras.check(raw, arguments.pop("keys", None) or nras.load_keys(jwks()), **arguments)


def refused(reason: Reason, raw: bytes, match: str | None = None, **more: Any) -> None:
    with pytest.raises(VerifierError, match=match) as caught:
        check(raw, **more)
    assert caught.value.reason is reason


def test_an_honest_answer_is_an_opinion() -> None:
    """One device, eight, and switches; both spellings of the digest's name."""
    found = check(nras_answer())
    assert found == nras.Opinion(
        ({"hwmodel": "GH100 A01 GSP BROM", "ueid": "11"},), NOW, NOW + 3600
    )
    eight = tuple(range(1, 9))
    assert len(check(nras_answer(eight), eight).devices) == 8
    assert check(nras_answer(prefix="SWITCH"), devices="switch").issued == NOW
    other = nras_answer(
        overall={
            "submods": {
                "GPU-0": ["DIGEST", ["SHA256", _digest_of(nras_answer())]],
            }
        }
    )
    refused(Reason.COLLATERAL_MISMATCH, other, "another token")


def _digest_of(raw: bytes) -> str:
    return hashlib.sha256(json.loads(raw)[1]["GPU-0"].encode()).hexdigest()


def test_the_digests_other_spelling() -> None:
    """SHA256 is SHA-256; anything else is refused."""
    own = token(nvrim.device_claims(11))
    digest = hashlib.sha256(own.encode()).hexdigest()
    for algorithm, good in (("SHA256", True), ("SHA-256", True), ("MD5", False)):
        raw = nras_of(
            {"GPU-0": own}, overall={"submods": {"GPU-0": ["DIGEST", [algorithm, digest.upper()]]}}
        )
        if good:
            assert check(raw).issued == NOW
        else:
            refused(Reason.COLLATERAL_MISMATCH, raw)
    for odd in ("x", ["DIGEST"], ["DIGEST", ["SHA-256", 1]], None):
        raw = nras_of({"GPU-0": own}, overall={"submods": {"GPU-0": odd}})
        refused(Reason.COLLATERAL_MISMATCH, raw)


def test_the_count_and_the_order_are_ours() -> None:
    """Seven of eight, all of them removed, one more, or in another order: refused."""
    eight = tuple(range(1, 9))
    whole = nras_answer(eight)
    overall, tokens = json.loads(whole)
    for names in ([], list(tokens)[:7], list(tokens)[1:]):
        cut = json.dumps([overall, {name: tokens[name] for name in names}]).encode()
        refused(Reason.COLLATERAL_MISMATCH, cut, serials=eight)
    refused(Reason.COLLATERAL_MISMATCH, nras_answer((1, 2)), serials=(1,))
    refused(Reason.COLLATERAL_MISMATCH, nras_answer((1,)), serials=())
    refused(Reason.COLLATERAL_MISMATCH, nras_answer((1, 2)), "ueid", serials=(2, 1))
    refused(Reason.COLLATERAL_MISMATCH, nras_answer(prefix="SWITCH"))
    without = nras_of({"GPU-0": token(nvrim.device_claims(11))}, overall={"submods": {}})
    refused(Reason.COLLATERAL_MISMATCH, without, "submods")
    refused(
        Reason.COLLATERAL_MISMATCH,
        nras_of({"GPU-0": token(nvrim.device_claims(11))}, overall={"submods": None}),
    )


def test_a_token_of_another_answer_is_refused() -> None:
    """A device's token that the overall one does not cover is refused, however good."""
    overall, _ = json.loads(nras_answer())
    again = token(nvrim.device_claims(11, jti="other"))
    refused(Reason.COLLATERAL_MISMATCH, json.dumps([overall, {"GPU-0": again}]).encode())


@pytest.mark.parametrize("place", ["overall", "device"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"eat_nonce": bytes(32).hex()}, Reason.NONCE_MISMATCH),
        ({"eat_nonce": None}, Reason.NONCE_MISMATCH),
        ({"iss": "https://nras.attestation-stg.nvidia.com"}, Reason.COLLATERAL_MISMATCH),
        ({"iss": "NVAT-LOCAL-VERIFIER"}, Reason.COLLATERAL_MISMATCH),
        ({"iss": ""}, Reason.COLLATERAL_MISMATCH),
        ({"exp": NOW - 60}, Reason.COLLATERAL_EXPIRED),
        ({"iat": NOW - 86_401}, Reason.COLLATERAL_EXPIRED),
        ({"iat": NOW + 61}, Reason.COLLATERAL_NOT_YET_VALID),
        ({"nbf": NOW + 61}, Reason.COLLATERAL_NOT_YET_VALID),
        ({"exp": None}, Reason.MALFORMED),
        ({"iat": None}, Reason.MALFORMED),
        ({"nbf": None}, Reason.MALFORMED),
    ],
)
def test_issuer_times_and_nonce_count_in_every_token(
    place: str, changes: dict[str, Any], reason: Reason
) -> None:
    """In the overall token and in each device's: issuer, times, and our nonce."""
    if place == "overall":
        raw = nras_answer(overall=changes)
    else:
        raw = nras_answer((1, 11), bend=lambda each: each[1].update(changes))
    refused(reason, raw, serials=(11,) if place == "overall" else (1, 11))


def test_times_may_differ_by_a_minute() -> None:
    """Sixty seconds of difference between NRAS's clock and ours are no lie."""
    for changes in ({"iat": NOW + 60, "nbf": NOW + 60}, {"exp": NOW - 59}):
        assert check(nras_answer(overall=changes)).devices


@pytest.mark.parametrize(
    "changes",
    [
        {"measres": "fail"},
        {"measres": None, "x-nvidia-error-details": {"code": 4010}},
        {"secboot": False},
        {"secboot": 1},
        {"dbgstat": "enabled"},
    ],
)
def test_a_device_that_nras_refuses(changes: dict[str, Any]) -> None:
    """Anything but success of any device is a refusal."""
    raw = nras_answer((1, 11), bend=lambda each: each[1].update(changes))
    refused(Reason.NRAS_REFUSED, raw, serials=(1, 11))


@pytest.mark.parametrize("said", [False, None, "true", 1])
def test_the_overall_result_must_be_true(said: object) -> None:
    """`true` and nothing like it."""
    refused(Reason.NRAS_REFUSED, nras_answer(overall={"x-nvidia-overall-att-result": said}))


def other_key(claims: dict[str, Any]) -> str:
    return token(claims, key=ec.generate_private_key(ec.SECP384R1()))


def by_secret(claims: dict[str, Any]) -> str:
    return token(claims, key="secret" * 8, alg="HS256")


def by_unknown_key(claims: dict[str, Any]) -> str:
    return token(claims, kid="another")


def by_curve(claims: dict[str, Any]) -> str:
    return token(claims, key=ec.generate_private_key(ec.SECP256R1()), alg="ES256")


def cut(claims: dict[str, Any]) -> str:
    return token(claims)[:-4]


@pytest.mark.parametrize("sign", [other_key, by_secret, by_unknown_key, by_curve, cut])
def test_a_token_that_nvidia_did_not_sign_is_refused(sign: Any) -> None:
    """Another key, a shared secret, another curve, half a signature: none is NVIDIA's."""
    refused(Reason.SIGNATURE_INVALID, nras_answer(sign=sign))


def test_one_bad_token_among_good_ones_is_refused() -> None:
    """A device's token counts like the overall one: signed by NVIDIA, or nothing counts."""
    mine = other_key(nvrim.device_claims(11))
    refused(Reason.SIGNATURE_INVALID, nras_of({"GPU-0": mine}))


def test_a_token_that_nobody_signed_is_refused() -> None:
    """`alg: none`, in every spelling, and a signature that is empty."""
    refused(Reason.SIGNATURE_MISSING, nras_answer(sign=nvrim.unsigned))
    head, body, _ = token(nvrim.times()).split(".")
    refused(Reason.SIGNATURE_MISSING, nras_of({"GPU-0": "x"}, sign=lambda _: f"{head}.{body}."))
    nona = base64.urlsafe_b64encode(json.dumps({"alg": "None", "kid": KID}).encode()).decode()
    refused(
        Reason.SIGNATURE_INVALID,
        nras_of({"GPU-0": "x"}, sign=lambda _: f"{nona.rstrip('=')}.{body}.AAAA"),
    )


@pytest.mark.parametrize(
    "header", [{"crit": ["x"], "x": 1}, {"jku": "https://x"}, {"x5c": ["x"]}, {"kid": None}]
)
def test_a_header_says_algorithm_and_key_and_no_more(header: dict[str, Any]) -> None:
    """Where a header says what key to take, it is not followed but refused."""
    raw = nras_answer(sign=lambda claims: jwt.encode(
        claims, nvrim.nras_key(), algorithm="ES384",
        headers={k: v for k, v in ({"kid": KID} | header).items() if v is not None},
    ))  # fmt: skip
    refused(Reason.MALFORMED, raw, "header")


def test_a_key_id_must_be_text() -> None:
    """A number is no key id."""
    head = base64.urlsafe_b64encode(json.dumps({"alg": "ES384", "kid": 1}).encode()).decode()
    refused(
        Reason.SIGNATURE_INVALID,
        nras_of({"GPU-0": "x"}, sign=lambda _: f"{head.rstrip('=')}.e30.AAAA"),
    )


ODD: dict[str, bytes] = {
    "no JSON": b"{",
    "not UTF-8": b"\xff",
    "an object": b"{}",
    "no overall token": b'[["JWT"],{}]',
    "another tag": b'[["EAT","x"],{}]',
    "numbers": b'[["JWT","x"],{"GPU-0":1}]',
    "many": json.dumps([["JWT", "x"], {f"GPU-{i}": "x" for i in range(65)}]).encode(),
    "a member twice": b'[["JWT","x"],{"GPU-0":"a","GPU-0":"b"}]',
    "NaN": b'[["JWT","x"],{"GPU-0":NaN}]',
    "deep": b"[" * 100_000,
    "no base64": b'[["JWT","\\u00e9.x.x"],{"GPU-0":"x"}]',
    "odd base64": b'[["JWT","a.b.c"],{"GPU-0":"x"}]',
    "no object": b'[["JWT","MQ.b.c"],{"GPU-0":"x"}]',
    "loose bits": b'[["JWT","e31.b.c"],{"GPU-0":"x"}]',
    "a surrogate": b'[["JWT","e30.b.c"],{"GPU-0":"\\ud800"}]',
}


@pytest.mark.parametrize("what", ODD)
def test_an_answer_of_another_form_is_refused(what: str) -> None:
    """What is not an overall token and one of each device is refused by name."""
    with pytest.raises(VerifierError):
        check(ODD[what])


def test_sizes_are_bounded() -> None:
    """Large answers, tokens and key sets are refused before they are read."""
    refused(Reason.TOO_LARGE, b" " * (nras.MAX_ANSWER + 1))
    refused(Reason.TOO_LARGE, json.dumps([["JWT", "x" * 40_000], {"GPU-0": "x"}]).encode())
    with pytest.raises(VerifierError):
        nras.load_keys(b" " * (nras.MAX_JWKS + 1))


def test_a_lone_surrogate_in_a_token_is_refused() -> None:
    """Text that has no UTF-8 form matches no digest."""
    overall, tokens = json.loads(nras_answer())
    tokens["GPU-0"] += "\ud800"
    refused(Reason.COLLATERAL_MISMATCH, json.dumps([overall, tokens]).encode())


def test_keys_are_read_strictly() -> None:
    """P-384 keys by key id, each once, public; others are passed over."""
    other = ec.generate_private_key(ec.SECP256R1())
    told = json.loads(jwks())
    told["keys"] += [json.loads(jwt.algorithms.ECAlgorithm.to_jwk(other.public_key())), "x"]
    assert set(nras.load_keys(json.dumps(told).encode()).by_id) == {KID}
    good = told["keys"][0]
    for keys in (
        [good, good],
        [good | {"kid": 1}],
        [good | {"d": "x"}],
        [good | {"x": "AA"}],
        [good | {"x": 5}],
        "x",
    ):
        with pytest.raises(VerifierError) as caught:
            nras.load_keys(json.dumps({"keys": keys}).encode())
        assert caught.value.reason is Reason.COLLATERAL_MALFORMED
    for raw in (b"[]", b"{}", b"{"):
        with pytest.raises(VerifierError):
            nras.load_keys(raw)


def test_key_ids_are_those_that_the_tokens_name() -> None:
    """Whoever fetches keys learns which ones are needed."""
    assert nras.key_ids(nras_answer((1, 2))) == {KID}


def judged(raw: bytes, *, good: bool) -> Appraisal:
    appraisal = Appraisal("gpu")
    appraisal.require("something", good, Reason.SIGNATURE_INVALID, "x", "y")
    nras.judge(appraisal, raw, nras.load_keys(jwks()), nonce=NONCE, leaf_serials=(11,), now=NOW)
    return appraisal


def test_an_opinion_never_makes_a_rejection_an_acceptance() -> None:
    """A yes is a note beside what was found; a no denies."""
    no = nras_answer(overall={"x-nvidia-overall-att-result": False})
    assert judged(nras_answer(), good=True).result().verdict is Verdict.ACCEPT
    assert judged(nras_answer(), good=False).result().verdict is Verdict.REJECT
    assert judged(no, good=True).result().reasons == (Reason.NRAS_REFUSED,)
    yes = judged(nras_answer(), good=True)
    assert yes.expires == NOW + 3600
    assert yes.claims["nras_gpu"] == [{"hwmodel": "GH100 A01 GSP BROM", "ueid": "11"}]
    alone = Appraisal("gpu")
    nras.judge(
        alone, nras_answer(), nras.load_keys(jwks()), nonce=NONCE, leaf_serials=(11,), now=NOW
    )
    assert alone.result().verdict is Verdict.REJECT


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_changed_character_is_seen(data: st.DataObject) -> None:
    """Whatever character of a token is changed, no opinion comes of it."""
    overall, tokens = json.loads(_ANSWER)
    whole = data.draw(st.sampled_from(["overall", "GPU-0"]))
    text = overall[1] if whole == "overall" else tokens[whole]
    at = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.sampled_from("Aa0-_.="))
    bent = text[:at] + character + text[at + 1 :]
    if bent == text:
        return
    overall, tokens = (["JWT", bent], tokens) if whole == "overall" else (overall, {"GPU-0": bent})
    with pytest.raises(VerifierError):
        check(json.dumps([overall, tokens]).encode())


_ANSWER = nras_answer()


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_refused_by_name(raw: bytes) -> None:
    """Nothing but our error leaves the reader."""
    with pytest.raises(VerifierError):
        check(raw)
    with pytest.raises(VerifierError):
        nras.load_keys(raw)


@real
def test_what_nvattest_says_of_itself_is_refused() -> None:
    """The tokens that nvattest makes in the guest are signed by nobody, and prove nothing."""
    told = json.loads(nvrim.real("nras/nvattest-local-eat-alg-none/nvattest_output.json"))
    raw = json.dumps(told["detached_eat"]).encode()
    refused(Reason.SIGNATURE_MISSING, raw, "alg none", now=1_784_207_862, nonce=b"\x11" * 32)
    with pytest.raises(VerifierError):
        check(json.dumps(told).encode())


@real
def test_a_real_answer_is_read_as_far_as_its_key() -> None:
    """NRAS's answer of June 2025 has the form that we read; its key is published no more."""
    raw = nvrim.real("nras/claims-samples-v2-v3/hopperClaimsv3_detached_eat.json")
    (kid,) = nras.key_ids(raw)
    assert kid.startswith("nv-eat-kid-prod-2025")
    at = {"now": 1_749_601_858, "serials": (478176379286082186618948445787393647364802107249,)}
    at["nonce"] = bytes.fromhex("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb")
    refused(Reason.SIGNATURE_INVALID, raw, "is unknown", **at)
    forged = nras.load_keys(jwks((kid, nvrim.nras_key())))
    refused(Reason.SIGNATURE_INVALID, raw, keys=forged, **at)
