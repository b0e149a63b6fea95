"""From an attestation result to the content of a token.

Guarantees: `read` takes only the very bytes that `AttestationResult.to_json` writes, with a verdict
that follows from their checks; `make` never says more good than the result does: a rejected result
is contraindicated, a simulated one too, and a token never outlives what the result rests on.
Does not say that evidence, policy or collateral are those whose digests it is given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

import msgspec

from verifier import jose
from verifier.ear import table
from verifier.ear.claims import BUILD, DEVELOPER, Basis, Dialect, Ear, Submod
from verifier.ear.vector import Tier, overall
from verifier.errors import Reason, VerifierError
from verifier.result import Appraisal, AttestationResult, Check, TcbStatus, Verdict

LIFE: Final = 300
"""Seconds that a token lives at most."""
MAX_RESULT: Final = 1 << 20
CPU: Final = "cpu0"
_DEVICE: Final = re.compile(r"(gpu|switch)\[([0-9]{1,3})\]\.(.+)", re.ASCII | re.DOTALL)


class _Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A result as `AttestationResult.to_dict` writes it."""

    kind: str
    verdict: Verdict
    tcb_status: TcbStatus | None
    advisory_ids: tuple[str, ...]
    reasons: tuple[Reason, ...]
    checks: tuple[Check, ...]
    claims: dict[str, Any]
    simulated: bool
    expires: int | None


def read(raw: bytes) -> AttestationResult:
    """Return the result in its JSON.

    Raises:
        VerifierError: `too_large`, or `malformed` for anything but what a result prints.
    """
    if len(raw) > MAX_RESULT:
        raise VerifierError(Reason.TOO_LARGE, f"result of {len(raw)} bytes, limit {MAX_RESULT}")
    try:
        told = msgspec.convert(jose.loads(raw, "result"), _Result, strict=True)
    except msgspec.ValidationError as error:
        raise VerifierError(Reason.MALFORMED, f"result: {error}") from error
    found = Appraisal(
        kind=told.kind,
        checks=list(told.checks),
        claims=told.claims,
        tcb_status=told.tcb_status,
        advisory_ids=told.advisory_ids,
        simulated=told.simulated,
        expires=told.expires,
    ).result()
    if any((check.reason is None) is (check.ok is False) for check in told.checks):
        raise VerifierError(Reason.MALFORMED, "result: a failed check has a reason, no other has")
    if found.to_json() != raw:
        raise VerifierError(Reason.MALFORMED, "result: not what its checks give")
    return found


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """What a relying party asked for: in which dialect, for whom, with which nonce."""

    dialect: Dialect
    audience: str
    nonce: bytes


def make(
    result: AttestationResult,
    basis: Basis,
    asked: Asked,
    *,
    issuer: str,
    token: str,
    now: int,
    not_after: int,
) -> Ear:
    """Return the content of a token about a result.

    Args:
        result: what the verifier found.
        basis: what that rests on.
        asked: by the relying party.
        issuer: the broker's id, lower-case hexadecimal.
        token: a name that no other token has.
        now: unix seconds, when it is issued.
        not_after: unix seconds; it ends there, with the result or after `LIFE` seconds.

    Raises:
        VerifierError: `token_expired` if what it would say is over.
    """
    ends = [now + LIFE, not_after, *([] if result.expires is None else [result.expires])]
    if min(ends) <= now:
        raise VerifierError(Reason.TOKEN_EXPIRED, f"the result counts until {min(ends)}, now {now}")
    submods = {
        label: _submod(result, part, basis.policy_id(), label)
        for label, part in _parts(result).items()
    }
    return Ear(
        dialect=asked.dialect,
        issuer=issuer,
        audience=asked.audience,
        token=token,
        nonce=asked.nonce,
        issued=now,
        expires=min(ends),
        developer=DEVELOPER,
        build=BUILD,
        status=overall(each.status for each in submods.values()),
        submods=submods,
        basis=basis,
    )


@final
@dataclass(frozen=True, slots=True)
class _Part:
    """One attester's share of a result."""

    kind: str
    claims: Mapping[str, Any]
    checks: list[Check] = field(default_factory=list)
    tcb_status: TcbStatus | None = None


def _parts(result: AttestationResult) -> dict[str, _Part]:
    """Return the parts by label: cpu0 with all that is of no device, then gpu0, switch0, ...

    A set by itself, of kind "nvidia", has a cpu0 too: what was judged of the set as a whole.
    """
    claims = {name: value for name, value in result.claims.items() if name != "devices"}
    found = {CPU: _Part(result.kind, claims, tcb_status=result.tcb_status)}
    devices: Sequence[Mapping[str, Any]] = result.claims.get("devices", ())
    for device in devices:
        told = {name: value for name, value in device.items() if name != "claims"}
        found[_label(told["name"])] = _Part("nvidia", told)
    for check in result.checks:
        named = _DEVICE.fullmatch(check.name)
        label = CPU if named is None else named[1] + named[2]
        found.get(label, found[CPU]).checks.append(check)
    return found


def _label(name: str) -> str:
    return name.replace("[", "").replace("]", "")


def _submod(result: AttestationResult, part: _Part, policy: str, label: str) -> Submod:
    vector = table.vector(
        part.kind, part.checks, tcb_status=part.tcb_status, simulated=result.simulated
    )
    # What is of no device is the CPU's, so a rejected machine has at least one part that says so.
    refused = any(check.ok is False for check in part.checks) or (
        label == CPU and result.verdict is not Verdict.ACCEPT
    )
    told: dict[str, Any] = {
        "not_judged": [check.name for check in part.checks if check.ok is None],
        "reasons": list(dict.fromkeys(c.reason.value for c in part.checks if c.reason is not None)),
    }
    if label == CPU:
        told |= {
            "kind": result.kind,
            "verdict": result.verdict.value,
            "tcb_status": None if result.tcb_status is None else result.tcb_status.value,
            "advisory_ids": list(result.advisory_ids),
        }
    return Submod(
        status=Tier.CONTRAINDICATED if refused else vector.tier(),
        vector=vector,
        policies=(policy,),
        attester=part.claims,
        verifier=told,
    )
