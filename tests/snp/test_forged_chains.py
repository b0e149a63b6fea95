"""Forged chains, CRLs and cached ones: nothing but what AMD would issue is believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ostiary.simulator import certificates as issue
from ostiary.simulator import der
from tests.kit.snp import appraise, splice
from tests.kit.snp_forge import (
    ARC,
    DAY,
    NOW,
    Evidence,
    Forge,
    amd_name,
    ark,
    ca_extensions,
    pinned,
    rsa_key,
)
from tests.kit.snp_judge import every_forge, judge, one_of_each
from verifier.anchors import PINNED
from verifier.cache import Cache
from verifier.errors import Reason
from verifier.result import Verdict
from verifier.snp.chain import Chain, Issuers
from verifier.snp.product import MILAN, TURIN
from verifier.x509 import fingerprint, load_der


@every_forge
def test_forged_root(forge: Forge) -> None:
    """With the real roots only, the same evidence is refused by its root."""
    result = judge(forge.evidence(), anchors=PINNED)

    assert result.reasons == (Reason.ROOT_UNKNOWN,)
    assert not result.simulated


def test_root_of_another_product() -> None:
    """A root that is pinned for one product vouches for no other."""
    anchors = replace(pinned(), amd={"Milan": pinned().amd["Genoa"]})

    assert judge(Forge(MILAN).evidence(), anchors=anchors).reasons == (Reason.ROOT_UNKNOWN,)
    assert judge(Forge(TURIN).evidence(), anchors=anchors).reasons == (Reason.ROOT_UNKNOWN,)


# Chains that are not AMD's. The pinned ARK is the good one in each.
CA_USAGE = (issue.KEY_CERT_SIGN, issue.CRL_SIGN)
UNKNOWN_CRITICAL = issue.Extension("1.2.3.4", der.null(), critical=True)
P256 = ec.generate_private_key(ec.SECP256R1())

CHAINS: dict[str, tuple[Callable[[Forge], Evidence], Reason]] = {
    "another ARK of the same name": (
        lambda f: f.evidence(
            ark_changes={"spki": issue.spki_of(rsa_key("evil").public_key())},
            ark_key="evil",
            ask_key="evil",
            crl={"key": "evil"},
        ),
        Reason.ROOT_UNKNOWN,
    ),
    "the pinned ARK issued anew": (lambda f: f.evidence(ark_changes={}), Reason.ROOT_UNKNOWN),
    "ASK signed by another key": (lambda f: f.evidence(ask_key="evil"), Reason.CHAIN_INVALID),
    "ASK by another issuer": (
        lambda f: f.evidence(ask_changes={"issuer": amd_name("ARK-Other")}),
        Reason.CHAIN_INVALID,
    ),
    "ASK with another key": (
        lambda f: f.evidence(ask_changes={"spki": issue.spki_of(rsa_key("evil").public_key())}),
        Reason.CHAIN_INVALID,
    ),
    "ASK that is no CA": (
        lambda f: f.evidence(
            ask_changes={"extensions": ca_extensions(ca=False, usage=(issue.KEY_CERT_SIGN,))}
        ),
        Reason.CHAIN_INVALID,
    ),
    "ASK that may not sign certificates": (
        lambda f: f.evidence(
            ask_changes={"extensions": ca_extensions(usage=(issue.DIGITAL_SIGNATURE,))}
        ),
        Reason.CHAIN_INVALID,
    ),
    "ASK without extensions": (
        lambda f: f.evidence(
            ask_changes={"extensions": (issue.subject_key_id(f.ask_body().spki),)}
        ),
        Reason.CHAIN_INVALID,
    ),
    "ASK with RSA-2048": (
        lambda f: f.evidence(
            ask_changes={"spki": issue.spki_of(rsa_key("small").public_key())},
            vek_key="small",
        ),
        Reason.CHAIN_INVALID,
    ),
    "ASK with an EC key": (
        lambda f: f.evidence(ask_changes={"spki": f.vek_body({}).spki}),
        Reason.CHAIN_INVALID,
    ),
    "VEK signed by another key": (lambda f: f.evidence(vek_key="evil"), Reason.CHAIN_INVALID),
    "VEK signed by the ARK": (
        lambda f: f.evidence(vek_changes={"issuer": amd_name(f"ARK-{f.product}")}, vek_key="ark"),
        Reason.CHAIN_INVALID,
    ),
    "VEK that is a CA": (
        lambda f: f.evidence(
            vek_changes={
                "extensions": (
                    *f.vek_body(f.vek_values()).extensions,
                    issue.basic_constraints(ca=True),
                )
            }
        ),
        Reason.CHAIN_INVALID,
    ),
    "VEK on P-256": (
        lambda f: f.evidence(vek_changes={"spki": issue.spki_of(P256.public_key())}),
        Reason.CHAIN_INVALID,
    ),
    "VEK with RSA": (
        lambda f: f.evidence(vek_changes={"spki": f.ask_body().spki}),
        Reason.CHAIN_INVALID,
    ),
    "VEK with an unknown critical extension": (
        lambda f: f.evidence(
            vek_changes={"extensions": (*f.vek_body(f.vek_values()).extensions, UNKNOWN_CRITICAL)}
        ),
        Reason.CERTIFICATE_INVALID,
    ),
    "VEK with critical TCB": (
        lambda f: f.evidence(
            vek_values={"3.3": None},
            vek_changes={
                "extensions": (
                    *f.vek_body({k: v for k, v in f.vek_values().items() if k != "3.3"}).extensions,
                    issue.Extension(ARC + "3.3", f.vek_values()["3.3"], critical=True),
                )
            },
        ),
        Reason.CERTIFICATE_INVALID,
    ),
    "VEK with one extension twice": (
        lambda f: f.evidence(vek_changes={"extensions": f.vek_body(f.vek_values()).extensions * 2}),
        Reason.CERTIFICATE_INVALID,
    ),
    "VEK of X.509 v1": (
        lambda f: f.evidence(vek_changes={"version": 1}),
        Reason.CERTIFICATE_INVALID,
    ),
    "ASK with an unknown critical extension": (
        lambda f: f.evidence(
            ask_changes={"extensions": (*f.ask_body().extensions, UNKNOWN_CRITICAL)}
        ),
        Reason.CERTIFICATE_INVALID,
    ),
    "VEK expired by a second": (
        lambda f: f.evidence(vek_changes={"not_after": NOW - 1}),
        Reason.CERTIFICATE_EXPIRED,
    ),
    "VEK valid in a second": (
        lambda f: f.evidence(vek_changes={"not_before": NOW + 1}),
        Reason.CERTIFICATE_INVALID,
    ),
    "ASK expired by a second": (
        lambda f: f.evidence(ask_changes={"not_after": NOW - 1}),
        Reason.CERTIFICATE_EXPIRED,
    ),
    "ASK valid in a second": (
        lambda f: f.evidence(ask_changes={"not_before": NOW + 1}),
        Reason.CERTIFICATE_INVALID,
    ),
}


@one_of_each
@pytest.mark.parametrize("shape", CHAINS)
def test_chains(forge: Forge, shape: str) -> None:
    """A chain that is not exactly AMD's is refused."""
    build, reason = CHAINS[shape]

    assert judge(build(forge)).reasons == (reason,)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"not_after": NOW - 1}, Reason.CERTIFICATE_EXPIRED),
        ({"not_before": NOW + 1}, Reason.CERTIFICATE_INVALID),
        ({"extensions": ca_extensions(ca=False, usage=CA_USAGE)}, Reason.CHAIN_INVALID),
        ({"extensions": ca_extensions(path_length=0, usage=CA_USAGE)}, Reason.CHAIN_INVALID),
        ({"issuer": amd_name("ARK-Other")}, Reason.CHAIN_INVALID),
    ],
)
def test_pinned_root_is_checked_too(changes: dict[str, Any], reason: Reason) -> None:
    """A pin alone does not make a root: it must be valid, a CA, and issued by itself."""
    evidence = Forge(MILAN).evidence(ark_changes=changes)
    anchors = pinned()
    pin = fingerprint(load_der(evidence.endorsements.ark, "ARK"))
    anchors = anchors.with_simulated(amd={"Milan": pin})

    assert judge(evidence, anchors=anchors).reasons == (reason,)


def test_pinned_root_with_a_short_key() -> None:
    """A root of RSA-2048 is not AMD's, however it came to be pinned."""
    evidence = Forge(MILAN).evidence(
        ark_changes={"spki": issue.spki_of(rsa_key("small").public_key())},
        ark_key="small",
        ask_key="small",
        crl={"key": "small"},
    )
    pin = fingerprint(load_der(evidence.endorsements.ark, "ARK"))

    result = judge(evidence, anchors=pinned().with_simulated(amd={"Milan": pin}))

    assert result.reasons == (Reason.CHAIN_INVALID,)


CRLS: dict[str, tuple[dict[str, Any], Reason | None]] = {
    "last second": ({"next_update": NOW}, None),
    "first second": ({"this_update": NOW}, None),
    "expired by a second": ({"next_update": NOW - 1}, Reason.CRL_EXPIRED),
    "issued in a second": ({"this_update": NOW + 1}, Reason.CRL_INVALID),
    "without nextUpdate": ({"next_update": None}, Reason.CRL_INVALID),
    "of another product": ({"issuer": "ARK-Other"}, Reason.CRL_INVALID),
    "signed by another key": ({"key": "evil"}, Reason.CRL_INVALID),
    "signed by the ASK": ({"key": "ask"}, Reason.CRL_INVALID),
    "with an unknown critical extension": (
        {"extensions": (UNKNOWN_CRITICAL,)},
        Reason.CRL_INVALID,
    ),
    "lists the ASK": ({"revoked": [0x10001]}, Reason.CERTIFICATE_REVOKED),
    "lists the ASK among others": ({"revoked": [5, 0x10001, 7]}, Reason.CERTIFICATE_REVOKED),
    "lists the ARK": ({"revoked": [0x10000]}, Reason.CERTIFICATE_REVOKED),
    "lists others": ({"revoked": [1, 0x10002]}, None),
    # The CRL speaks of what the ARK issued: a serial 0 there is no VEK, all of which have it.
    "lists serial 0": ({"revoked": [0]}, None),
}


@one_of_each
@pytest.mark.parametrize("shape", CRLS)
def test_crls(forge: Forge, shape: str) -> None:
    """The CRL is the ARK's own, current, and lists neither ARK nor ASK."""
    changes, reason = CRLS[shape]

    result = judge(forge.evidence(crl=changes))

    assert result.reasons == (() if reason is None else (reason,))


@every_forge
def test_missing_crl(forge: Forge) -> None:
    """Without a CRL the report is refused; a waiver is honoured and shown."""
    evidence = forge.evidence(with_crl=False)
    waived = replace(evidence, endorsements=replace(evidence.endorsements, crl_required=False))

    assert judge(evidence).reasons == (Reason.CRL_MISSING,)
    result = judge(waived)
    assert result.verdict is Verdict.ACCEPT
    assert any("--no-crl" in check.expected for check in result.checks if check.ok is None)


def test_waiver_does_not_excuse_a_bad_crl() -> None:
    """A CRL that is there is judged, whether it was required or not."""
    evidence = Forge(MILAN).evidence(crl={"revoked": [0x10001]})
    waived = replace(evidence, endorsements=replace(evidence.endorsements, crl_required=False))

    assert judge(waived).reasons == (Reason.CERTIFICATE_REVOKED,)


def test_no_collateral() -> None:
    """Without endorsements a report is refused, with its claims shown."""
    evidence = Forge(MILAN).evidence()

    result = appraise(evidence.report, None, now=NOW)

    assert result.reasons == (Reason.COLLATERAL_MISSING,)
    assert result.claims["measurement"] == "0e" * 48


@pytest.mark.parametrize("part", ["vek", "ask", "crl"])
def test_unused_bits_of_a_signature(part: str) -> None:
    """A signature's BIT STRING uses all its bits: no second spelling is believed."""
    forge = Forge(MILAN)
    evidence = forge.evidence()
    while getattr(evidence.endorsements, part)[-1] & 1:
        evidence = forge.evidence()
    raw = getattr(evidence.endorsements, part)
    # The byte in front of RSA-4096's 512 says how many of the last byte's bits do not count.
    changes: dict[str, Any] = {part: splice(raw, len(raw) - 513, b"\x01")}
    loose = replace(evidence, endorsements=replace(evidence.endorsements, **changes))

    result = judge(loose)

    assert judge(evidence).verdict is Verdict.ACCEPT
    assert result.reasons in ((Reason.CERTIFICATE_INVALID,), (Reason.CRL_INVALID,))


@pytest.mark.parametrize("part", ["vek", "ask", "ark", "crl"])
@pytest.mark.parametrize("raw", [b"", b"0", b"-----BEGIN CERTIFICATE-----", bytes(2000)])
def test_garbage_collateral(part: str, raw: bytes) -> None:
    """Collateral that is no DER is our error, nothing else's."""
    evidence = Forge(MILAN).evidence()
    changes: dict[str, Any] = {part: raw}
    endorsements = replace(evidence.endorsements, **changes)

    result = judge(replace(evidence, endorsements=endorsements))

    wanted = Reason.CRL_INVALID if part == "crl" else Reason.CERTIFICATE_INVALID
    assert result.reasons == (wanted,)


@one_of_each
def test_cache_keeps_no_verdict(forge: Forge) -> None:
    """A remembered chain is still dated, pinned and looked up in the CRL on every call."""
    cache = Cache()
    evidence = forge.evidence()
    revoked = replace(
        evidence, endorsements=replace(evidence.endorsements, crl=forge.crl(revoked=[0x10001]))
    )
    no_crl = replace(evidence, endorsements=replace(evidence.endorsements, crl=None))

    for _ in range(2):
        assert judge(evidence, cache=cache).verdict is Verdict.ACCEPT
        assert judge(revoked, cache=cache).reasons == (Reason.CERTIFICATE_REVOKED,)
        assert judge(no_crl, cache=cache).reasons == (Reason.CRL_MISSING,)
        assert judge(evidence, cache=cache, anchors=PINNED).reasons == (Reason.ROOT_UNKNOWN,)
        late = judge(evidence, cache=cache, now=NOW + 31 * DAY)
        assert late.reasons == (Reason.CRL_EXPIRED,)
        later = judge(evidence, cache=cache, now=NOW + 366 * DAY)
        assert later.reasons == (Reason.CERTIFICATE_EXPIRED,)


def test_cache_keeps_only_what_verified() -> None:
    """A chain or CRL that was refused leaves nothing behind."""
    cache = Cache()
    forge = Forge(MILAN)

    for evidence in (
        forge.evidence(vek_key="evil"),
        forge.evidence(ark_changes={}),
        forge.evidence(vek_changes={"subject": amd_name("VCEK")}),
    ):
        judge(evidence, cache=cache)
        assert Chain not in kinds(cache)
    judge(forge.evidence(crl={"key": "evil"}), cache=cache)
    assert kinds(cache) == [Chain, Issuers]


def kinds(cache: Cache) -> list[type]:
    return sorted({kind for kind, _ in cache._entries}, key=lambda kind: kind.__name__)


def test_issuers_are_remembered_by_themselves() -> None:
    """ARK and ASK are checked once for all chips, and not taken from a chain that failed."""
    cache = Cache()
    forge = Forge(MILAN)

    judge(forge.evidence(ark_changes={}), cache=cache, anchors=PINNED)
    judge(forge.evidence(ask_key="evil"), cache=cache)
    assert not kinds(cache)
    judge(forge.evidence(vek_key="evil"), cache=cache)
    assert kinds(cache) == [Issuers]


def test_real_root_of_the_fake_name() -> None:
    """The forged roots are not the real ones: no test here leans on a real pin."""
    real = {pin for pins in PINNED.amd.values() for pin in pins}
    fake = pinned().simulated

    assert len(fake) == 3
    assert not real & fake
    assert len({ark(product) for product in PINNED.amd}) == 3
