"""Whether this broker can judge Sigstore bundles, and what it says if it cannot.

The library is an extra: without it everything works but policies that demand provenance, under
which every request is refused.
"""

from __future__ import annotations

import logging
from typing import Final

from verifier.errors import Reason
from verifier.policy import ReleasePolicy
from verifier.provenance import bundle

_log = logging.getLogger("broker.policies")
LACKING: Final = (
    f"{Reason.PROVENANCE_UNAVAILABLE.value}: the library `sigstore` is not installed: "
    "install ostiary[provenance]"
)


def alarm(policy: ReleasePolicy, tenant: str) -> None:
    """Say at level ERROR if a policy demands provenance that this broker cannot judge.

    Loads the library where it is needed, which takes a while: call it in a thread.
    """
    if policy.appraisal.provenance and not bundle.available():
        _log.error(
            "ALERT %s: until then every request under policy %s of tenant %s is refused",
            *(LACKING, policy.name, tenant),
        )
