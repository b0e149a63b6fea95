"""The Litestar application: routes, limits and error handlers, over services built elsewhere.

Guarantees: every route but challenge, health, releases, renewals, the result key and the docs
demands a caller (a test walks the table); request bodies are capped; every error is a problem
document.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from litestar import Litestar, Response, get
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Tag

from broker.errors import BrokerError
from broker.http import log, models, problems, releases, results, tenants
from broker.http.context import Req, authenticator, services
from broker.http.docs_page import DocsPage, docs_router
from broker.http.tenants import answer
from broker.log.signer import in_our_words
from broker.services import Services
from verifier.wire.canonical import MAX_MESSAGE

VERSION: Final = "0.1.0"
DOCS: Final = "/schema"
WHO: Final = {
    "workload": "A runtime inside a confidential VM. No caller: its evidence speaks for it.",
    "registry": "A runtime, by a token of its instance key while its lease lives, or a signer.",
    "vendor": "A signer of the tenant, by a token for the one request.",
    "auditor": "A signer of the tenant: what is taken home and checked without this broker.",
    "relying party": "Whoever wants a result as a token; a signer or the lease's runtime asks.",
    "operator": "Anybody who can reach the broker.",
}
"""Tags of routes, and who calls them."""

OpenServices = Callable[[], AbstractAsyncContextManager[Services]]


@get("/health", operation_id="health", tags=["operator"])
async def health(request: Req) -> Response[bytes]:
    """Say that broker and HSM worker serve, who they are, and what they trust."""
    found = services(request)
    with in_our_words():
        await found.releases.hsm.info()  # a worker that died is no health
    return answer(
        {
            "status": "serving",
            "version": VERSION,
            "broker": found.broker.hex(),
            "simulated": found.info.simulated,
            "hsm": {"mode": found.info.mode, "oaep": found.info.oaep},
        }
    )


def make_app(open_services: OpenServices) -> Litestar:
    """Return the application; its services are opened when it starts and closed when it ends."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with open_services() as opened:
            app.state.services = opened
            app.state.authenticator = authenticator(opened)
            yield

    return Litestar(
        route_handlers=[
            health,
            *releases.ROUTES,
            *tenants.ROUTES,
            *models.ROUTES,
            *log.ROUTES,
            *results.ROUTES,
        ],
        lifespan=[lifespan],
        request_max_body_size=MAX_MESSAGE,
        openapi_config=OpenAPIConfig(
            title="Ostiary broker",
            version=VERSION,
            description="Releases keys only to attested workloads, and logs every release.",
            tags=[Tag(name=name, description=text) for name, text in WHO.items()],
            use_handler_docstrings=True,
            openapi_router=docs_router(DOCS),
            render_plugins=[JsonRenderPlugin(), DocsPage()],
        ),
        exception_handlers={
            BrokerError: problems.on_broker_error,
            HTTPException: problems.on_http_error,
            Exception: problems.on_anything,
        },
        debug=False,
        logging_config=None,
    )
