"""Is a genuine SGX quote acceptable? Attributes, TCB status, identity and report data.

Guarantees: every rule is judged and listed, so that one refusal tells every reason; without a
policy the strict defaults hold. Says nothing about signatures: its input is `Genuine`.

Source: Intel SGX SDM (ATTRIBUTES, XFRM, REPORT); PCS API v4 (TCB status).
"""

from __future__ import annotations

import functools
from typing import Final

from verifier.errors import Reason
from verifier.policy import AppraisalPolicy, SgxReference, SgxRules
from verifier.result import Appraisal
from verifier.tdx import platform
from verifier.tdx.body import EnclaveReport
from verifier.tdx.verify import Genuine

# ATTRIBUTES: 64 flags, then XFRM with 64 bits of its own.
INIT: Final = 1 << 0
DEBUG: Final = 1 << 1
MODE64BIT: Final = 1 << 2
PROVISIONKEY: Final = 1 << 4
EINITTOKEN_KEY: Final = 1 << 5
CET: Final = 1 << 6
KSS: Final = 1 << 7
AEXNOTIFY: Final = 1 << 10
KNOWN: Final = INIT | DEBUG | MODE64BIT | PROVISIONKEY | EINITTOKEN_KEY | CET | KSS | AEXNOTIFY

XFRM_FIXED_1: Final = 0x3


def validate(
    appraisal: Appraisal,
    genuine: Genuine[EnclaveReport],
    *,
    policy: AppraisalPolicy | None,
    report_data: bytes | None,
    now: int,
) -> None:
    """Judge a genuine quote and record every check.

    Args:
        appraisal: takes the checks.
        genuine: what `verify` returned.
        policy: rules and reference values; None is strict rules and no reference values.
        report_data: the 64 bytes that REPORTDATA must be; None is not judged.
        now: unix seconds, UTC.
    """
    rules = SgxRules() if policy is None else policy.sgx
    body = genuine.quote.body
    platform.validate(appraisal, genuine, rules, now)
    _attributes(appraisal, body, rules)
    _identity(appraisal, body, policy)
    platform.report_data(appraisal, body.reportdata, report_data)


def _attributes(appraisal: Appraisal, body: EnclaveReport, rules: SgxRules) -> None:
    flags = int.from_bytes(body.attributes[:8], "little")
    xfrm = int.from_bytes(body.attributes[8:], "little")
    seen = f"{flags:#x}"
    appraisal.require(
        "attributes.debug",
        rules.allow_debug or not flags & DEBUG,
        Reason.DEBUG_ENABLED,
        "allowed" if rules.allow_debug else "DEBUG (bit 1) clear",
        seen,
    )
    appraisal.require(
        "attributes.init",
        bool(flags & INIT),
        Reason.ATTRIBUTES_REFUSED,
        "INIT (bit 0) set",
        seen,
    )
    appraisal.require(
        "attributes.provisioning",
        rules.allow_provisioning or not flags & (PROVISIONKEY | EINITTOKEN_KEY),
        Reason.ATTRIBUTES_REFUSED,
        "allowed" if rules.allow_provisioning else "PROVISIONKEY, EINITTOKEN_KEY (4, 5) clear",
        seen,
    )
    appraisal.require(
        "attributes.reserved",
        not flags & ~KNOWN,
        Reason.ATTRIBUTES_REFUSED,
        f"none outside {KNOWN:#x}",
        seen,
    )
    appraisal.require(
        "attributes.xfrm",
        xfrm & XFRM_FIXED_1 == XFRM_FIXED_1,
        Reason.ATTRIBUTES_REFUSED,
        "bits 0 and 1 set",
        f"{xfrm:#x}",
    )


def _identity(appraisal: Appraisal, body: EnclaveReport, policy: AppraisalPolicy | None) -> None:
    """Require one whole reference; where none fits, tell how the nearest one differs."""
    if policy is None:
        appraisal.not_judged("identity", f"mrenclave {body.mrenclave.hex()}")
        return
    references = policy.candidates(SgxReference, functools.partial(getattr, body))
    if not references:
        appraisal.require(
            "identity", False, Reason.NO_REFERENCE_VALUES, "an sgx reference in the policy", "none"
        )
        return
    nearest = min(references, key=lambda reference: len(_differences(reference, body)))
    differences = _differences(nearest, body)
    if not differences:
        appraisal.require("identity", True, Reason.MEASUREMENT_UNKNOWN, nearest.name, nearest.name)
    for field, expected, seen in differences:
        reason = Reason.TCB_BELOW_MINIMUM if field == "isvsvn" else Reason.MEASUREMENT_UNKNOWN
        appraisal.require(f"{field} of {nearest.name}", False, reason, expected, seen)


def _differences(reference: SgxReference, body: EnclaveReport) -> list[tuple[str, str, str]]:
    """Return name, expected and seen of each value that is given and differs."""
    found = [
        (name, expected.hex(), seen.hex())
        for name, expected, seen in (
            ("mrenclave", reference.mrenclave, body.mrenclave),
            ("mrsigner", reference.mrsigner, body.mrsigner),
        )
        if expected is not None and expected != seen
    ]
    if reference.isvprodid is not None and reference.isvprodid != body.isvprodid:
        found.append(("isvprodid", str(reference.isvprodid), str(body.isvprodid)))
    if body.isvsvn < reference.min_isvsvn:
        found.append(("isvsvn", f"at least {reference.min_isvsvn}", str(body.isvsvn)))
    return found
