"""The one error of the HSM worker and its client, and its closed list of reasons.

Guarantees: neither reason nor detail holds a secret or a payload; a detail may be shown to
operators, not to callers.
"""

from __future__ import annotations

from enum import StrEnum
from typing import final


@final
class HsmReason(StrEnum):
    """Why the worker did not do it. The values are stable."""

    UNAVAILABLE = "unavailable"
    """The worker is not there, ended, was too slow, or lost its token. May be tried again."""
    REFUSED = "refused"
    """A rule forbids it: a signature, a proof, a state or a leaf is not as it must be."""
    PERMIT_SPENT = "permit_spent"
    """This leaf was released on before."""
    STATE_MOVED = "state_moved"
    """A change leaf came after the release leaf; decide again."""
    HEAD_MISMATCH = "head_mismatch"
    """The log's head is not where the caller thinks; `HsmError.size` says where it is."""
    MALFORMED = "malformed"
    """The bytes are not what they should be, whoever signed them."""
    NOT_FOUND = "not_found"
    """No such tenant, import key or object."""
    EXISTS = "exists"
    """It is there already, and is not made twice."""
    UNSUPPORTED = "unsupported"
    """The token lacks a mechanism, which the detail names, or no PKCS#11 module was found."""
    TOKEN_MISSING = "token_missing"  # noqa: S105 - a reason, not a password
    """A home that once had a token has none now. Fatal: restore it, never make a new one."""
    STATE_MISSING = "state_missing"
    """The token stands but the worker's own database is gone. Fatal: restore it."""
    WRONG_MODE = "wrong_mode"
    """The token is simulated and the worker is not, or the other way round."""
    SELF_TEST = "self_test"
    """The token allowed what must be forbidden, or a key is badly made. Nothing is served."""


@final
class HsmError(Exception):
    """What the HSM worker refused or failed to do.

    `size` is the size of the log that the worker knows; set for `head_mismatch` alone.
    """

    def __init__(self, reason: HsmReason, detail: str, size: int | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.size = size
