"""What a policy demands of provenance: by whom, from where, about which measured digest."""

from __future__ import annotations

import hashlib
import importlib.util
import json

import pytest

from tests.kit import vendors
from tests.kit.vendors import NOW
from verifier import policy as policies
from verifier.appraise import Evidence, appraise
from verifier.errors import Reason, VerifierError
from verifier.policy import AppraisalPolicy, ProvenanceRules, TdxReference
from verifier.provenance.judge import appraise_provenance
from verifier.provenance.signed import MAX_BUNDLES, Provenance
from verifier.provenance.subjects import measured
from verifier.result import Appraisal, Verdict
from verifier.tdx import collateral
from verifier.wire.canonical import Hex

if importlib.util.find_spec("sigstore") is None:
    pytest.skip("extra `provenance` is not installed", allow_module_level=True)

from tests.kit import sigstore as kit

UKI = hashlib.sha256(b"uki").digest()
INITRD = hashlib.sha256(b"initrd").digest()
LAUNCH = hashlib.sha384(b"launch").digest()
IMAGE = hashlib.sha256(b"image").digest()
CLAIMS = {
    "measurement": LAUNCH.hex(),
    "body": {"mr_td": LAUNCH.hex(), "mrenclave": UKI.hex()},
    "boot": {
        "proven": True,
        "complete": True,
        "uki_digest": UKI.hex(),
        "initrd_digest": INITRD.hex(),
        "boot_applications": [UKI.hex(), INITRD.hex()],
        "verity_root_hashes": [UKI.hex()],
        "images": [{"image": "app", "digest": f"sha256:{IMAGE.hex()}"}],
        "runtime": {"compose-hash": INITRD.hex()},
    },
}


def rules(house=None, **changes):
    root = hashlib.sha256((house or kit.instance()).trusted_root()).digest()
    told = {
        "subject": "uki_digest",
        "identity": kit.IDENTITY,
        "issuer": kit.ISSUER,
        "trusted_roots": (Hex(root),),
        "predicate_type": kit.PREDICATE,
        "repository": kit.REPOSITORY,
        "ref": kit.REF,
    }
    return ProvenanceRules(**(told | changes))


def about(*digests, signer=None, **options):
    """Return one bundle about SHA-256 digests."""
    told = [{"name": "x", "digest": {"sha256": each.hex()}} for each in digests]
    made = kit.instance().attest(kit.statement({}, subject=told), signer, **options)
    return kit.raw(made)


def given(*bundles, root=None):
    return Provenance(bundles, root or kit.instance().trusted_root())


def judge(provenance, *wanted, claims=CLAIMS, now=NOW):
    appraisal = Appraisal("test", claims=dict(claims))
    policy = AppraisalPolicy(provenance=wanted or (rules(),))
    appraise_provenance(appraisal, provenance, policy=policy, now=now)
    return appraisal.result()


def test_good():
    """A digest that the named identity attested, from the named source, is accepted and told."""
    result = judge(given(about(UKI)))

    assert Verdict.ACCEPT is result.verdict
    assert f"sha256:{UKI.hex()}" in result.claims["provenance"][0]["digests"]


def test_a_plain_signature_where_no_type_is_named():
    """Without a predicate type a signature over the artefact itself is what counts."""
    made = kit.raw(kit.instance().sign(UKI))

    assert Verdict.ACCEPT is judge(given(made), rules(predicate_type=None)).verdict
    assert judge(given(made)).reasons == (Reason.PROVENANCE_IDENTITY,)
    statement = judge(given(about(UKI)), rules(predicate_type=None))
    assert statement.reasons == (Reason.PROVENANCE_IDENTITY,)


@pytest.mark.parametrize(
    ("signer", "check"),
    [
        ({"repository": "https://github.com/evil/guest-image"}, "repository"),
        ({"repository": f"{kit.REPOSITORY}/"}, "repository"),
        ({"ref": "refs/heads/feature"}, "ref"),
        ({"ref": "refs/tags/v1"}, "ref"),
        ({"issuer": "https://token.evil.example"}, "issuer"),
        ({"issuer": f"{kit.ISSUER}/"}, "issuer"),
        ({"names": (kit.uri(f"{kit.IDENTITY}x"),)}, "identity"),
        ({"names": (kit.uri(kit.IDENTITY[:-1]),)}, "identity"),
        ({"extensions": {12: None}}, "repository"),
        ({"extensions": {14: None}}, "ref"),
    ],
)
def test_somebody_else(signer, check):
    """Another repository, ref, issuer or identity is refused by name, however genuine."""
    result = judge(given(about(UKI, signer=kit.Signer(**signer))))

    assert result.reasons == (Reason.PROVENANCE_IDENTITY,)
    assert [f"provenance.uki_digest.{check}"] == [c.name for c in result.checks if c.ok is False]


def test_another_kind_of_statement():
    """What the right identity says of an artefact as something else does not count."""
    made = kit.instance().attest(
        kit.statement(
            {"sha256": UKI.hex()}, predicate="https://cosign.sigstore.dev/attestation/vuln/v1"
        )
    )

    assert judge(given(kit.raw(made))).reasons == (Reason.PROVENANCE_IDENTITY,)


def test_source_is_optional():
    """A rule without repository and ref takes the identity's word from anywhere."""
    signer = kit.Signer(extensions={12: None, 14: None})

    result = judge(given(about(UKI, signer=signer)), rules(repository=None, ref=None))

    assert Verdict.ACCEPT is result.verdict


def test_another_digest():
    """A genuine bundle about something else is refused, and the digest is named."""
    result = judge(given(about(INITRD)))

    assert result.reasons == (Reason.PROVENANCE_MISSING,)
    assert any(UKI.hex() in check.expected for check in result.checks)


def test_the_same_bytes_under_another_hash():
    """A digest counts only under the hash that it is of."""
    launch = kit.raw(kit.instance().attest(kit.statement({"sha384": LAUNCH.hex()})))

    assert Verdict.ACCEPT is judge(given(launch), rules(subject="measurement")).verdict
    assert Verdict.ACCEPT is judge(given(launch), rules(subject="mr_td")).verdict
    assert judge(given(launch)).reasons == (Reason.PROVENANCE_MISSING,)


def test_every_one_of_several():
    """Of several boot applications each needs its bundle; one may be about many."""
    wanted = rules(subject="boot_applications")

    assert Verdict.ACCEPT is judge(given(about(UKI), about(INITRD)), wanted).verdict
    assert Verdict.ACCEPT is judge(given(about(UKI, INITRD)), wanted).verdict
    assert judge(given(about(UKI)), wanted).reasons == (Reason.PROVENANCE_MISSING,)


def test_several_rules():
    """Each rule is judged; bundles are verified once."""
    wanted = (rules(), rules(subject="images"), rules(subject="runtime.compose-hash"))

    assert Verdict.ACCEPT is judge(given(about(UKI, INITRD, IMAGE)), *wanted).verdict
    assert judge(given(about(UKI, INITRD)), *wanted).reasons == (Reason.PROVENANCE_MISSING,)


def test_the_nearest_is_told():
    """Of bundles that do not fit, the refusal tells how the nearest one differs."""
    far = kit.Signer(ref="x", repository="y")
    near = kit.Signer(ref="x")

    result = judge(given(about(UKI, signer=far), about(UKI, signer=near)))

    assert [c.name for c in result.checks if c.ok is False] == ["provenance.uki_digest.ref"]


def test_one_bad_bundle_denies():
    """A bundle that was given and is not genuine is a refusal, though another one fits."""
    result = judge(given(about(UKI), b"{}"))

    assert result.reasons == (Reason.PROVENANCE_INVALID,)


@pytest.mark.parametrize(
    ("provenance", "reason"),
    [
        (None, Reason.PROVENANCE_MISSING),
        (given(), Reason.PROVENANCE_MISSING),
        (given(*[b"{}"] * (MAX_BUNDLES + 1)), Reason.PROVENANCE_MISSING),
        (given(b"{}", root=b"{}"), Reason.PROVENANCE_ROOT),
        (given(b"{}", root=kit.instance("evil").trusted_root()), Reason.PROVENANCE_ROOT),
    ],
)
def test_nothing_to_judge_by(provenance, reason):
    """No bundle, too many, or a trusted root that the policy does not pin: refused by name."""
    assert (reason,) == judge(provenance).reasons


def test_no_demand():
    """Bundles that no policy asks for are told as not judged, and not looked at."""
    for policy in (None, AppraisalPolicy()):
        appraisal = Appraisal("test")
        appraise_provenance(appraisal, given(b"junk"), policy=policy, now=NOW)
        appraise_provenance(appraisal, None, policy=policy, now=NOW)

        assert [check.ok for check in appraisal.checks] == [None]


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"boot": {**CLAIMS["boot"], "proven": False}}, "uki_digest"),
        ({"boot": {**CLAIMS["boot"], "proven": False}}, "images"),
        ({"boot": {**CLAIMS["boot"], "complete": False}}, "uki_digest"),
        ({"boot": {**CLAIMS["boot"], "uki_digest": None}}, "uki_digest"),
        ({"boot": {**CLAIMS["boot"], "uki_digest": "ab" * 20}}, "uki_digest"),
        ({"boot": {**CLAIMS["boot"], "boot_applications": []}}, "boot_applications"),
        ({"boot": {**CLAIMS["boot"], "boot_applications": [UKI.hex(), "ab"]}}, "boot_applications"),
        ({"boot": {**CLAIMS["boot"], "images": [{"digest": "sha256:zz"}]}}, "images"),
        ({"boot": {**CLAIMS["boot"], "images": [{"digest": "md5:00"}]}}, "images"),
        ({"boot": {**CLAIMS["boot"], "images": []}}, "images"),
        ({"boot": None}, "runtime.compose-hash"),
        ({}, "runtime.other"),
        ({"vtpm": {"boot": CLAIMS["boot"]}, "boot": None}, "uki_digest"),
        ({"measurement": None}, "measurement"),
        ({"body": None}, "mr_td"),
        ({}, "rtmr0"),
    ],
)
def test_nothing_measured(changes, subject):
    """What the evidence does not prove, nobody can have signed."""
    claims = CLAIMS | changes

    assert measured(claims, subject) == ()
    result = judge(given(about(UKI)), rules(subject=subject), claims=claims)
    assert result.reasons == (Reason.PROVENANCE_MISSING,)


def test_images_of_a_runtime_log():
    """Images that a runtime log of its own proves count as those of the boot log do."""
    claims = {"runtime": {"proven": True, "images": CLAIMS["boot"]["images"]}}

    assert measured(claims, "images") == (("sha256", IMAGE),)


@pytest.mark.parametrize(
    "text",
    [
        'subject = "kernel"\nidentity = "x"\nissuer = "y"\ntrusted_roots = ["' + "00" * 32 + '"]',
        'subject = "runtime."\nidentity = "x"\nissuer = "y"\ntrusted_roots = ["' + "00" * 32 + '"]',
        'subject = "images"\nidentity = ""\nissuer = "y"\ntrusted_roots = ["' + "00" * 32 + '"]',
        'subject = "images"\nidentity = "x"\nissuer = ""\ntrusted_roots = ["' + "00" * 32 + '"]',
        'subject = "images"\nidentity = "x"\nissuer = "y"\ntrusted_roots = []',
        'subject = "images"\nidentity = "x"\nissuer = "y"\ntrusted_roots = ["00"]',
        'subject = "images"\nidentity = "x"\nissuer = "y"',
        'subject = "images"\nissuer = "y"\ntrusted_roots = ["' + "00" * 32 + '"]',
    ],
)
def test_rules_that_demand_nothing(text):
    """A rule names a known subject, an identity, an issuer and a root, or is no rule."""
    with pytest.raises(VerifierError) as caught:
        policies.from_toml(f"[[provenance]]\n{text}\n".encode())

    assert Reason.MALFORMED is caught.value.reason


def _policy(body, **changes):
    reference = TdxReference(
        name="guest",
        **{name: Hex(getattr(body, name)) for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")},
    )
    return AppraisalPolicy(provenance=(rules(subject="mr_td", **changes),), reference=(reference,))


def test_with_evidence():
    """A TD whose MRTD was attested is accepted; without the bundle, and by another, it is not."""
    body = vendors.good_body()
    evidence = Evidence("tdx", vendors.good_quote())
    endorsements = collateral.from_json(json.dumps(vendors.good_collateral()).encode())
    made = kit.raw(kit.instance().attest(kit.statement({"sha384": body.mr_td.hex()})))

    def verdict(provenance, **changes):
        return appraise(
            evidence,
            endorsements,
            policy=_policy(body, **changes),
            report_data=None,
            now=NOW,
            provenance=provenance,
            anchors=vendors.anchors(),
        )

    assert Verdict.ACCEPT is verdict(given(made)).verdict
    assert verdict(None).reasons == (Reason.PROVENANCE_MISSING,)
    assert verdict(given(made), ref="refs/tags/v9").reasons == (Reason.PROVENANCE_IDENTITY,)
