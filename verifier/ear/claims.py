"""The content of a token, written and read in both dialects.

Guarantees: `decode` returns only what says all that we need (issuer, audience, times, nonce, token
id, verifier, one appraisal or more, and what they rest on), in a profile that is known, each value
in its range, and no status better than the vector under it; unknown claims are passed over, as the
draft demands. `encode` and `decode` are inverse. Neither knows keys or the time.

Source: draft-ietf-rats-ear-04 §3; RFC 9711; Veraison's `ear` for the legacy names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias, final

import msgspec

from verifier import jose
from verifier.ear.vector import Tier, Vector, no_better, overall
from verifier.errors import Reason, VerifierError
from verifier.wire import canonical
from verifier.wire.canonical import B64, Hex, Struct

Dialect: TypeAlias = Literal["legacy", "ietf"]

LEGACY: Final = "tag:github.com,2023:veraison/ear"
IETF: Final = "tag:ietf.org,2026:rats/ear#04"
DEVELOPER: Final = "ostiary"
BUILD: Final = "ostiary 0.1.0"
"""What `ear_verifier_id` says of us."""

NONCE: Final = range(9, 65)
"""Bytes in a nonce: with less than 9 its text is shorter than the 12 characters of the draft."""
MAX_AUDIENCE: Final = 256
_MAX_SUBMODS: Final = 160
_DIGEST: Final = 32

_YEAR_10000: Final = 253_402_300_800
Time: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=_YEAR_10000)]
_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_AUDIENCE)]


@final
class Basis(Struct, frozen=True):
    """What a result rests on; our own extension in both dialects.

    `evidence`, `collateral` and `result` are SHA-256 digests of stored objects, `policy` that of
    the release policy's signed payload, `leaf` the hash of the log's leaf (RFC 6962) and `genesis`
    the tenant's. `evaluated` is when the evidence was appraised, unix seconds.
    """

    kind: str
    genesis: Hex
    leaf: Hex
    policy: Hex
    evidence: Hex
    collateral: Hex
    result: Hex
    evaluated: Time
    simulated: bool

    def __post_init__(self) -> None:
        for name in ("genesis", "leaf", "policy", "evidence", "collateral", "result"):
            if len(getattr(self, name)) != _DIGEST:
                raise ValueError(f"{name} has 32 bytes")

    def policy_id(self) -> str:
        """Return the policy's name: a `ni` URI (RFC 6920 §3)."""
        return f"ni:///sha-256;{canonical.b64encode(self.policy)}"


@final
@dataclass(frozen=True, slots=True)
class Submod:
    """What was found of one attester. `attester` are its claims, `verifier` what we add to them."""

    status: Tier
    vector: Vector
    policies: tuple[str, ...]
    attester: Mapping[str, Any]
    verifier: Mapping[str, Any]


@final
@dataclass(frozen=True, slots=True)
class Ear:
    """An attestation result as a token's content. Times are unix seconds, `nonce` raw bytes.

    `issuer` is the broker's id, `token` unique for the token (jti), `status` the whole machine's.
    The legacy dialect has no member for it: there it is always the worst of its parts.
    """

    dialect: Dialect
    issuer: str
    audience: str
    token: str
    nonce: bytes
    issued: int
    expires: int
    developer: str
    build: str
    status: Tier
    submods: Mapping[str, Submod]
    basis: Basis


class _VerifierId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    developer: _Name
    build: _Name


class _LegacySubmod(msgspec.Struct, frozen=True):
    status: Tier = msgspec.field(name="ear.status")
    vector: Vector = msgspec.field(name="ear.trustworthiness-vector")
    policy: _Name = msgspec.field(name="ear.appraisal-policy-id")
    attester: dict[str, Any] = msgspec.field(name="ear.veraison.annotated-evidence")
    verifier: dict[str, Any] = msgspec.field(name="ear.veraison.policy-claims")


class _IetfSubmod(msgspec.Struct, frozen=True):
    status: Tier = msgspec.field(name="ear_status")
    vector: Vector = msgspec.field(name="ear_trustworthiness_vector")
    policies: Annotated[tuple[_Name, ...], msgspec.Meta(min_length=1)] = msgspec.field(
        name="ear_appraisal_policy_ids"
    )
    attester: dict[str, Any] = msgspec.field(name="ear_attester_claims")
    verifier: dict[str, Any] = msgspec.field(name="ear_verifier_claims")


class _Common(msgspec.Struct, frozen=True, kw_only=True):
    eat_profile: str
    iss: _Name
    aud: _Name
    jti: _Name
    iat: Time
    exp: Time
    eat_nonce: B64


class _Legacy(_Common, frozen=True, kw_only=True):
    id: _VerifierId = msgspec.field(name="ear.verifier-id")
    submods: dict[str, _LegacySubmod]
    basis: Basis = msgspec.field(name="ear.ostiary.basis")


class _Ietf(_Common, frozen=True, kw_only=True):
    id: _VerifierId = msgspec.field(name="ear_verifier_id")
    status: Tier = msgspec.field(name="ear_status")
    submods: dict[str, _IetfSubmod]
    basis: Basis = msgspec.field(name="ostiary_basis")


def encode(ear: Ear) -> bytes:
    """Return a token's payload: compact JSON, members sorted.

    Raises:
        VerifierError: `malformed` for content that `decode` would refuse.
    """
    common: dict[str, Any] = {
        "iss": ear.issuer,
        "aud": ear.audience,
        "jti": ear.token,
        "iat": ear.issued,
        "exp": ear.expires,
        "eat_nonce": B64(ear.nonce),
        "id": _VerifierId(ear.developer, ear.build),
        "basis": ear.basis,
    }
    written: _Legacy | _Ietf
    if ear.dialect == "legacy":
        written = _Legacy(
            eat_profile=LEGACY,
            submods={
                label: _LegacySubmod(
                    each.status, each.vector, _one(each), dict(each.attester), dict(each.verifier)
                )
                for label, each in ear.submods.items()
            },
            **common,
        )
    else:
        written = _Ietf(
            eat_profile=IETF,
            status=ear.status,
            submods={
                label: _IetfSubmod(
                    each.status,
                    each.vector,
                    each.policies,
                    dict(each.attester),
                    dict(each.verifier),
                )
                for label, each in ear.submods.items()
            },
            **common,
        )
    plain = msgspec.to_builtins(written, enc_hook=canonical.enc_hook)
    raw = json.dumps(plain, separators=(",", ":"), sort_keys=True, ensure_ascii=True).encode()
    if decode(raw) != ear:
        raise VerifierError(Reason.MALFORMED, "EAR: content that cannot be read back")
    return raw


def _one(submod: Submod) -> str:
    """Return the one policy that the legacy dialect has a place for."""
    if len(submod.policies) != 1:
        raise VerifierError(Reason.MALFORMED, "EAR: the legacy dialect names one policy")
    return submod.policies[0]


def decode(raw: bytes) -> Ear:
    """Return the content of a payload.

    Raises:
        VerifierError: `malformed`, or `unsupported` for another profile.
    """
    told = jose.loads(raw, "EAR")
    profile = told.get("eat_profile")
    if profile not in (LEGACY, IETF):
        raise VerifierError(Reason.UNSUPPORTED, f"EAR: profile {profile!a:.200} is not known")
    try:
        if profile == LEGACY:
            found = _legacy(
                msgspec.convert(told, _Legacy, strict=True, dec_hook=canonical.dec_hook)
            )
        else:
            found = _ietf(msgspec.convert(told, _Ietf, strict=True, dec_hook=canonical.dec_hook))
    except (msgspec.ValidationError, ValueError) as error:
        raise VerifierError(Reason.MALFORMED, f"EAR: {error}") from error
    _check(found)
    return found


def _ear(read: _Legacy | _Ietf, dialect: Dialect, status: Tier, submods: dict[str, Submod]) -> Ear:
    return Ear(
        dialect=dialect,
        issuer=read.iss,
        audience=read.aud,
        token=read.jti,
        nonce=bytes(read.eat_nonce),
        issued=read.iat,
        expires=read.exp,
        developer=read.id.developer,
        build=read.id.build,
        status=status,
        submods=submods,
        basis=read.basis,
    )


def _legacy(read: _Legacy) -> Ear:
    submods = {
        label: Submod(each.status, each.vector, (each.policy,), each.attester, each.verifier)
        for label, each in read.submods.items()
    }
    return _ear(read, "legacy", overall(each.status for each in submods.values()), submods)


def _ietf(read: _Ietf) -> Ear:
    submods = {
        label: Submod(each.status, each.vector, each.policies, each.attester, each.verifier)
        for label, each in read.submods.items()
    }
    return _ear(read, "ietf", read.status, submods)


def _check(ear: Ear) -> None:
    if not 1 <= len(ear.submods) <= _MAX_SUBMODS:
        raise VerifierError(Reason.MALFORMED, f"EAR: 1 to {_MAX_SUBMODS} submods expected")
    if len(ear.nonce) not in NONCE:
        raise VerifierError(Reason.MALFORMED, f"EAR: nonce of {len(ear.nonce)} bytes")
    if ear.issued >= ear.expires:
        raise VerifierError(Reason.MALFORMED, "EAR: it ends before it begins")
    for label, each in ear.submods.items():
        if not each.vector.admits(each.status):
            raise VerifierError(
                Reason.MALFORMED, f"EAR: {label!a:.80}: {each.status} is better than its vector"
            )
    if not no_better(ear.status, overall(each.status for each in ear.submods.values())):
        raise VerifierError(Reason.MALFORMED, f"EAR: {ear.status} is better than its submods")
