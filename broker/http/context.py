"""What every route gets: the services, and who calls."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias, cast

from litestar import Request
from litestar.params import FromPath, FromQuery, PathParameter, QueryParameter

from broker.errors import BrokerError, Code
from broker.http.auth import Authenticator, Caller
from broker.services import Services
from verifier import dsse

Req = Request[Any, Any, Any]

MAX_COUNT: Final = 1 << 53
"""Numbers in a request stay below it, so that every database can hold them."""

Name: TypeAlias = FromPath[str]
"""A name in a path."""
Version: TypeAlias = Annotated[int, PathParameter(ge=1, lt=1 << 32)]
"""A version in a path, in the bounds of `verifier.wire.messages.KeyRef`."""
Entry: TypeAlias = Annotated[int, PathParameter(ge=1, lt=MAX_COUNT)]
"""The number of a row in a path."""
Count: TypeAlias = Annotated[int, QueryParameter(ge=0, lt=MAX_COUNT)]
"""A number in a query."""
Flag: TypeAlias = FromQuery[bool]
"""Yes or no in a query."""


def services(request: Req) -> Services:
    """Return the services of this broker."""
    return cast("Services", request.app.state.services)


async def caller(request: Req) -> Caller:
    """Return who calls, or refuse with `unauthenticated`.

    The target is the path and query as they came, still percent-encoded: what the token signed.
    """
    query = request.scope.get("query_string", b"").decode("latin-1")
    path = request.scope["raw_path"].decode("latin-1").partition("?")[0]
    target = f"{path}?{query}" if query else path
    authenticator = cast("Authenticator", request.app.state.authenticator)
    return await authenticator.caller(
        request.headers.get("authorization"), method=request.method, target=target
    )


def authenticator(services: Services) -> Authenticator:
    """Return what checks tokens against tenants' signers and live leases."""

    async def find_keys(issuer: str) -> tuple[str, dict[str, bytes]]:
        try:
            if issuer.startswith("lease:"):
                lease = await services.leases.find_live(issuer.removeprefix("lease:"))
                tenants = await services.tenants.everyone()
                name = next(tenant.name for tenant in tenants if tenant.g == lease.g)
                return name, {dsse.key_id(lease.instance): lease.instance}
            tenant = await services.tenants.find(issuer)
        except BrokerError as error:
            if error.code in {Code.NOT_FOUND, Code.LEASE_ENDED}:
                raise BrokerError(Code.UNAUTHENTICATED, "unknown issuer") from error
            raise
        return tenant.name, {dsse.key_id(spki): bytes(spki) for spki in tenant.genesis.signers}

    return Authenticator(services.broker, find_keys, services.store.spend_challenge, services.clock)
