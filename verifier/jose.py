"""Compact JWS and JWK sets, read strictly: what signed tokens have in common (RFC 7515, RFC 7517).

Guarantees: `read` returns a token only if it has three parts of canonical base64url, a header with
exactly one algorithm, the one that the caller names, and no member that the caller does not know;
`loads` only an object of strict JSON: no member twice at any depth, no number but integers, no half
of a surrogate pair. Keys inside a header are never looked at. Checks no signature: whoever calls it
has the key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, final

from verifier.errors import Reason, VerifierError
from verifier.wire.canonical import b64decode

_MAX_HEADER: Final = 4096
_PARTS: Final = 3


@final
@dataclass(frozen=True, slots=True)
class Jws:
    """A token taken apart. `signed` is what the signature is over: header and payload, as sent."""

    header: Mapping[str, Any]
    kid: str
    payload: bytes
    signed: bytes
    signature: bytes


def read(token: bytes, what: str, *, algorithm: str, members: frozenset[str], limit: int) -> Jws:
    """Return the parts of a compact JWS.

    Args:
        token: as received, without white space around it.
        what: names it in errors.
        algorithm: the only `alg` that is taken; a token never chooses one.
        members: those that the header may have besides `alg`, `kid` and `typ`.
        limit: most bytes.

    Raises:
        VerifierError: `too_large`, `malformed`, or `signature_invalid` for another algorithm.
    """
    if len(token) > limit:
        raise VerifierError(Reason.TOO_LARGE, f"{what}: {len(token)} bytes, limit {limit}")
    try:
        parts = token.decode("ascii").split(".")
    except UnicodeDecodeError as error:
        raise VerifierError(Reason.MALFORMED, f"{what}: not ASCII") from error
    if len(parts) != _PARTS or len(parts[0]) > _MAX_HEADER:
        raise VerifierError(Reason.MALFORMED, f"{what}: header, payload and signature expected")
    header = loads(b64decode(parts[0]), f"{what}: header")
    if header.get("alg") != algorithm:
        raise VerifierError(
            Reason.SIGNATURE_INVALID,
            f"{what}: alg {algorithm} expected, {_shown(header.get('alg'))} seen",
        )
    unknown = header.keys() - members - {"alg", "kid", "typ"}
    if unknown:
        raise VerifierError(Reason.MALFORMED, f"{what}: header has {_shown(sorted(unknown))}")
    kid = header.get("kid")
    if not isinstance(kid, str) or not kid or header.get("typ", "JWT") != "JWT":
        raise VerifierError(Reason.MALFORMED, f"{what}: a header with kid, of type JWT expected")
    return Jws(
        header=header,
        kid=kid,
        payload=b64decode(parts[1]),
        signed=token[: token.rindex(b".")],
        signature=b64decode(parts[2]),
    )


def loads(raw: bytes, what: str) -> dict[str, Any]:
    """Return the object in strict JSON.

    Raises:
        VerifierError: `malformed`.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate cannot be written
    except (ValueError, RecursionError) as error:
        raise VerifierError(Reason.MALFORMED, f"{what}: not strict JSON: {error}") from error
    if not isinstance(value, dict):
        raise VerifierError(Reason.MALFORMED, f"{what}: a JSON object expected")
    return value


def key_set(raw: bytes, what: str, *, limit: int, most: int) -> dict[str, dict[str, Any]]:
    """Return the keys of a JWK set (RFC 7517 §5) by `kid`, as they stand there.

    Raises:
        VerifierError: `too_large`, or `collateral_malformed` for anything but a set of 1 to `most`
            objects, each with another kid.
    """
    if len(raw) > limit:
        raise VerifierError(Reason.TOO_LARGE, f"{what}: {len(raw)} bytes, limit {limit}")
    try:
        keys = loads(raw, what).get("keys")
    except VerifierError as error:
        raise VerifierError(Reason.COLLATERAL_MALFORMED, str(error)) from error
    if not isinstance(keys, list) or not 1 <= len(keys) <= most:
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{what}: 1 to {most} keys expected")
    found: dict[str, dict[str, Any]] = {}
    for key in keys:
        kid = key.get("kid") if isinstance(key, dict) else None
        if not isinstance(kid, str) or not kid or kid in found:
            raise VerifierError(
                Reason.COLLATERAL_MALFORMED,
                f"{what}: objects, each with a kid of its own, expected",
            )
        found[kid] = key
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]}: only integers expected")


def _shown(value: object) -> str:
    return f"{value!a}"[:200]
