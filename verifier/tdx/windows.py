"""Validity windows of everything that a verdict rests on, gathered once and judged at every call.

Guarantees: `check` returns only if `now` lies in all of them, ends included, with no grace.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from cryptography import x509 as c_x509

from verifier import x509
from verifier.errors import Reason, VerifierError


@final
@dataclass(frozen=True, slots=True)
class Window:
    """From `start` to `end` (unix seconds, both included), and what to say outside of it."""

    what: str
    start: int
    end: int
    early: Reason
    late: Reason


@final
@dataclass(frozen=True, slots=True)
class Windows:
    """Several windows and their intersection."""

    each: tuple[Window, ...]
    start: int
    end: int

    @classmethod
    def of(cls, each: Iterable[Window]) -> Windows:
        """Return the windows with their intersection."""
        windows = tuple(each)
        return cls(windows, max(w.start for w in windows), min(w.end for w in windows))

    def check(self, now: int) -> None:
        """Check that `now` (unix seconds) lies in every window.

        Raises:
            VerifierError: the reason of the first window that it misses.
        """
        if self.start <= now <= self.end:
            return
        window = next(each for each in self.each if not each.start <= now <= each.end)
        early = now < window.start
        raise VerifierError(
            window.early if early else window.late,
            f"{window.what}: from {x509.rfc3339(window.start)} to {x509.rfc3339(window.end)} "
            f"expected, {x509.rfc3339(now)} seen",
        )


def of_certificate(certificate: c_x509.Certificate, what: str) -> Window:
    """Return notBefore to notAfter."""
    return Window(
        what,
        x509.not_before(certificate),
        x509.not_after(certificate),
        Reason.CERTIFICATE_INVALID,
        Reason.CERTIFICATE_EXPIRED,
    )


def of_crl(crl: c_x509.CertificateRevocationList, what: str) -> Window:
    """Return thisUpdate to nextUpdate."""
    return Window(what, *x509.crl_window(crl), Reason.CRL_INVALID, Reason.CRL_EXPIRED)


def of_document(issue_date: int, next_update: int, what: str) -> Window:
    """Return issueDate to nextUpdate of a signed JSON document."""
    return Window(
        what,
        issue_date,
        next_update,
        Reason.COLLATERAL_NOT_YET_VALID,
        Reason.COLLATERAL_EXPIRED,
    )
