"""The one error that the broker's rooms raise, and its closed list of codes.

Guarantees: every refusal has a stable code. Neither detail nor reasons hold a secret or a payload;
both are for operators, and what a caller sees of them is decided in `broker/http` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import final

from verifier.errors import VerifierError


@final
class Code(StrEnum):
    """Why the broker refused. The values are stable: callers and tests may match on them."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    CHALLENGE_UNKNOWN = "challenge_unknown"
    CHALLENGE_EXPIRED = "challenge_expired"
    CHALLENGE_SPENT = "challenge_spent"
    COLLATERAL_UNAVAILABLE = "collateral_unavailable"
    EVIDENCE_REFUSED = "evidence_refused"
    DENIED = "denied"
    KEY_NOT_ACTIVE = "key_not_active"
    POLICY_ROLLED_BACK = "policy_rolled_back"
    POLICY_INVALID = "policy_invalid"
    STATE_MOVED = "state_moved"
    STATE_MISMATCH = "state_mismatch"
    LEASE_LIMIT = "lease_limit"
    LEASE_ENDED = "lease_ended"
    GPU_IN_USE = "gpu_in_use"
    PROVENANCE_REFUSED = "provenance_refused"
    PROVENANCE_UNAVAILABLE = "provenance_unavailable"
    LOG_UNAVAILABLE = "log_unavailable"
    LOG_ROLLED_BACK = "log_rolled_back"
    HSM_UNAVAILABLE = "hsm_unavailable"
    HSM_REFUSED = "hsm_refused"
    PERMIT_SPENT = "permit_spent"
    DATABASE_UNAVAILABLE = "database_unavailable"
    SETTINGS_INVALID = "settings_invalid"
    INTERNAL = "internal"


class BrokerError(Exception):
    """A refusal: a code for callers, a detail and all the reasons for operators."""

    def __init__(self, code: Code, detail: str, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.reasons = reasons

    def __str__(self) -> str:
        """Return code, detail and reasons in one line, for an operator's log."""
        return "; ".join((f"{self.code.value}: {self.detail}", *self.reasons))


@contextmanager
def refuse_as(code: Code, what: str) -> Iterator[None]:
    """Turn a `VerifierError` inside the block into a `BrokerError` with `code`, naming `what`.

    `VerifierError` texts name fields and digests of public documents only, so they may be reasons.
    """
    try:
        yield
    except VerifierError as error:
        raise BrokerError(code, what, (f"{error.reason.value}: {error}",)) from error
