"""Revocation: a certificate is good by a current statement about exactly it, or it is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.simulator.certificates import name
from tests.kit import nvrim
from tests.kit.nvrim import Rules, answered, endorsed, pair
from tests.kit.vendors import NOW
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import crl, revocation
from verifier.nvgpu.endorsements import MAX_PARTS, GpuEndorsements
from verifier.nvgpu.ocsp import Status
from verifier.nvgpu.revocation import Statement
from verifier.result import Appraisal, Verdict

ROLE = "gh100_ica"
END = NOW - 3600 + nvrim.DAY


def found(*ocsp: bytes, role: Any = ROLE, crls: tuple[bytes, ...] = (), **more: Any) -> Statement:
    now = more.pop("now", NOW)
    return revocation.find(*pair(role), endorsed(*ocsp, crls=crls), now=now, **more)


def refused(reason: Reason, *ocsp: bytes, **more: Any) -> None:
    with pytest.raises(VerifierError) as caught:
        found(*ocsp, **more)
    assert caught.value.reason is reason


def listed(revoked: tuple[int, ...] = (), role: Any = "identity", **more: Any) -> bytes:
    return nvrim.vendor().crl(role, NOW, revoked=revoked, **more)


def test_a_good_answer_counts_in_its_time() -> None:
    """From thisUpdate on and before nextUpdate; not a second more."""
    raw = answered(ROLE)
    assert found(raw) == Statement(Status.GOOD, "ocsp", NOW - 3600, END)
    assert found(raw, now=END - 1).status is Status.GOOD
    assert found(raw, now=NOW - 3600).status is Status.GOOD
    refused(Reason.REVOCATION_EXPIRED, raw, now=END)
    refused(Reason.REVOCATION_INVALID, raw, now=NOW - 3601)


def test_nothing_is_not_good() -> None:
    """No answer, one about another, one that cannot be read or is not signed: none is good."""
    refused(Reason.REVOCATION_MISSING)
    refused(Reason.REVOCATION_MISSING, answered("ls10_ica"))
    refused(Reason.REVOCATION_MISSING, b"rubbish")
    refused(Reason.REVOCATION_INVALID, answered(ROLE, signer="no_right"))
    refused(Reason.REVOCATION_INVALID, answered(ROLE, no_next_update=True))
    refused(Reason.REVOCATION_INVALID, answered(ROLE, next_update=NOW - 3600))


@pytest.mark.parametrize("by", ["sha1", "sha256", "sha384"])
def test_an_answer_counts_by_any_hash(by: str) -> None:
    """NVIDIA's clients ask by SHA-384 and by SHA-1."""
    assert found(answered(ROLE, by=by)).status is Status.GOOD


def test_a_revocation_counts_whatever_else_is_said() -> None:
    """A good answer, a later one, an end of its time: none takes a revocation back."""
    bad = answered(ROLE, status="revoked", at=NOW - 10 * nvrim.DAY)
    good = answered(ROLE)
    for given_ in ((bad,), (bad, good), (good, bad)):
        assert found(*given_).status is Status.REVOKED


def test_a_hold_may_be_lifted() -> None:
    """The latest word counts between hold and good; of two from one moment the hold does."""
    held, lifted = answered(ROLE, status="hold", at=NOW - 600), answered(ROLE)
    assert found(held).status is Status.HOLD
    assert found(answered(ROLE, at=NOW - 7200), held).status is Status.HOLD
    older = answered(ROLE, status="hold", at=NOW - 7200)
    assert found(older, lifted).status is Status.GOOD
    same = answered(ROLE, status="hold")
    assert found(lifted, same).status is found(same, lifted).status is Status.HOLD
    refused(Reason.REVOCATION_EXPIRED, held, now=END)


def test_grace_is_for_good_answers_alone() -> None:
    """A policy may admit a good OCSP answer for a while after its end, and nothing else."""
    late = found(answered(ROLE), now=END + 99, grace=100)
    assert late == Statement(Status.GOOD, "ocsp", NOW - 3600, END, late=True)
    refused(Reason.REVOCATION_EXPIRED, answered(ROLE), now=END + 100, grace=100)
    for status in ("hold", "unknown"):
        refused(Reason.REVOCATION_EXPIRED, answered(ROLE, status=status), now=END + 1, grace=100)
    old = (listed(),)
    refused(Reason.REVOCATION_EXPIRED, crls=old, now=NOW + 89 * nvrim.DAY, grace=100)


def test_an_answer_ends_with_its_responder() -> None:
    """The signer's own certificate bounds what it says."""
    raw = answered(ROLE, next_update=NOW + 900 * nvrim.DAY)
    assert found(raw).next_update == NOW + 700 * nvrim.DAY
    early = answered(ROLE, this_update=NOW - 40 * nvrim.DAY, next_update=NOW + nvrim.DAY)
    assert found(early).this_update == NOW - 30 * nvrim.DAY


def test_a_list_counts_for_ca_levels_alone() -> None:
    """Where there is no OCSP answer the issuer's list counts, if the certificate names one."""
    good = found(crls=(listed(),))
    assert (good.status, good.source) == (Status.GOOD, "crl")
    serial = nvrim.vendor().serial(ROLE)
    assert found(crls=(listed((serial,)),)).status is Status.REVOKED
    assert found(crls=(listed((serial,), reason=6),)).status is Status.HOLD
    assert not crl.is_published_for(nvrim.certificate("gh100_rim_l3"))
    refused(
        Reason.REVOCATION_MISSING,
        role="gh100_rim_l3",
        crls=(nvrim.vendor().crl("gh100_rim_ca", NOW),),
    )


def test_an_answer_is_better_than_a_list() -> None:
    """A current OCSP answer counts before a list, but a revocation in either one denies."""
    serial = nvrim.vendor().serial(ROLE)
    assert found(answered(ROLE), crls=(listed(),)).source == "ocsp"
    assert found(answered(ROLE), crls=(listed((serial,), reason=6),)).status is Status.GOOD
    assert found(answered(ROLE), crls=(listed((serial,)),)).status is Status.REVOKED


def test_a_list_of_another_is_none() -> None:
    """Another CA's list, a forged one, and one out of time do not count."""
    refused(Reason.REVOCATION_MISSING, crls=(listed(role="device_root"),))
    refused(Reason.CRL_INVALID, crls=(listed(signed_by="device_root"),))
    refused(Reason.CRL_INVALID, crls=(b"rubbish",))
    refused(Reason.REVOCATION_EXPIRED, crls=(listed(next_update=NOW),))
    refused(Reason.REVOCATION_INVALID, crls=(listed(this_update=NOW + 1),))
    with_all = (b"rubbish", listed(role="device_root"), listed())
    assert found(crls=with_all).source == "crl"


def test_a_list_entry_without_a_reason_is_a_revocation() -> None:
    """Only a hold that is named as one is a hold."""
    at = datetime.fromtimestamp(NOW, UTC).replace(tzinfo=None)
    entry = x509.RevokedCertificateBuilder().serial_number(nvrim.vendor().serial(ROLE))
    built = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(nvrim.certificate("identity").subject)
        .last_update(at)
        .next_update(at + timedelta(days=1))
        .add_revoked_certificate(entry.revocation_date(at).build())
        .sign(nvrim.vendor().keys["identity"], hashes.SHA384())
    )
    raw = built.public_bytes(Encoding.DER)
    assert found(crls=(raw,)).status is Status.REVOKED


def test_a_cache_changes_nothing() -> None:
    """The second time the same comes out of it, for answers and for lists."""
    cache = Cache()
    for more in ({"crls": (listed(),)}, {}):
        raws = () if more else (answered(ROLE),)
        first = found(*raws, cache=cache, **more)
        assert first == found(*raws, cache=cache, **more) == found(*raws, **more)
    serial = nvrim.vendor().serial(ROLE)
    assert found(crls=(listed((serial,)),), cache=cache).status is Status.REVOKED


def judged(
    *ocsp: bytes,
    roles: tuple[Any, ...] = (ROLE,),
    rules: Rules | None = None,
    now: int = NOW,
    rim: bool = False,
) -> tuple[Appraisal, tuple[Any, ...]]:
    appraisal = Appraisal("gpu")
    claims = revocation.judge(
        appraisal,
        "revocation",
        [pair(role) for role in roles],
        endorsed(*ocsp),
        rules or Rules(),
        now=now,
        rim=rim,
    )
    return appraisal, claims


def test_a_judgement_names_each_certificate() -> None:
    """One check says that all are good; each that is not has its own, by name."""
    both = ("identity", ROLE)
    appraisal, claims = judged(answered(ROLE), answered("identity"), roles=both)
    assert appraisal.result().verdict is Verdict.ACCEPT
    assert [check.name for check in appraisal.checks] == ["revocation"]
    assert [claim["certificate"] for claim in claims] == [
        "NVIDIA GH100 Identity",
        "NVIDIA GH100 Provisioner ICA 1",
    ]
    assert claims[0]["status"] == "good"
    assert appraisal.expires == END
    bad, _ = judged(answered(ROLE, status="revoked"), answered("identity"), roles=both)
    assert bad.result().reasons == (Reason.CERTIFICATE_REVOKED,)
    assert "Provisioner" in bad.checks[0].name


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("revoked", Reason.CERTIFICATE_REVOKED),
        ("hold", Reason.CERTIFICATE_HOLD),
        ("unknown", Reason.REVOCATION_MISSING),
    ],
)
def test_what_is_not_good_denies(status: str, reason: Reason) -> None:
    """Revoked, on hold and unknown each deny by a reason of their own, at every level."""
    for rim in (False, True):
        appraisal, _ = judged(answered(ROLE, status=status), rim=rim)
        assert appraisal.result().reasons == (reason,)


def test_a_hold_may_be_admitted_for_rims_alone() -> None:
    """`allow_hold_rim` admits a RIM signer on hold, says so, and never admits a device."""
    rules = Rules(allow_hold_rim=True)
    held = answered(ROLE, status="hold")
    admitted, _ = judged(held, rules=rules, rim=True)
    assert admitted.result().verdict is Verdict.ACCEPT
    assert "certificateHold" in admitted.checks[0].seen
    assert judged(held, rules=rules)[0].result().reasons == (Reason.CERTIFICATE_HOLD,)
    revoked = answered(ROLE, status="revoked")
    assert judged(revoked, rules=rules, rim=True)[0].result().verdict is Verdict.REJECT


def test_what_nobody_speaks_of_denies_unless_policy_asks_for_nothing() -> None:
    """Without an answer the default denies; a policy that asks for none still hears a bad one."""
    assert judged()[0].result().reasons == (Reason.REVOCATION_MISSING,)
    lax = Rules(require_revocation=False)
    silent, _ = judged(rules=lax)
    assert [check.ok for check in silent.checks] == [None]
    assert silent.result().verdict is Verdict.REJECT  # nothing was judged
    bad, _ = judged(answered(ROLE, status="revoked"), rules=lax)
    assert bad.result().reasons == (Reason.CERTIFICATE_REVOKED,)
    stale, _ = judged(answered(ROLE), rules=lax, now=END)
    assert stale.result().reasons == (Reason.REVOCATION_EXPIRED,)


def test_a_late_answer_is_told() -> None:
    """Within a policy's grace a check says that it is late, and the result ends with the grace."""
    appraisal, _ = judged(answered(ROLE), rules=Rules(ocsp_grace=100), now=END + 1)
    assert appraisal.result().verdict is Verdict.ACCEPT
    assert "late" in appraisal.checks[0].seen
    assert appraisal.expires == END + 100


def test_no_subjects_are_no_good_ones() -> None:
    """A judgement of nothing is not a good one."""
    assert judged(roles=())[0].result().reasons == (Reason.REVOCATION_MISSING,)


def test_a_certificate_without_a_name_is_told_by_its_number() -> None:
    """Where there is no common name the serial number stands for it."""
    fake = nvrim.vendor().reissue(ROLE, subject=name(("O", "x")))
    certificate = x509.load_der_x509_certificate(fake.certificates[ROLE])
    appraisal = Appraisal("gpu")
    revocation.judge(
        appraisal,
        "revocation",
        [(certificate, nvrim.certificate("identity"))],
        endorsed(),
        Rules(),
        now=NOW,
    )
    assert f"serial {certificate.serial_number:x}" in appraisal.checks[0].name


@given(st.lists(st.binary(max_size=40), max_size=4), st.lists(st.binary(max_size=40), max_size=4))
@settings(max_examples=50, deadline=None)
def test_endorsements_read_back(rims: list[bytes], ocsp: list[bytes]) -> None:
    """Printing and reading endorsements is the identity, and their digest is of the bytes."""
    first = GpuEndorsements(tuple(rims), tuple(ocsp), (b"crl",))
    assert GpuEndorsements.from_bytes(first.to_bytes()) == first
    assert first.digest == GpuEndorsements.from_bytes(first.to_bytes()).digest


@given(st.binary(max_size=60))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_endorsements_or_refused(raw: bytes) -> None:
    """Nothing but our error leaves the reader, and what it takes it gives back."""
    try:
        assert GpuEndorsements.from_bytes(raw).to_bytes() == raw
    except VerifierError as error:
        assert error.reason is Reason.MALFORMED  # noqa: PT017 - both ends are right


def test_a_number_of_endorsements_is_bounded() -> None:
    """More than a set can need is refused."""
    with pytest.raises(VerifierError) as caught:
        GpuEndorsements(ocsp=(b"",) * (MAX_PARTS + 1))
    assert caught.value.reason is Reason.TOO_LARGE
