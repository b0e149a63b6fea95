"""Hold bundles against what a policy demands of measured digests.

Guarantees: every rule needs, for every digest of its subject, one genuine bundle by exactly the
identity, issuer, source and type that it names, under a root that it pins; a bundle that was given
and is not genuine is a refusal. Nothing measured, nothing given, no library: a refusal by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.policy import AppraisalPolicy, ProvenanceRules
from verifier.provenance import bundle
from verifier.provenance.signed import MAX_BUNDLES, Provenance, Signed
from verifier.provenance.subjects import measured
from verifier.result import Appraisal


def appraise_provenance(
    appraisal: Appraisal,
    provenance: Provenance | None,
    *,
    policy: AppraisalPolicy | None,
    now: int,
    cache: Cache | None = None,
) -> None:
    """Judge the provenance that a policy demands, and record every check as `provenance.…`.

    Args:
        appraisal: of the evidence, whose claims name what was measured.
        provenance: bundles and trusted root; None where none came.
        policy: None, and one that demands nothing, judge nothing.
        now: unix seconds, UTC.
        cache: kept by the caller to verify one bundle under one root once.
    """
    rules = () if policy is None else policy.provenance
    if not rules:
        if provenance is not None:
            count = f"{len(provenance.bundles)} bundles"
            appraisal.not_judged("provenance", count, "the policy demands none")
        return
    signed: Sequence[Signed] | None = None
    for rule in rules:
        name = f"provenance.{rule.subject}"
        digests = measured(appraisal.claims, rule.subject)
        if not appraisal.require(
            f"{name}.measured",
            bool(digests),
            Reason.PROVENANCE_MISSING,
            f"{rule.subject} proven by the evidence",
            " ".join(_text(digest) for digest in digests) or "none",
        ):
            continue
        given = _rooted(appraisal, name, rule, provenance)
        if given is None:
            continue
        if signed is None:
            signed = _genuine(appraisal, given, now=now, cache=cache)
        for digest in digests:
            about = [each for each in signed if digest in each.digests]
            _fits(appraisal, name, rule, _text(digest), about)


def _rooted(
    appraisal: Appraisal, name: str, rule: ProvenanceRules, provenance: Provenance | None
) -> Provenance | None:
    """Return the bundles if there are any, with a trusted root that the rule pins."""
    if provenance is None or not 0 < len(provenance.bundles) <= MAX_BUNDLES:
        count = 0 if provenance is None else len(provenance.bundles)
        appraisal.require(
            f"{name}.bundle", False, Reason.PROVENANCE_MISSING, f"1 to {MAX_BUNDLES} bundles", count
        )
        return None
    root = hashlib.sha256(provenance.trusted_root).digest()
    pinned = appraisal.require(
        f"{name}.trusted_root",
        root in rule.trusted_roots,
        Reason.PROVENANCE_ROOT,
        " or ".join(each.hex() for each in rule.trusted_roots),
        root.hex(),
    )
    return provenance if pinned else None


def _genuine(
    appraisal: Appraisal, provenance: Provenance, *, now: int, cache: Cache | None
) -> tuple[Signed, ...]:
    """Return what the genuine bundles prove; every one that is not is a refusal."""
    found: list[Signed] = []
    for index, raw in enumerate(provenance.bundles):
        try:
            found.append(bundle.verify(raw, provenance.trusted_root, now=now, cache=cache))
        except VerifierError as error:
            appraisal.fail(f"provenance.bundle.{index}", error)
    appraisal.claims["provenance"] = [
        {
            "identity": each.identity,
            "issuer": each.issuer,
            "repository": each.repository,
            "ref": each.ref,
            "predicate_type": each.predicate_type,
            "digests": sorted(map(_text, each.digests)),
            "times": list(each.times),
        }
        for each in found
    ]
    return tuple(found)


def _fits(
    appraisal: Appraisal, name: str, rule: ProvenanceRules, digest: str, about: Sequence[Signed]
) -> None:
    """Require one of the bundles about this digest to be by whom the rule names."""
    wanted = {
        "identity": rule.identity,
        "issuer": rule.issuer,
        "predicate_type": rule.predicate_type,
    }
    wanted |= {
        each: value for each in ("repository", "ref") if (value := getattr(rule, each)) is not None
    }
    if not about:
        appraisal.require(
            f"{name}.bundle", False, Reason.PROVENANCE_MISSING, f"a bundle about {digest}", "none"
        )
        return

    def differs(each: Signed) -> list[str]:
        return [what for what, value in wanted.items() if getattr(each, what) != value]

    nearest = min(about, key=lambda each: len(differs(each)))
    for what in differs(nearest):
        appraisal.require(
            f"{name}.{what}",
            False,
            Reason.PROVENANCE_IDENTITY,
            wanted[what] or "a signature over the artefact itself",
            getattr(nearest, what),
        )
    if not differs(nearest):
        appraisal.require(
            f"{name}.signed", True, Reason.PROVENANCE_IDENTITY, rule.identity, nearest.identity
        )


def _text(digest: tuple[str, bytes]) -> str:
    return f"{digest[0]}:{digest[1].hex()}"
