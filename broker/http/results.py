"""Attestation results as tokens (EAR), and the public key that checks them."""

from __future__ import annotations

from typing import Final, Literal

from litestar import Response, get
from litestar.params import FromQuery

from broker.errors import BrokerError, Code
from broker.http.context import Count, Name, Req, caller, services
from broker.http.tenants import ROOT
from verifier.ear.result import Asked
from verifier.errors import VerifierError
from verifier.wire.canonical import hexdecode

TOKEN: Final = "application/eat+jwt"  # noqa: S105 - a media type (RFC 9782)
KEYS: Final = "application/jwk-set+json"
NO_STORE: Final = {"cache-control": "no-store"}


@get("/.well-known/jwks.json", operation_id="result_keys", tags=["relying party"])
async def keys(request: Req) -> Response[bytes]:
    """Return the key that signs attestation results, as a JWK set. Pin it: see docs/ear.md."""
    return Response(services(request).results.keys(), media_type=KEYS)


@get(f"{ROOT}/leases/{{lease:str}}/result", operation_id="lease_result", tags=["relying party"])
async def of_lease(  # noqa: PLR0917 - the parts of one query
    request: Req,
    tenant: Name,
    lease: Name,
    aud: FromQuery[str],
    nonce: FromQuery[str],
    dialect: FromQuery[Literal["ietf", "legacy"]] = "ietf",
) -> Response[bytes]:
    """Return a token (EAR) about the newest evidence of a live lease, for one audience."""
    who = await caller(request)
    asked = Asked(dialect, aud, _nonce(nonce))
    token = await services(request).results.of_lease(who, tenant, lease, asked)
    return Response(token, media_type=TOKEN, headers=NO_STORE)


@get(f"{ROOT}/log/result", operation_id="leaf_result", tags=["relying party"])
async def of_leaf(  # noqa: PLR0917 - the parts of one query
    request: Req,
    tenant: Name,
    index: Count,
    aud: FromQuery[str],
    nonce: FromQuery[str],
    dialect: FromQuery[Literal["ietf", "legacy"]] = "ietf",
) -> Response[bytes]:
    """Return a token (EAR) about the release or renewal at a leaf, while its lease lives."""
    who = await caller(request)
    asked = Asked(dialect, aud, _nonce(nonce))
    token = await services(request).results.of_leaf(who, tenant, index, asked)
    return Response(token, media_type=TOKEN, headers=NO_STORE)


def _nonce(text: str) -> bytes:
    try:
        return hexdecode(text)
    except VerifierError as error:
        raise BrokerError(Code.MALFORMED, "nonce is lower-case hexadecimal") from error


ROUTES: Final = (keys, of_lease, of_leaf)
