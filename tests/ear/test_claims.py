"""The content of tokens: two dialects, one meaning, nothing loose."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.ear import BASIS, made
from verifier.ear import claims
from verifier.ear.claims import Basis, Ear, Submod
from verifier.ear.vector import Tier, Vector, overall
from verifier.errors import Reason, VerifierError
from verifier.wire.canonical import Hex

NAME = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)
INT8 = st.integers(-128, 127)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
CLAIM = st.none() | st.booleans() | st.integers(-(1 << 60), 1 << 60) | TEXT
DIGEST = st.binary(min_size=32, max_size=32).map(Hex)


@st.composite
def ears(draw: Any) -> Ear:
    """Give the content of a token in which everything varies."""
    dialect = draw(st.sampled_from(["legacy", "ietf"]))
    submods = {}
    for label in draw(st.lists(NAME, min_size=1, max_size=4, unique=True)):
        vector = Vector(*draw(st.lists(INT8, min_size=8, max_size=8)))
        status = draw(st.sampled_from([s for s in Tier if vector.admits(s)]))
        least = 1 if dialect == "legacy" else draw(st.integers(1, 3))
        policies = tuple(draw(st.lists(NAME, min_size=least, max_size=least)))
        told = draw(st.dictionaries(NAME, CLAIM, max_size=3))
        submods[label] = Submod(status, vector, policies, told, {"verdict": "accept"})
    issued = draw(st.integers(0, 1 << 37))
    worst = overall(each.status for each in submods.values())
    return Ear(
        dialect=dialect,
        issuer=draw(NAME),
        audience=draw(NAME),
        token=draw(NAME),
        nonce=draw(st.binary(min_size=9, max_size=64)),
        issued=issued,
        expires=issued + draw(st.integers(1, 1 << 20)),
        developer=draw(NAME),
        build=draw(NAME),
        status=worst
        if dialect == "legacy"
        else draw(st.sampled_from([worst, Tier.CONTRAINDICATED])),
        submods=submods,
        basis=Basis(
            draw(NAME),
            *(draw(DIGEST) for _ in range(6)),
            draw(st.integers(0, 1 << 37)),
            draw(st.booleans()),
        ),
    )


@given(ears())
@settings(max_examples=60, deadline=None)
def test_writing_and_reading_are_inverse(ear: Ear) -> None:
    """Whatever a token says, in either dialect, it says after a round trip."""
    raw = claims.encode(ear)

    assert claims.decode(raw) == ear
    assert claims.encode(claims.decode(raw)) == raw


def payload(dialect: claims.Dialect = "ietf") -> dict[str, Any]:
    """Return a good payload, to be changed."""
    told: dict[str, Any] = json.loads(claims.encode(made(dialect)))
    return told


def refused(told: object, reason: Reason = Reason.MALFORMED) -> None:
    """Hold that a payload is refused for this reason."""
    with pytest.raises(VerifierError) as caught:
        claims.decode(told if isinstance(told, bytes) else json.dumps(told).encode())
    assert caught.value.reason is reason


def test_the_ietf_dialect_has_the_drafts_names() -> None:
    """Underscores at the top and in appraisals, the hyphens of AR4SI in the vector."""
    told = payload("ietf")

    assert told["eat_profile"] == "tag:ietf.org,2026:rats/ear#04"
    assert told["ear_status"] == "affirming"
    assert told["ear_verifier_id"] == {"developer": "ostiary", "build": claims.BUILD}
    cpu = told["submods"]["cpu0"]
    assert cpu["ear_status"] == "affirming"
    assert cpu["ear_trustworthiness_vector"] == {
        "instance-identity": 0,
        "configuration": 2,
        "executables": 3,
        "file-system": 0,
        "hardware": 2,
        "runtime-opaque": 2,
        "storage-opaque": 0,
        "sourced-data": 0,
    }
    assert cpu["ear_appraisal_policy_ids"] == [BASIS.policy_id()]
    assert {"jti", "aud", "iss", "iat", "exp", "eat_nonce", "ostiary_basis"} <= told.keys()
    assert len(told["eat_nonce"]) == 43
    assert not any("." in name for name in (*told, *cpu))


def test_the_legacy_dialect_has_veraisons_names() -> None:
    """Dots and hyphens, one policy, no status of the whole."""
    told = payload("legacy")

    assert told["eat_profile"] == "tag:github.com,2023:veraison/ear"
    assert told["ear.verifier-id"]["developer"] == "ostiary"
    cpu = told["submods"]["cpu0"]
    assert cpu["ear.status"] == "affirming"
    assert cpu["ear.trustworthiness-vector"]["hardware"] == 2
    assert cpu["ear.appraisal-policy-id"] == BASIS.policy_id()
    assert cpu["ear.veraison.annotated-evidence"] == {"mr_td": "aa" * 48}
    assert cpu["ear.veraison.policy-claims"]["verdict"] == "accept"
    assert told["ear.ostiary.basis"]["evaluated"] == BASIS.evaluated


def test_unknown_claims_are_passed_over() -> None:
    """As the draft demands of receivers, at the top and in appraisals."""
    told = payload()
    told["something"] = {"else": [1]}
    told["submods"]["cpu0"]["more"] = True

    assert claims.decode(json.dumps(told).encode()) == made()


@pytest.mark.parametrize(
    "profile",
    [
        None,
        "tag:ietf.org,2026:rats/ear#03",
        "tag:ietf.org,2026:rats/ear#05",
        "tag:github.com,2024:confidential-containers/Trustee",
        7,
        ["tag:ietf.org,2026:rats/ear#04"],
        {},
    ],
)
def test_an_unknown_profile_is_refused(profile: object) -> None:
    """No guessing by the names of members."""
    told = payload() | {"eat_profile": profile}
    if profile is None:
        del told["eat_profile"]

    refused(told, Reason.UNSUPPORTED)


def test_a_dialect_is_not_read_as_the_other() -> None:
    """The profile decides, and the members must be its own."""
    refused(payload("legacy") | {"eat_profile": claims.IETF})
    refused(payload("ietf") | {"eat_profile": claims.LEGACY})


@pytest.mark.parametrize("dialect", ["legacy", "ietf"])
def test_every_member_is_needed(dialect: claims.Dialect) -> None:
    """Without any one of them there is no result."""
    told = payload(dialect)
    for name in set(told) - {"eat_profile"}:
        refused({key: value for key, value in told.items() if key != name})
    for name in told["submods"]["cpu0"]:
        cpu = {key: value for key, value in told["submods"]["cpu0"].items() if key != name}
        refused(told | {"submods": {"cpu0": cpu}})


@pytest.mark.parametrize("value", [258, 128, -129, 2.0, True, "2", None])
def test_a_vector_out_of_range_is_refused(value: object) -> None:
    """258 is not 2: nothing wraps around."""
    for dialect, name in (
        ("legacy", "ear.trustworthiness-vector"),
        ("ietf", "ear_trustworthiness_vector"),
    ):
        told = payload(dialect)  # type: ignore[arg-type]
        told["submods"]["cpu0"][name]["hardware"] = value
        refused(told)


@pytest.mark.parametrize(
    "changes",
    [
        {"iat": 1.5},
        {"iat": "1"},
        {"iat": True},
        {"iat": -1},
        {"exp": 1 << 53},
        {"exp": 1},
        {"aud": ["a", "b"]},
        {"aud": ""},
        {"iss": "x" * 257},
        {"jti": None},
        {"eat_nonce": "AAAAAAAAAAA"},
        {"eat_nonce": "A" * 87},
        {"eat_nonce": "AAAAAAAAAAAAAAA="},
        {"eat_nonce": ["AAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAA"]},
        {"submods": {}},
        {"submods": {"cpu0": None}},
        {"ear_status": 2},
        {"ear_status": "fine"},
        {"ear_verifier_id": {"developer": "d"}},
        {"ear_verifier_id": {"developer": "d", "build": "b", "more": 1}},
    ],
)
def test_values_out_of_their_range_are_refused(changes: dict[str, Any]) -> None:
    """Times, nonce, audience, status: one form each."""
    refused(payload() | changes)


def test_digests_have_their_size() -> None:
    """A digest that is cut is no digest."""
    told = payload()
    told["ostiary_basis"]["policy"] = "00" * 31
    refused(told)


def test_a_status_better_than_its_vector_is_refused() -> None:
    """In an appraisal, and for the whole."""
    told = payload()
    told["submods"]["cpu0"]["ear_trustworthiness_vector"]["hardware"] = 32
    refused(told)
    told["submods"]["cpu0"]["ear_status"] = "warning"
    refused(told)
    told["ear_status"] = "warning"
    assert claims.decode(json.dumps(told).encode()).status is Tier.WARNING


def test_members_that_stand_twice_are_refused() -> None:
    """At the top and inside; nobody wins by coming last."""
    raw = json.dumps(payload()).encode()
    refused(raw.replace(b'"jti":', b'"jti": "x", "jti":', 1))
    refused(raw.replace(b'"hardware":', b'"hardware": 96, "hardware":', 1))


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff", b"nul", b"\xef\xbb\xbf{}", b"[" * 100_000])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    """Nothing but our own error, however deep it is nested."""
    refused(raw)


def test_what_could_not_be_read_back_is_not_written() -> None:
    """Neither too short a nonce nor a status that is too good leaves this package."""
    good = made()
    cpu = good.submods["cpu0"]
    for bad in (
        replace(good, nonce=b"short"),
        replace(good, submods={"cpu0": replace(cpu, vector=Vector())}),
        replace(good, dialect="legacy", status=Tier.WARNING),
        replace(good, submods={"cpu0": replace(cpu, attester={"pi": (1, 2)})}),
        replace(good, dialect="legacy", submods={"cpu0": replace(cpu, policies=("a", "b"))}),
    ):
        with pytest.raises(VerifierError) as caught:
            claims.encode(bad)
        assert caught.value.reason is Reason.MALFORMED


def test_the_build_is_this_version() -> None:
    """What tokens say of their maker is what the package says of itself."""

    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())

    assert f"ostiary {project['project']['version']}" == claims.BUILD
