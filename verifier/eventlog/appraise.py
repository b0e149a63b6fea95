"""Appraise an event log: replay it against quoted registers, and only then read it.

Guarantees: a register that the log extends and the quote holds must agree in every common bank, or
nothing of the log is read; a log whose events contradict themselves is refused even though it
replays. Registers that are not quoted, and quoted ones that the log does not cover, are told as not
judged and give no claims; a log that covers none of the quoted registers is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from verifier.errors import Reason, VerifierError
from verifier.eventlog import boot, runtime, tcg
from verifier.eventlog.boot import BootClaims
from verifier.eventlog.log import NO_REGISTER, EventLog
from verifier.eventlog.replay import initial, replay
from verifier.result import Appraisal

Quoted: TypeAlias = Mapping[str, Mapping[int, bytes]]
LogKind: TypeAlias = Literal["tcg", "ccel", "dstack", "aael"]

_STRENGTH: Final = ("sha512", "sha384", "sha256", "sha1")
RTMR_RUNTIME: Final = 3
_NOT_COVERED: Final = "no event of this log extends it"


def parse(raw: bytes, kind: LogKind, *, register: int = RTMR_RUNTIME) -> EventLog:
    """Return the log in `raw`; `register` is what an AAEL extends.

    Raises:
        VerifierError: as the parser of its kind.
    """
    if kind == "dstack":
        return runtime.parse_dstack(raw)
    if kind == "aael":
        return runtime.parse_aael(raw, register=register)
    return tcg.parse(raw, kind=kind)


def parse_tdx(raw: bytes) -> EventLog:
    """Return a TD's log: CCEL, or the JSON that dstack keeps, which starts with a bracket.

    The form is the evidence's choice, which does no harm: either must replay to the quote's RTMRs.

    Raises:
        VerifierError: as the parser of its kind.
    """
    return parse(raw, "dstack" if raw[:1] == b"[" else "ccel")


def appraise_log(
    appraisal: Appraisal,
    log: EventLog,
    quoted: Quoted,
    *,
    prefix: str = "event_log",
    claim: str = "boot",
) -> BootClaims | None:
    """Replay a log, compare, read, and record every check as `<prefix>.…`.

    Args:
        appraisal: takes the checks, and the claim.
        log: a parsed log.
        quoted: register values that a verified quote proves, by bank; empty where there are none:
            then nothing is proven, and the result says so.
        prefix: of the checks' names.
        claim: the claim's name.

    Returns:
        what the log proves; None where it was refused or nothing was quoted.
    """
    appraisal.require(
        f"{prefix}.read",
        True,
        Reason.MALFORMED,
        "a well-formed log",
        f"{log.format}, {log.count} events in {log.used} bytes, {' '.join(log.banks)}",
    )
    banks = [bank for bank in _STRENGTH if bank in log.banks and (not quoted or bank in quoted)]
    if not banks:
        appraisal.require(
            f"{prefix}.bank",
            False,
            Reason.EVENT_LOG_MISMATCH,
            " ".join(quoted),
            " ".join(log.banks),
        )
        return None
    proven = [_compare(appraisal, log, bank, quoted.get(bank), prefix) for bank in banks]
    if None in proven:
        return None
    best = proven[0] or frozenset()
    if quoted and not best:
        appraisal.require(
            f"{prefix}.covered",
            False,
            Reason.EVENT_LOG_MISMATCH,
            "events of at least one quoted register",
            "none: such a log proves nothing",
        )
        return None
    try:
        claims = boot.read(log, banks[0], proven=best if quoted else _all(log))
    except VerifierError as error:
        appraisal.fail(f"{prefix}.meaning", error)
        return None
    appraisal.require(
        f"{prefix}.meaning",
        True,
        Reason.EVENT_LOG_REFUSED,
        "events that do not contradict one another",
        "the whole boot" if claims.complete else "not the whole boot",
    )
    appraisal.claims[claim] = {**claims.to_dict(), "proven": bool(quoted)}
    return claims if quoted else None


def _all(log: EventLog) -> frozenset[int]:
    return frozenset(event.register for event in log.events)


def _compare(
    appraisal: Appraisal,
    log: EventLog,
    bank: str,
    quoted: Mapping[int, bytes] | None,
    prefix: str,
) -> frozenset[int] | None:
    """Return the registers that agree in one bank, or None if one does not."""
    replayed = replay(log, bank)
    appraisal.claims.setdefault("registers", {}).setdefault(bank, {}).update(
        (str(register), value.hex()) for register, value in sorted(replayed.items())
    )
    if quoted is None:
        appraisal.not_judged(
            f"{prefix}.{bank}",
            " ".join(map(str, sorted(replayed))) or "no registers",
            "no quoted registers",
        )
        return frozenset()
    agree: set[int] = set()
    good = True
    for register in sorted(replayed.keys() | quoted.keys()):
        name = f"{prefix}.{bank}.{register}"
        value, wanted = replayed.get(register), quoted.get(register)
        if wanted is None:
            appraisal.not_judged(name, "" if value is None else value.hex(), "not quoted")
        elif value is None and wanted != initial(log, bank, register):
            appraisal.not_judged(name, wanted.hex(), _NOT_COVERED)
        else:
            seen = initial(log, bank, register) if value is None else value
            ok = appraisal.require(
                name, seen == wanted, Reason.EVENT_LOG_MISMATCH, wanted.hex(), seen.hex()
            )
            good &= ok
            if value is not None and ok:
                agree.add(register)
    return frozenset(agree - {NO_REGISTER}) if good else None
