"""What NVIDIA's remote attestation service (NRAS) says of a set of devices: a second opinion.

Guarantees: `check` returns an opinion only if every token of the answer is signed (ES384) by a key
of the given JWKS, is from NRAS and of now, carries our nonce, if the overall token's digests cover
exactly the tokens that are there, one for each device in our order, and if all of them say success.
Tokens without a signature, as `nvattest` makes them for itself, are refused. `judge` adds a refusal
to an appraisal, or a note: it never turns a rejection into an acceptance.
Does not chain the keys to a root, for NVIDIA publishes none: whoever fetched the JWKS over TLS from
NVIDIA is trusted with them.

Source: RFC 7515, RFC 7518 §3.4, RFC 9711 (EAT); NRAS v3 and v4 answers as captured.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, final

import jwt

from verifier.errors import Reason, VerifierError
from verifier.result import Appraisal, Claims

ISSUER: Final = "https://nras.attestation.nvidia.com"
LEEWAY_S: Final = 60
"""Seconds by which NRAS's clock and ours may differ."""
MAX_ANSWER: Final = 1024 * 1024
MAX_JWKS: Final = 256 * 1024
_MAX_TOKEN: Final = 32 * 1024
_MAX_DEVICES: Final = 64
_MAX_LIFE_S: Final = 86_400
_ALGORITHM: Final = "ES384"
_DIGESTS: Final = frozenset({"SHA-256", "SHA256"})
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_PREFIXES: Final = {"gpu": "GPU", "switch": "SWITCH"}
_SHOWN: Final = ("hwmodel", "ueid", "x-nvidia-gpu-driver-version", "x-nvidia-gpu-vbios-version")

Devices = Literal["gpu", "switch"]


@final
@dataclass(frozen=True, slots=True)
class Opinion:
    """That NRAS says success; `expires` (unix seconds) is the earliest end of its tokens."""

    devices: tuple[Claims, ...]
    issued: int
    expires: int


@final
@dataclass(frozen=True, slots=True)
class Keys:
    """NRAS's keys by key id."""

    by_id: Mapping[str, jwt.PyJWK]


def load_keys(raw: bytes) -> Keys:
    """Return the ES384 keys of a JWKS (RFC 7517 §5); keys of other kinds are passed over.

    Raises:
        VerifierError: `collateral_malformed`, `too_large`.
    """
    found = _json(raw, MAX_JWKS, "JWKS")
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list):
        raise VerifierError(Reason.COLLATERAL_MALFORMED, "JWKS: a list of keys expected")
    by_id: dict[str, jwt.PyJWK] = {}
    for key in keys:
        if not isinstance(key, dict) or (key.get("kty"), key.get("crv")) != ("EC", "P-384"):
            continue
        kid = key.get("kid")
        if not isinstance(kid, str) or kid in by_id or "d" in key:
            raise VerifierError(Reason.COLLATERAL_MALFORMED, f"JWKS: kid {kid!r:.200}")
        try:
            by_id[kid] = jwt.PyJWK(key, algorithm=_ALGORITHM)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise VerifierError(
                Reason.COLLATERAL_MALFORMED, f"JWKS: {kid!r:.200}: {error}"
            ) from error
    return Keys(by_id)


def key_ids(raw: bytes) -> frozenset[str]:
    """Return the key ids that an answer's tokens name, for whoever must fetch the keys.

    Raises:
        VerifierError: as `check` for an answer that cannot be read.
    """
    overall, tokens = _answer(raw)
    return frozenset(_header(token)["kid"] for token in (overall, *tokens.values()))


def check(
    raw: bytes,
    keys: Keys,
    *,
    nonce: bytes,
    leaf_serials: Sequence[int],
    now: int,
    devices: Devices = "gpu",
    issuer: str = ISSUER,
) -> Opinion:
    """Return NRAS's opinion of these devices.

    Args:
        raw: the body of its answer, JSON.
        keys: from its JWKS.
        nonce: that was sent, 32 bytes.
        leaf_serials: serial numbers of the devices' leaf certificates, in the order sent.
        now: unix seconds.
        devices: what they are.
        issuer: of the tokens.

    Raises:
        VerifierError: `malformed`, `too_large`, `signature_missing`, `signature_invalid`,
            `nonce_mismatch`, `collateral_mismatch`, `nras_refused`.
    """
    overall_token, tokens = _answer(raw)
    count = len(leaf_serials)
    names = [f"{_PREFIXES[devices]}-{place}" for place in range(count)]
    if count == 0 or tokens.keys() != set(names):
        raise VerifierError(
            Reason.COLLATERAL_MISMATCH,
            f"NRAS: tokens of {', '.join(names) or 'devices'} expected, "
            f"{sorted(tokens)!r:.400} seen",
        )
    overall = _claims(overall_token, keys, "overall", nonce=nonce, now=now, issuer=issuer)
    _check_digests(overall, {name: tokens[name] for name in names})
    if overall.get("x-nvidia-overall-att-result") is not True:
        raise VerifierError(Reason.NRAS_REFUSED, f"NRAS: overall: {_why(overall)}")
    each = []
    for name, serial in zip(names, leaf_serials, strict=True):
        claims = _claims(tokens[name], keys, name, nonce=nonce, now=now, issuer=issuer)
        _check_device(claims, name, serial)
        each.append(claims)
    everything = (overall, *each)
    return Opinion(
        devices=tuple({key: c[key] for key in _SHOWN if key in c} for c in each),
        issued=min(claims["iat"] for claims in everything),
        expires=min(claims["exp"] for claims in everything),
    )


def judge(
    appraisal: Appraisal,
    raw: bytes,
    keys: Keys,
    *,
    nonce: bytes,
    leaf_serials: Sequence[int],
    now: int,
    devices: Devices = "gpu",
) -> None:
    """Add NRAS's opinion to an appraisal: a failed check, or a note that nothing rests on."""
    try:
        opinion = check(raw, keys, nonce=nonce, leaf_serials=leaf_serials, now=now, devices=devices)
    except VerifierError as error:
        appraisal.fail(f"nras_{devices}", error)
        return
    appraisal.not_judged(f"nras_{devices}", "success", "a second opinion decides nothing alone")
    appraisal.claims[f"nras_{devices}"] = [dict(claims) for claims in opinion.devices]
    appraisal.limit(opinion.expires)


def _json(raw: bytes, limit: int, what: str) -> Any:  # noqa: ANN401 - JSON
    if len(raw) > limit:
        raise VerifierError(Reason.TOO_LARGE, f"{what}: {len(raw)} bytes, at most {limit} expected")
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{what}: not JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands there twice")
    return found


def _constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _answer(raw: bytes) -> tuple[str, dict[str, str]]:
    """Return the overall token and the others by name: `[["JWT", overall], {name: token}]`."""
    found = _json(raw, MAX_ANSWER, "NRAS")
    match found:
        case [["JWT", str(overall)], dict(tokens)] if len(tokens) <= _MAX_DEVICES and all(
            isinstance(token, str) for token in tokens.values()
        ):
            return overall, tokens
        case _:
            raise VerifierError(
                Reason.MALFORMED, "NRAS: an overall token, and one of each device expected"
            )


def _header(token: str) -> dict[str, str]:
    """Return the header of a token, which says ES384 and which key, and nothing else.

    Raises:
        VerifierError: `malformed`, or `signature_missing` for a token without a signature.
    """
    if len(token) > _MAX_TOKEN:
        raise VerifierError(Reason.TOO_LARGE, f"NRAS: a token of {len(token)} characters")
    head, _, rest = token.partition(".")
    header = _part(head)
    if header.get("alg") == "none" or rest.endswith("."):
        raise VerifierError(Reason.SIGNATURE_MISSING, "NRAS: a token that nobody signed (alg none)")
    told = {name: value for name, value in header.items() if name != "typ"}
    if _TOKEN.fullmatch(token) is None or told.keys() != {"alg", "kid"}:
        raise VerifierError(Reason.MALFORMED, f"NRAS: header {header!r:.300}")
    if told["alg"] != _ALGORITHM or not isinstance(told["kid"], str):
        raise VerifierError(Reason.SIGNATURE_INVALID, f"NRAS: {_ALGORITHM} expected: {told!r:.300}")
    return told


def _part(text: str) -> dict[str, Any]:
    """Return the JSON object in one part of a token; base64url has loose bits, none may be set."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise VerifierError(Reason.MALFORMED, f"NRAS: a token: {error}") from error
    found = _json(raw, _MAX_TOKEN, "NRAS: a token")
    again = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    if not isinstance(found, dict) or again != text:
        raise VerifierError(Reason.MALFORMED, "NRAS: a token of a JSON object expected")
    return found


def _claims(
    token: str, keys: Keys, what: str, *, nonce: bytes, now: int, issuer: str
) -> dict[str, Any]:
    """Return the claims of a token that NRAS signed just now, for our nonce."""
    kid = _header(token)["kid"]
    key = keys.by_id.get(kid)
    if key is None:
        raise VerifierError(Reason.SIGNATURE_INVALID, f"NRAS: {what}: key {kid!r:.200} is unknown")
    try:
        jwt.PyJWS().decode(token, key, algorithms=[_ALGORITHM])
    except (jwt.PyJWTError, ValueError) as error:
        raise VerifierError(Reason.SIGNATURE_INVALID, f"NRAS: {what}: {error}") from error
    claims = _part(token.split(".")[1])
    if claims.get("iss") != issuer:
        raise VerifierError(
            Reason.COLLATERAL_MISMATCH, f"NRAS: {what}: issuer {claims.get('iss')!r:.200}"
        )
    _check_times(claims, what, now)
    seen = claims.get("eat_nonce")
    if not isinstance(seen, str) or seen.lower() != nonce.hex():
        raise VerifierError(Reason.NONCE_MISMATCH, f"NRAS: {what}: nonce {seen!r:.200}")
    return claims


def _check_times(claims: Mapping[str, Any], what: str, now: int) -> None:
    issued, begins, ends = (claims.get(name) for name in ("iat", "nbf", "exp"))
    if type(issued) is not int or type(begins) is not int or type(ends) is not int:
        raise VerifierError(Reason.MALFORMED, f"NRAS: {what}: iat, nbf and exp expected")
    if max(issued, begins) > now + LEEWAY_S:
        raise VerifierError(Reason.COLLATERAL_NOT_YET_VALID, f"NRAS: {what}: from the future")
    if ends <= now - LEEWAY_S or issued < now - _MAX_LIFE_S:
        raise VerifierError(Reason.COLLATERAL_EXPIRED, f"NRAS: {what}: its time is over")


def _check_digests(overall: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """Check that the overall token covers exactly these tokens."""
    said = overall.get("submods")
    if not isinstance(said, dict) or said.keys() != tokens.keys():
        raise VerifierError(Reason.COLLATERAL_MISMATCH, "NRAS: submods are of other devices")
    for name, token in tokens.items():
        match said[name]:
            case ["DIGEST", [str(algorithm), str(digest)]] if algorithm in _DIGESTS:
                if digest.lower() == hashlib.sha256(token.encode("utf-8", "replace")).hexdigest():
                    continue
        raise VerifierError(
            Reason.COLLATERAL_MISMATCH, f"NRAS: submods: {name} is another token than the one given"
        )


def _check_device(claims: Mapping[str, Any], name: str, serial: int) -> None:
    """Check that a device's token says success, of the device that was sent in this place."""
    said = (claims.get("measres"), claims.get("secboot"), claims.get("dbgstat"))
    if said != ("success", True, "disabled") or said[1] is not True:
        raise VerifierError(Reason.NRAS_REFUSED, f"NRAS: {name}: {_why(claims)}")
    if claims.get("ueid") != str(serial):
        raise VerifierError(
            Reason.COLLATERAL_MISMATCH,
            f"NRAS: {name}: ueid {serial} expected, {claims.get('ueid')!r:.200} seen",
        )


def _why(claims: Mapping[str, Any]) -> str:
    told = claims.get("x-nvidia-error-details", claims.get("measres"))
    return f"not a success: {told!r:.300}"
