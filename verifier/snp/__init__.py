"""AMD SEV-SNP: `appraise_snp` is the one function to call; read `verify` and `validate` next.

Guarantees: what AMD's keys do not vouch for raises; what they vouch for is held against policy,
with every reason recorded. Does not fetch anything and knows no clock.
"""

from __future__ import annotations

from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.policy import AppraisalPolicy
from verifier.result import Appraisal
from verifier.snp.endorsements import SnpEndorsements
from verifier.snp.validate import validate
from verifier.snp.verify import verify

__all__ = ["SnpEndorsements", "appraise_snp"]


def appraise_snp(
    appraisal: Appraisal,
    report: bytes,
    endorsements: SnpEndorsements | None,
    *,
    policy: AppraisalPolicy | None,
    report_data: bytes | None,
    now: int,
    anchors: Anchors,
    cache: Cache | None,
) -> None:
    """Appraise a SEV-SNP report: genuine first, then acceptable.

    Args:
        appraisal: collects checks, claims and the end of validity.
        report: the 1,184 bytes as the firmware wrote them.
        endorsements: certificates and CRL; None refuses with `collateral_missing`.
        policy: rules and reference values; None takes strict rules and judges no measurement.
        report_data: the 64 bytes that REPORT_DATA must be; None does not judge them.
        now: unix seconds, UTC.
        anchors: the pinned roots.
        cache: chains and CRLs that verified before; None verifies everything.

    Raises:
        VerifierError: the report is not genuine; the reason is the first thing that was wrong.
    """
    genuine = verify(appraisal, report, endorsements, now=now, anchors=anchors, cache=cache)
    validate(appraisal, genuine, policy=policy, report_data=report_data)
