"""Challenges that cost no state to issue: everything they promise stands in them, under a MAC.

Guarantees: `open_challenge` returns only what this broker's worker-issued key authenticated and
whose expiry has not passed. Does not know whether it was spent: that is one row in the store.

Layout: `u8 1 | u32 MAC key id | nonce 32 | u64 expiry | lp(purpose) | lp(genesis) | lp list of
kinds | lp(caller digest) | MAC 32`, MAC = HMAC-SHA256 over "ostiary/challenge/v1" and all before.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast, final

from broker.errors import BrokerError, Code
from verifier.errors import VerifierError
from verifier.wire.framing import Reader, lp, lp_list, u8, u32, u64
from verifier.wire.messages import DIGEST, Kind, Purpose

LIFETIME: Final = 60
"""Seconds from issue to expiry."""

_DOMAIN: Final = b"ostiary/challenge/v1"
_VERSION: Final = 1
_NONCE: Final = 32
_MAC: Final = 32


@final
@dataclass(frozen=True, slots=True)
class Challenge:
    """What an authentic challenge says. `raw` are its bytes as received, `digest` names them."""

    raw: bytes
    expires: int
    purpose: Purpose
    genesis: bytes
    kind: Kind
    caller: bytes

    @property
    def digest(self) -> bytes:
        """The SHA-256 under which it is spent and logged."""
        return hashlib.sha256(self.raw).digest()


def issue(
    *,
    key_id: int,
    key: bytes,
    now: int,
    purpose: Purpose,
    genesis: bytes,
    kind: Kind,
    caller: bytes,
) -> tuple[bytes, int]:
    """Return a fresh challenge and its expiry (unix seconds)."""
    expires = now + LIFETIME
    body = (
        u8(_VERSION)
        + u32(key_id)
        + secrets.token_bytes(_NONCE)
        + u64(expires)
        + lp(purpose.encode())
        + lp(genesis)
        + lp_list((kind.encode(),))
        + lp(caller)
    )
    return body + _mac(key, body), expires


def open_challenge(raw: bytes, keys: Mapping[int, bytes], *, now: int) -> Challenge:
    """Return what `raw` promises, if one of `keys` made it and it has not expired.

    Args:
        raw: the challenge as the caller sent it back.
        keys: MAC keys by id: the current one and the one before.
        now: unix seconds.

    Raises:
        BrokerError: `challenge_unknown` or `challenge_expired`.
    """
    try:
        reader = Reader(raw[:-_MAC])
        if reader.uint(1) != _VERSION:
            raise BrokerError(Code.CHALLENGE_UNKNOWN, "not a challenge of this version")
        key = keys.get(reader.uint(4))
        if key is None or not hmac.compare_digest(_mac(key, raw[:-_MAC]), raw[-_MAC:]):
            raise BrokerError(Code.CHALLENGE_UNKNOWN, "this broker did not make this challenge")
        reader.take(_NONCE)
        expires = reader.uint(8)
        purpose, genesis = reader.lp().decode(), reader.lp()
        (kind_bytes,) = reader.lp_list(1)
        kind = kind_bytes.decode()
        caller = reader.lp()
        reader.end()
    except (VerifierError, ValueError) as error:
        raise BrokerError(Code.CHALLENGE_UNKNOWN, "not a challenge") from error
    if now >= expires or len(caller) != DIGEST:
        raise BrokerError(Code.CHALLENGE_EXPIRED, f"challenge expired {now - expires} s ago")
    return Challenge(raw, expires, cast("Purpose", purpose), genesis, cast("Kind", kind), caller)


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, _DOMAIN + body, "sha256")
