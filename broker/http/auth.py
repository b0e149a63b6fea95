"""Who calls: a vendor's token signed by an enrolled signer, or a runtime's by its instance key.

Guarantees: a `Caller` exists only for a token that an expected key signed (EdDSA, nothing else),
for this broker, this method, this path and this body, not expired, at most 300 s long, and never
seen before. Does not say what the caller may do beyond its own tenant.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519

from broker.errors import BrokerError, Code
from verifier import dsse
from verifier.errors import VerifierError
from verifier.wire.framing import lp

MAX_SECONDS: Final = 300
SKEW: Final = 5
"""Seconds that a caller's clock may be ahead of ours."""
_ISSUER: Final = re.compile(r"(lease:)?[a-z0-9-]{1,63}")
_JTI: Final = re.compile(r"[0-9a-f]{32}")
_CLAIMS: Final = frozenset({"iss", "aud", "iat", "exp", "jti", "htm", "htu", "bsha"})
_MAX_TOKEN: Final = 4096

FindKeys = Callable[[str], Awaitable[tuple[str, Mapping[str, bytes]]]]
"""From an issuer to its tenant and its keys (SPKI by hex SHA-256); raises `unauthenticated`."""
Spend = Callable[[bytes, int], Awaitable[None]]
"""Spends a digest once until an expiry; raises `challenge_spent` the second time."""


@final
@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who proved a key. `issuer` is a tenant's name, or `lease:<id>` for a runtime."""

    tenant: str
    issuer: str
    key_id: str
    body_sha256: bytes

    @property
    def is_vendor(self) -> bool:
        """Whether an enrolled signer of the tenant calls, rather than a runtime."""
        return not self.issuer.startswith("lease:")


@final
@dataclass(frozen=True, slots=True)
class Authenticator:
    """Checks tokens for one broker."""

    broker: bytes
    find_keys: FindKeys
    spend: Spend
    now: Callable[[], int]

    async def caller(self, header: str | None, *, method: str, target: str) -> Caller:
        """Return the caller of a request.

        Args:
            header: the Authorization header.
            method: the HTTP method.
            target: path and query as they came.

        Raises:
            BrokerError: `unauthenticated`; the detail is for the operator's log only.
        """
        scheme, _, token = (header or "").partition(" ")
        if scheme != "Bearer" or not token or len(token) > _MAX_TOKEN:
            raise _refuse("no bearer token")
        try:
            key_id = str(jwt.get_unverified_header(token).get("kid", ""))
            claims = jwt.decode(token, options={"verify_signature": False})
        # RecursionError: JSON nested deeper than Python's parser goes.
        except (jwt.PyJWTError, RecursionError) as error:
            raise _refuse("not a token") from error
        issuer = claims.get("iss")
        # Anything else, such as a lone surrogate, must not reach the database.
        if not isinstance(issuer, str) or _ISSUER.fullmatch(issuer) is None:
            raise _refuse("no issuer")
        tenant, keys = await self.find_keys(issuer)
        claims = self._verified(token, keys.get(key_id))
        self._check(claims, method=method, target=target)
        # Whatever follows, this token is used up: the one INSERT is what makes it single-use.
        digest = hashlib.sha256(
            b"ostiary/jti/v1" + lp(issuer.encode()) + lp(claims["jti"].encode())
        ).digest()
        try:
            await self.spend(digest, claims["exp"] + SKEW)
        except BrokerError as error:
            if error.code is Code.CHALLENGE_SPENT:
                raise _refuse("token was used before") from error
            raise
        return Caller(tenant, issuer, key_id, bytes.fromhex(claims["bsha"]))

    def _verified(self, token: str, spki: bytes | None) -> dict[str, Any]:
        if spki is None:
            raise _refuse("unknown key")
        try:
            key = dsse.load_signer(spki)
            if not isinstance(key, ed25519.Ed25519PublicKey):
                raise _refuse("tokens are signed with Ed25519")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["EdDSA"],
                audience=self.broker.hex(),
                # Times are checked by hand, against the one clock that tests can set.
                options={"verify_exp": False, "verify_iat": False, "require": sorted(_CLAIMS)},
            )
        except (jwt.PyJWTError, VerifierError) as error:
            raise _refuse(f"token does not verify: {type(error).__name__}") from error
        return claims

    def _check(self, claims: dict[str, Any], *, method: str, target: str) -> None:
        issued, expires, jti, body = (claims[name] for name in ("iat", "exp", "jti", "bsha"))
        if set(claims) != _CLAIMS or type(issued) is not int or type(expires) is not int:
            raise _refuse("unexpected claims")
        now = self.now()
        if not issued - SKEW <= now < expires or expires - issued > MAX_SECONDS:
            raise _refuse("token is expired, from the future, or longer than 300 s")
        if not (isinstance(jti, str) and _JTI.fullmatch(jti)):
            raise _refuse("jti is not 32 hexadecimal digits")
        if not (isinstance(body, str) and re.fullmatch(r"[0-9a-f]{64}", body)):
            raise _refuse("bsha is not a SHA-256")
        if claims["aud"] != self.broker.hex():  # not one of several in a list
            raise _refuse("token is for another broker too")
        if claims["htm"] != method or claims["htu"] != target:
            raise _refuse("token is for another request")


def check_body(caller: Caller, body: bytes) -> None:
    """Raise `unauthenticated` unless the token was made for this body."""
    if not hmac.compare_digest(hashlib.sha256(body).digest(), caller.body_sha256):
        raise _refuse("token is for another body")


def _refuse(detail: str) -> BrokerError:
    return BrokerError(Code.UNAUTHENTICATED, detail)
