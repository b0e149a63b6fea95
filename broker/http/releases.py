"""Rooms 1 and 8: challenges, releases and renewals over HTTP. No caller: evidence is the caller."""

from __future__ import annotations

from typing import Final

from litestar import Response, post

from broker.http import body
from broker.http.bodies import WIRE, takes
from broker.http.context import Req, services
from verifier.wire import canonical
from verifier.wire.messages import ChallengeRequest, ReleaseRequest, RenewRequest

NO_STORE: Final = {"cache-control": "no-store"}


@post(
    "/v1/challenges",
    status_code=200,
    operation_id="challenge",
    tags=["workload"],
    operation_class=takes("ChallengeRequest", f"{WIRE}, sections 4 and 5"),
)
async def challenge(request: Req) -> Response[bytes]:
    """Issue a challenge to bind evidence to. Costs no state; lives 60 seconds."""
    message = await body.read(request, ChallengeRequest)
    answer = await services(request).releases.challenge(message)
    return Response(canonical.encode(answer), media_type=body.JSON, headers=NO_STORE)


@post(
    "/v1/releases",
    status_code=200,
    operation_id="release",
    tags=["workload"],
    operation_class=takes("ReleaseRequest", f"{WIRE}, section 5"),
)
async def release(request: Req) -> Response[bytes]:
    """Release keys to an attested workload: evidence in, wrapped keys, leaf and receipt out."""
    message = await body.read(request, ReleaseRequest)
    answer = await services(request).releases.release(message)
    return Response(answer, media_type=body.JSON, headers=NO_STORE)


@post(
    "/v1/renewals",
    status_code=200,
    operation_id="renew",
    tags=["workload"],
    operation_class=takes("RenewRequest", f"{WIRE}, sections 5 and 5.1"),
)
async def renew(request: Req) -> Response[bytes]:
    """Prolong a lease on fresh evidence, signed by the instance key. Returns no key."""
    message = await body.read(request, RenewRequest)
    answer = await services(request).releases.renew(message)
    return Response(answer, media_type=body.JSON, headers=NO_STORE)


ROUTES: Final = (challenge, release, renew)
