"""The attestation result: a verdict with every check that led to it.

Guarantees: a result is `accept` only if no check failed and at least one was made; every failed
check has a reason code. Does not decide anything else: what a result may open is the broker's
business. The JSON form is what `ostiary verify … --json` prints and what a release log digests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, final

from verifier.errors import Reason, VerifierError

Claims = Mapping[str, Any]
"""Fields parsed out of evidence: JSON-ready values (str, int, bool, list, dict), hex for bytes."""


@final
class Verdict(StrEnum):
    """Accept, reject, or a kind that this version cannot judge."""

    ACCEPT = "accept"
    REJECT = "reject"
    UNSUPPORTED = "unsupported"


@final
class TcbStatus(StrEnum):
    """TCB status in Intel's spelling (PCS API v4, tcbStatus; QVL adds the two TDRelaunch ones)."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"


@final
@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `ok` is None where there was nothing to judge by."""

    name: str
    ok: bool | None
    expected: str
    seen: str
    reason: Reason | None = None


@final
@dataclass(frozen=True, slots=True)
class AttestationResult:
    """What the verifier says of one piece of evidence.

    `expires` is the earliest end (unix seconds) of anything the verdict rests on; None where none
    was reached. `simulated` is true if the evidence chains to a simulator's root.
    """

    kind: str
    verdict: Verdict
    tcb_status: TcbStatus | None
    advisory_ids: tuple[str, ...]
    reasons: tuple[Reason, ...]
    checks: tuple[Check, ...]
    claims: Claims
    simulated: bool = False
    expires: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: verdict, tcb_status, advisory_ids, reasons, checks, claims, ..."""
        return {
            "kind": self.kind,
            "verdict": self.verdict.value,
            "tcb_status": None if self.tcb_status is None else self.tcb_status.value,
            "advisory_ids": list(self.advisory_ids),
            "reasons": [reason.value for reason in self.reasons],
            "checks": [
                {"name": c.name, "ok": c.ok, "expected": c.expected, "seen": c.seen}
                | ({} if c.reason is None else {"reason": c.reason.value})
                for c in self.checks
            ],
            "claims": dict(self.claims),
            "simulated": self.simulated,
            "expires": self.expires,
        }

    def to_json(self) -> bytes:
        """Return `to_dict` as compact JSON with sorted keys; its SHA-256 names the result."""
        return json.dumps(
            self.to_dict(), separators=(",", ":"), sort_keys=True, ensure_ascii=True
        ).encode()


@final
@dataclass(slots=True)
class Appraisal:
    """Collects checks while evidence is appraised, then makes the result.

    Genuineness stops at the first failure (nothing after it means anything): raise `VerifierError`
    and let `fail` record it. Acceptability does not stop, so one refusal lists every reason.
    """

    kind: str
    checks: list[Check] = field(default_factory=list)
    claims: dict[str, Any] = field(default_factory=dict)
    tcb_status: TcbStatus | None = None
    advisory_ids: tuple[str, ...] = ()
    simulated: bool = False
    expires: int | None = None

    def require(self, name: str, ok: bool, reason: Reason, expected: object, seen: object) -> bool:  # noqa: FBT001 - the outcome is what a check is about
        """Record one check and return whether it held."""
        self.checks.append(Check(name, ok, str(expected), str(seen), None if ok else reason))
        return ok

    def not_judged(self, name: str, seen: object, why: str = "no reference values") -> None:
        """Record a value that nothing was there to judge by."""
        self.checks.append(Check(name, None, f"not judged: {why}", str(seen)))

    def fail(self, name: str, error: VerifierError) -> None:
        """Record the error that stopped the appraisal."""
        self.checks.append(
            Check(name, ok=False, expected="valid", seen=str(error), reason=error.reason)
        )

    def limit(self, expires: int) -> None:
        """Lower `expires` to the end of one more thing that the verdict rests on."""
        self.expires = expires if self.expires is None else min(self.expires, expires)

    def take(self, inner: Appraisal, name: str) -> None:
        """Take over the checks of one part under this name; claims and verdict stay its own."""
        self.checks += [
            Check(f"{name}.{c.name}", c.ok, c.expected, c.seen, c.reason) for c in inner.checks
        ]
        self.simulated |= inner.simulated
        if inner.expires is not None:
            self.limit(inner.expires)

    @contextmanager
    def part(self, name: str, claim: str) -> Iterator[Appraisal]:
        """Give an appraisal of one part, and take it over under these names, whatever happens."""
        inner = Appraisal(name)
        try:
            yield inner
        finally:
            self.checks += [replace(each, name=f"{name}.{each.name}") for each in inner.checks]
            self.claims[claim] = inner.claims
            if inner.tcb_status is not None:
                self.tcb_status = inner.tcb_status
            self.advisory_ids += inner.advisory_ids
            self.simulated |= inner.simulated
            if inner.expires is not None:
                self.limit(inner.expires)

    def result(self) -> AttestationResult:
        """Return the result: accept only if something was judged and nothing failed."""
        reasons = tuple(dict.fromkeys(c.reason for c in self.checks if c.reason is not None))
        judged = any(c.ok for c in self.checks)
        if reasons and set(reasons) <= {Reason.UNSUPPORTED, Reason.GPU_UNSUPPORTED}:
            verdict = Verdict.UNSUPPORTED
        else:
            verdict = Verdict.ACCEPT if judged and not reasons else Verdict.REJECT
        return AttestationResult(
            kind=self.kind,
            verdict=verdict,
            tcb_status=self.tcb_status,
            advisory_ids=self.advisory_ids,
            reasons=reasons,
            checks=tuple(self.checks),
            claims=self.claims,
            simulated=self.simulated,
            expires=self.expires,
        )
