"""Whether the certificates behind a device or a RIM were revoked: OCSP first, lists for CA levels.

Guarantees: a certificate counts as good only by a signed statement about exactly it that is current
at `now`; no statement, an unknown one or one from another time denies unless the rules say
otherwise, and then the result tells. A revocation denies whatever else is said, and also after the
date of the statement; a hold denies, but for RIM signers where the rules admit it.
Does not check chains: each issuer that is named here was checked up to a pinned root before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, final

from cryptography import x509 as c_x509

from verifier import x509
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import crl, ocsp
from verifier.nvgpu.endorsements import GpuEndorsements
from verifier.nvgpu.ocsp import CertId, Status
from verifier.result import Appraisal, Claims

Subject = tuple[c_x509.Certificate, c_x509.Certificate]
"""A certificate and its issuer."""


class Rules(Protocol):
    """What a policy says of revocation (`GpuRules`)."""

    @property
    def require_revocation(self) -> bool:
        """Whether a certificate that nobody speaks of denies."""

    @property
    def allow_hold_rim(self) -> bool:
        """Whether a RIM signer on hold is admitted."""

    @property
    def ocsp_grace(self) -> int:
        """Seconds after nextUpdate for which a good OCSP answer still counts."""


@final
@dataclass(frozen=True, slots=True)
class Statement:
    """What was found about one certificate; `source` is "ocsp" or "crl", times unix seconds."""

    status: Status
    source: str
    this_update: int
    next_update: int
    late: bool = False

    def claims(self) -> Claims:
        """Return what a result says of it."""
        return {
            "status": self.status.value,
            "source": self.source,
            "this_update": self.this_update,
            "next_update": self.next_update,
        }


@final
@dataclass(frozen=True, slots=True)
class _Index:
    """Responses by the certificates that they speak of."""

    by_id: Mapping[CertId, tuple[ocsp.Response, ...]]


def judge(
    appraisal: Appraisal,
    name: str,
    subjects: Sequence[Subject],
    endorsements: GpuEndorsements,
    rules: Rules,
    *,
    now: int,
    cache: Cache | None = None,
    rim: bool = False,
) -> tuple[Claims, ...]:
    """Check that none of these certificates is revoked, and return what was found about each.

    One check of this name says that all are good; each that is not has a check of its own. Dates of
    statements lower the appraisal's `expires`.

    Args:
        appraisal: takes the checks.
        name: of the checks.
        subjects: certificates with their issuers, whose chain was checked.
        endorsements: what was given.
        rules: the policy's.
        now: unix seconds.
        cache: what was checked before.
        rim: these are a RIM's, for which a hold may be admitted.
    """
    found: list[Claims] = []
    seen: list[str] = []
    for subject, issuer in subjects:
        what = x509.common_name(subject) or f"serial {x509.serial_number(subject):x}"
        try:
            statement = find(
                subject, issuer, endorsements, now=now, cache=cache, grace=rules.ocsp_grace
            )
        except VerifierError as error:
            if error.reason is Reason.REVOCATION_MISSING and not rules.require_revocation:
                appraisal.not_judged(f"{name}: {what}", "nothing", "policy asks for none")
            else:
                appraisal.fail(f"{name}: {what}", error)
            continue
        found.append({"certificate": what, **statement.claims()})
        appraisal.limit(statement.next_update + (rules.ocsp_grace if statement.late else 0))
        if _admitted(appraisal, f"{name}: {what}", statement, rim and rules.allow_hold_rim):
            late = " (late, within policy's grace)" if statement.late else ""
            seen.append(f"{what}: {statement.status.value}{late}")
    if len(seen) == len(subjects):
        appraisal.require(
            name, bool(subjects), Reason.REVOCATION_MISSING, "none revoked", "; ".join(seen)
        )
    return tuple(found)


def _admitted(appraisal: Appraisal, name: str, statement: Statement, hold: bool) -> bool:  # noqa: FBT001 - what the policy says
    reasons = {
        Status.HOLD: Reason.CERTIFICATE_HOLD,
        Status.REVOKED: Reason.CERTIFICATE_REVOKED,
        Status.UNKNOWN: Reason.REVOCATION_MISSING,
    }
    if statement.status is Status.GOOD or (hold and statement.status is Status.HOLD):
        return True
    appraisal.require(
        name, ok=False, reason=reasons[statement.status], expected="good", seen=statement.status
    )
    return False


def find(
    subject: c_x509.Certificate,
    issuer: c_x509.Certificate,
    endorsements: GpuEndorsements,
    *,
    now: int,
    cache: Cache | None = None,
    grace: int = 0,
) -> Statement:
    """Return the statement about a certificate that counts at `now` (unix seconds).

    Raises:
        VerifierError: `revocation_missing`, `revocation_expired`, `revocation_invalid`: why there
            is none.
    """
    failed = VerifierError(Reason.REVOCATION_MISSING, "no OCSP answer, and no list of its issuer")
    good: list[Statement] = []
    statements, errors = _by_ocsp(subject, issuer, endorsements, cache)
    lists, more = _by_list(subject, issuer, endorsements, cache)
    for error in (*errors, *more):
        failed = error
    for statement in (*statements, *lists):
        if statement.status is Status.REVOKED:
            return statement  # for good: no later date takes it back
        try:
            good.append(_current(statement, now, grace))
        except VerifierError as error:
            failed = error
    answers = [statement for statement in good if statement.source == "ocsp"] or good
    if not answers:
        raise failed
    # The latest word counts; of two from one moment the worse one.
    return max(answers, key=lambda each: (each.this_update, each.status is not Status.GOOD))


def _current(statement: Statement, now: int, grace: int) -> Statement:
    """Return a statement that may be used now.

    Raises:
        VerifierError: `revocation_invalid` before its time, `revocation_expired` after it.
    """
    if statement.this_update <= now < statement.next_update:
        return statement
    told = f"{statement.source}: from {x509.rfc3339(statement.this_update)}"
    if now < statement.this_update:
        raise VerifierError(Reason.REVOCATION_INVALID, f"{told}, at {x509.rfc3339(now)}")
    late = f"{told} to {x509.rfc3339(statement.next_update)}, at {x509.rfc3339(now)}"
    if statement.source != "ocsp" or statement.status is not Status.GOOD:
        raise VerifierError(Reason.REVOCATION_EXPIRED, late)
    if now >= statement.next_update + grace:
        raise VerifierError(Reason.REVOCATION_EXPIRED, late)
    return Statement(
        statement.status, statement.source, statement.this_update, statement.next_update, late=True
    )


def _by_ocsp(
    subject: c_x509.Certificate,
    issuer: c_x509.Certificate,
    endorsements: GpuEndorsements,
    cache: Cache | None,
) -> tuple[list[Statement], list[VerifierError]]:
    index = _index(endorsements, cache)
    found: list[Statement] = []
    errors: list[VerifierError] = []
    for wanted in ocsp.cert_ids(subject, issuer):
        for response in index.by_id.get(wanted, ()):
            try:
                found.append(_statement(response, subject, issuer, cache))
            except VerifierError as error:
                errors.append(error)
    return found, errors


def _statement(
    response: ocsp.Response,
    subject: c_x509.Certificate,
    issuer: c_x509.Certificate,
    cache: Cache | None,
) -> Statement:
    single = ocsp.answer(response, subject, issuer)
    checked = ocsp.check_signature(response, issuer, cache)
    if single is None or single.next_update is None or single.next_update <= single.this_update:
        raise VerifierError(Reason.REVOCATION_INVALID, "OCSP response: no nextUpdate")
    # A statement ends with its signer's certificate at the latest, and begins no sooner.
    return Statement(
        single.status,
        "ocsp",
        max(single.this_update, checked.start),
        min(single.next_update, checked.end),
    )


def _index(endorsements: GpuEndorsements, cache: Cache | None) -> _Index:
    if cache is None:
        return _build(endorsements.ocsp)
    return cache.recall(_Index, endorsements.digest, lambda: _build(endorsements.ocsp))


def _build(raws: Sequence[bytes]) -> _Index:
    """Return the readable responses by certID; one that cannot be read speaks of nobody."""
    by_id: dict[CertId, tuple[ocsp.Response, ...]] = {}
    for raw in dict.fromkeys(raws):
        try:
            response = ocsp.parse(raw)
        except VerifierError:
            continue
        for each in dict.fromkeys(single.cert_id for single in response.singles):
            by_id[each] = (*by_id.get(each, ()), response)
    return _Index(MappingProxyType(by_id))


def _by_list(
    subject: c_x509.Certificate,
    issuer: c_x509.Certificate,
    endorsements: GpuEndorsements,
    cache: Cache | None,
) -> tuple[list[Statement], list[VerifierError]]:
    found: list[Statement] = []
    errors: list[VerifierError] = []
    for raw in endorsements.crls:
        try:
            each = crl.listed(raw, subject, issuer, cache)
        except VerifierError as error:
            errors.append(error)
            continue
        if each is not None:
            found.append(Statement(each.status, "crl", each.this_update, each.next_update))
    return found, errors
