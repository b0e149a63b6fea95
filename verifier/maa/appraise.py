"""Appraise a token of Azure Attestation: by a listed instance, of now, for us, and acceptable.

Guarantees: nothing counts unless a policy lists the very instance that issued the token, one of its
keys signed it (RS256, whatever the token says), and it is current; then every rule is looked at, so
that a refusal lists all reasons, and an absent claim is refused like a bad one. `jku` is never
followed; one that is not the instance's own is refused.

Does not see the hardware's evidence: that there is any, that it was genuine and of what TCB, is
Microsoft's word. Freshness and binding are those of the nonce, which the caller must have chosen,
or of runtime data, whose hash the hardware's report carries.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final, final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from verifier import jose, x509
from verifier.errors import Reason, VerifierError
from verifier.maa import claims as maa_claims
from verifier.maa import keys as maa_keys
from verifier.maa.claims import COMPLIANT, MaaClaims
from verifier.maa.keys import Key, MaaKeys
from verifier.policy import AppraisalPolicy, MaaReference, MaaRules, SnpRules, TdxRules
from verifier.result import Appraisal, TcbStatus

ALGORITHM: Final = "RS256"
MAX_TOKEN: Final = 128 * 1024
_HASH: Final = 32
_TCB_PARTS: Final = {
    "bootloader": "bootloader",
    "tee": "tee",
    "snp": "snpfw",
    "microcode": "microcode",
    "fmc": "fmc",
}
"""Parts of a TCB by our name, and what the token calls them."""
_GUEST_DEBUG: Final = (
    ("x-ms-azurevm-debuggersdisabled", True),
    ("x-ms-azurevm-bootdebug-enabled", False),
    ("x-ms-azurevm-kerneldebug-enabled", False),
    ("x-ms-azurevm-hypervisordebug-enabled", False),
    ("x-ms-azurevm-testsigning-enabled", False),
)


@final
@dataclass(frozen=True, slots=True)
class MaaEvidence:
    """A token, compact JWS. `runtime_data` are the bytes whose hash the hardware's report carries.

    They are known to whoever asked for a token of type `sevsnpvm` or `tdxvm`; None is not judged.
    """

    token: bytes
    runtime_data: bytes | None = None


def appraise_maa(
    appraisal: Appraisal,
    evidence: MaaEvidence,
    endorsements: MaaKeys | None,
    *,
    policy: AppraisalPolicy | None,
    nonce: bytes | None,
    nonce_required: bool = True,
    now: int,
) -> None:
    """Judge a token and record every check in `appraisal`.

    Args:
        appraisal: takes the checks, and the claims as `maa`.
        evidence: the token, and runtime data if that is to bind it.
        endorsements: the instance's key set; None is refused with `collateral_missing`.
        policy: None admits no instance, and so no token.
        nonce: what the token must carry; None is refused unless runtime data binds it.
        nonce_required: False admits neither, and the result says that freshness was not judged.
        now: unix seconds, UTC.

    Raises:
        VerifierError: the token is not genuine; the reason is the first thing that was wrong.
    """
    rules = MaaRules() if policy is None else policy.maa
    # 1. Take it apart; believe none of it.
    read = jose.read(
        evidence.token,
        "MAA token",
        algorithm=ALGORITHM,
        members=frozenset({"jku"}),
        limit=MAX_TOKEN,
    )
    claims = maa_claims.parse(read.payload)
    appraisal.claims["maa"] = dict(claims.told)
    appraisal.claims["maa_keys"] = dict(claims.keys)
    appraisal.require("token", True, Reason.MALFORMED, "well formed", claims.kind)
    # 2. By an instance that the policy lists.
    _issuer(appraisal, read, claims, rules)
    # 3. One of its keys signed it, and token and certificate are of now.
    if endorsements is None:
        raise VerifierError(Reason.COLLATERAL_MISSING, "MAA keys: none were given")
    key = maa_keys.find(endorsements.jwks, read.kid)
    _signature(appraisal, read, key)
    _dates(appraisal, claims, key, now)
    # 4. For us, and acceptable.
    _bind(appraisal, evidence, claims, nonce, required=nonce_required)
    _machine(appraisal, claims, rules)
    if claims.kind == "sevsnpvm":
        _snp(appraisal, claims, SnpRules() if policy is None else policy.snp)
    else:
        _tdx(appraisal, claims, TdxRules() if policy is None else policy.tdx)
    _measurements(appraisal, claims, policy)


def _issuer(appraisal: Appraisal, read: jose.Jws, claims: MaaClaims, rules: MaaRules) -> None:
    if not rules.issuers:
        raise VerifierError(
            Reason.MAA_NOT_ALLOWED, f"policy lists no instance; {claims.issuer!a:.200} issued this"
        )
    if claims.issuer not in rules.issuers:
        raise VerifierError(
            Reason.TOKEN_ISSUER,
            f"one of {', '.join(rules.issuers)} expected, {claims.issuer!a:.200} seen",
        )
    # Keys come from where the caller fetched them; that the token points there too is only neat.
    certs = f"{claims.issuer}/certs"
    if read.header.get("jku", certs) != certs:
        raise VerifierError(Reason.TOKEN_ISSUER, f"jku: {certs} expected, another place seen")
    appraisal.require(
        "issuer", True, Reason.TOKEN_ISSUER, " or ".join(rules.issuers), claims.issuer
    )


def _signature(appraisal: Appraisal, read: jose.Jws, key: Key) -> None:
    try:
        key.public.verify(read.signature, read.signed, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as error:
        raise VerifierError(
            Reason.SIGNATURE_INVALID, f"MAA token: not signed by {read.kid!a:.100}"
        ) from error
    appraisal.require("token signature", True, Reason.SIGNATURE_INVALID, ALGORITHM, "verified")


def _dates(appraisal: Appraisal, claims: MaaClaims, key: Key, now: int) -> None:
    for certificate in key.chain:
        x509.check_window(certificate, now, "MAA keys: x5c")
        appraisal.limit(x509.not_after(certificate))
    starts = max(claims.not_before, claims.issued)
    seen = f"{x509.rfc3339(starts)} to {x509.rfc3339(claims.expires)}"
    if now < starts:
        raise VerifierError(Reason.TOKEN_NOT_YET_VALID, f"MAA token: {seen}")
    if now >= claims.expires:
        raise VerifierError(Reason.TOKEN_EXPIRED, f"MAA token: {seen}")
    appraisal.limit(claims.expires)
    appraisal.require("token dates", True, Reason.TOKEN_EXPIRED, x509.rfc3339(now), seen)


def _bind(
    appraisal: Appraisal,
    evidence: MaaEvidence,
    claims: MaaClaims,
    nonce: bytes | None,
    *,
    required: bool,
) -> None:
    """Require the nonce, wherever the token carries one, and the runtime data that are given."""
    seen = claims.nonces()
    told = ", ".join("not readable" if each is None else each.hex() for each in seen) or "none"
    if nonce is not None:
        good = bool(seen) and all(
            each is not None and hmac.compare_digest(each, nonce) for each in seen
        )
        appraisal.require("nonce", good, Reason.NONCE_MISMATCH, nonce.hex(), told)
    elif required and evidence.runtime_data is None:
        appraisal.require("nonce", False, Reason.NONCE_MISSING, "the challenge's nonce", told)
    else:
        appraisal.not_judged("nonce", told, "no expected nonce")
    if evidence.runtime_data is not None:
        _runtime_data(appraisal, evidence.runtime_data, claims)


def _runtime_data(appraisal: Appraisal, raw: bytes, claims: MaaClaims) -> None:
    """The hardware's report carries their hash, and the token shows what they say.

    Only where the machine's owner asked for the token: in guest attestation the report carries the
    hash of the paravisor's claims.
    """
    bound = hashlib.sha256(raw).digest() + bytes(_HASH)
    seen = claims.values.get("report_data", b"")
    appraisal.require(
        "runtime_data",
        not claims.guest and hmac.compare_digest(seen, bound),
        Reason.REPORT_DATA_MISMATCH,
        bound.hex(),
        f"{seen.hex() or 'none'}{' (of the paravisor)' if claims.guest else ''}",
    )
    shown = claims.told.get("x-ms-runtime")
    try:
        same = jose.loads(raw, "runtime data") == shown
    except VerifierError:
        same = False
    appraisal.require(
        "runtime_data.shown",
        same,
        Reason.REPORT_DATA_MISMATCH,
        "x-ms-runtime says what the runtime data say",
        "equal" if same else "different",
    )


def _machine(appraisal: Appraisal, claims: MaaClaims, rules: MaaRules) -> None:
    appraisal.require(
        "attestation_type",
        claims.kind in rules.attestation_types,
        Reason.KIND_MISMATCH,
        " or ".join(rules.attestation_types),
        claims.kind,
    )
    status = claims.tee.get("x-ms-compliance-status")
    appraisal.require(
        "compliance", status == COMPLIANT, Reason.MAA_NOT_COMPLIANT, COMPLIANT, f"{status!a:.80}"
    )
    names = {"sevsnpvm": "x-ms-sevsnpvm-is-debuggable", "tdxvm": "tdx_td_attributes_debug"}
    seen = claims.flag(names[claims.kind])
    _flag(appraisal, "debug", seen=seen, wanted=False, asked=not rules.allow_debug)
    if claims.guest:
        for name, wanted in _GUEST_DEBUG:
            flag = claims.guest_flag(name)
            short = name.removeprefix("x-ms-azurevm-")
            _flag(
                appraisal, f"guest.{short}", seen=flag, wanted=wanted, asked=not rules.allow_debug
            )
    secure = claims.secure_boot()
    appraisal.require(
        "secure_boot",
        secure is True or not rules.require_secure_boot,
        Reason.VM_CONFIGURATION,
        "true" if rules.require_secure_boot else "any",
        _said(secure),
    )


def _flag(
    appraisal: Appraisal,
    name: str,
    *,
    seen: bool | None,
    wanted: bool,
    asked: bool,
) -> None:
    appraisal.require(
        name,
        seen is wanted or not asked,
        Reason.DEBUG_ENABLED,
        _said(wanted) if asked else "any",
        _said(seen),
    )


def _snp(appraisal: Appraisal, claims: MaaClaims, rules: SnpRules) -> None:
    """Hold what the token says of the report against the rules for reports, as far as it does."""
    migration = claims.flag("x-ms-sevsnpvm-migration-allowed")
    appraisal.require(
        "migration",
        migration is False or rules.allow_migration_agent,
        Reason.MIGRATION_ALLOWED,
        "any" if rules.allow_migration_agent else "false",
        _said(migration),
    )
    vmpl = claims.number("x-ms-sevsnpvm-vmpl")
    appraisal.require(
        "VMPL",
        vmpl is not None and 0 <= vmpl <= rules.max_vmpl,
        Reason.VMPL,
        f"at most {rules.max_vmpl}",
        "absent" if vmpl is None else vmpl,
    )
    guest_svn = claims.number("x-ms-sevsnpvm-guestsvn")
    appraisal.require(
        "GUEST_SVN",
        (guest_svn or 0) >= rules.min_guest_svn,
        Reason.TCB_BELOW_MINIMUM,
        f"at least {rules.min_guest_svn}",
        "absent" if guest_svn is None else guest_svn,
    )
    _snp_tcb(appraisal, claims, rules)


def _snp_tcb(appraisal: Appraisal, claims: MaaClaims, rules: SnpRules) -> None:
    """Hold product and TCB against the policy; a floor that cannot be compared is a refusal."""
    product = claims.tee.get("x-ms-sevsnpvm-chip-family")
    floors = {str(name): floor for name, floor in rules.min_tcb.items()}
    if product is None and not floors:
        appraisal.not_judged("product", "absent", "Microsoft's judgement of product and TCB")
        return
    appraisal.require(
        "product",
        product in rules.products,
        Reason.PLATFORM_NOT_ALLOWED,
        " or ".join(rules.products),
        f"{product!a:.80}",
    )
    floor = floors.get(str(product))
    if floor is None:
        appraisal.not_judged("TCB", "Microsoft's judgement", "no minimum in policy")
        return
    for part, claim in _TCB_PARTS.items():
        least, seen = getattr(floor, part), claims.number(f"x-ms-sevsnpvm-{claim}-svn")
        appraisal.require(
            f"{part.upper()} minimum",
            (0 if seen is None else seen) >= least,
            Reason.TCB_BELOW_MINIMUM,
            f"at least {least}",
            "absent" if seen is None else seen,
        )


def _tdx(appraisal: Appraisal, claims: MaaClaims, rules: TdxRules) -> None:
    told = claims.tee.get("attester_tcb_status")
    try:
        appraisal.tcb_status = TcbStatus(str(told))
    except ValueError:
        appraisal.tcb_status = None
    appraisal.require(
        "tcb_status",
        appraisal.tcb_status in rules.tcb_statuses,
        Reason.TCB_STATUS,
        " or ".join(rules.tcb_statuses),
        f"{told!a:.80}",
    )


def _measurements(appraisal: Appraisal, claims: MaaClaims, policy: AppraisalPolicy | None) -> None:
    """Require one whole reference; where none fits, tell how the nearest one differs."""
    references: tuple[MaaReference, ...] = () if policy is None else policy.references(MaaReference)
    mine = [each for each in references if each.attestation_type == claims.kind]
    if not mine:
        appraisal.require(
            "measurements",
            False,
            Reason.NO_REFERENCE_VALUES,
            f"a maa reference for {claims.kind} in the policy",
            "none",
        )
        return
    nearest = min(mine, key=lambda each: len(_differences(each, claims)))
    differences = _differences(nearest, claims)
    if not differences:
        appraisal.require(
            "measurements", True, Reason.MEASUREMENT_UNKNOWN, nearest.name, nearest.name
        )
    for name, expected, seen in differences:
        appraisal.require(
            f"{name} of {nearest.name}", False, Reason.MEASUREMENT_UNKNOWN, expected, seen
        )


def _differences(reference: MaaReference, claims: MaaClaims) -> list[tuple[str, str, str]]:
    return [
        (name, expected.hex(), "absent" if seen is None else seen.hex())
        for name, expected in reference.values().items()
        if (seen := claims.values.get(name)) != expected
    ]


def _said(value: bool | None) -> str:  # noqa: FBT001 - what was seen
    return "absent" if value is None else str(value).lower()
