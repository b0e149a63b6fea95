"""What a vendor hands in about who built what a policy admits: Sigstore bundles and their root.

Guarantees: a set leaves this machine only for a policy that demands provenance, under a root that
every one of its rules pins, and, where the library `sigstore` is at hand, with every bundle
verified. The broker verifies again, and judges identity and source at every release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import reduce
from typing import Final

from ostiary import clock
from ostiary.client import ClientError
from verifier.errors import Reason, VerifierError
from verifier.policy import AppraisalPolicy, ProvenanceRules
from verifier.provenance import bundle, stored
from verifier.provenance.signed import Provenance

REMINDER: Final = (
    "the policy demands provenance: hand the Sigstore bundles in with it (ostiary policy push … "
    "--provenance F… --trusted-root F), to a broker that has the extra `provenance`; without "
    "either every request is refused"
)
_NO_COMMON_ROOT: Final = (
    "[[appraisal.provenance]]: no trusted root that all rules pin, and bundles come with one: this "
    "policy refuses every machine"
)


def lint(rules: Sequence[ProvenanceRules]) -> list[str]:
    """Return what a careful reader would object to."""
    if rules and not common_roots(rules):
        return [_NO_COMMON_ROOT]
    return []


def common_roots(rules: Sequence[ProvenanceRules]) -> set[bytes]:
    """Return the trusted roots (SHA-256) that all of these rules pin, of which there is one."""
    pinned = [{bytes(root) for root in rule.trusted_roots} for rule in rules]
    return reduce(set.intersection, pinned)


def prepare(policy: AppraisalPolicy, given: Provenance) -> bytes:
    """Return the set for a policy as it is sent.

    Raises:
        ClientError: `arguments` if the policy demands none.
        VerifierError: `provenance_root` for a root that a rule does not pin, `provenance_invalid`
            for a bundle that is not genuine, `malformed` or `too_large`.
    """
    rules = policy.provenance
    if not rules:
        raise ClientError("arguments", "the policy demands no provenance, so none is looked at")
    root = hashlib.sha256(given.trusted_root).digest()
    if root not in common_roots(rules):
        raise VerifierError(
            Reason.PROVENANCE_ROOT, f"trusted root {root.hex()} is not pinned by every rule"
        )
    for raw in given.bundles:
        try:
            bundle.verify(raw, given.trusted_root, now=clock.now())
        except VerifierError as error:
            if error.reason is Reason.PROVENANCE_UNAVAILABLE:
                break  # the broker has the library, or says that it has not
            raise
    return stored.encode(given)
