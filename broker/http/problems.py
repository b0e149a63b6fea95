"""One table from the broker's error codes to RFC 9457 problem documents.

Guarantees: a caller learns a stable code and a fixed sentence, never the reasons of a refusal, an
exception's text or a path; those go to the audit table and the operator's log. An error that is
not in the table is an opaque 500.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from broker.errors import BrokerError, Code

MEDIA_TYPE: Final = "application/problem+json"
_log = logging.getLogger("broker.http")

TABLE: Final[dict[Code, tuple[HTTPStatus, str]]] = {
    Code.MALFORMED: (HTTPStatus.BAD_REQUEST, "The request is not in its canonical form."),
    Code.TOO_LARGE: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too large."),
    Code.UNAUTHENTICATED: (HTTPStatus.UNAUTHORIZED, "This route needs a caller's token."),
    Code.FORBIDDEN: (HTTPStatus.FORBIDDEN, "This caller may not do that."),
    Code.NOT_FOUND: (HTTPStatus.NOT_FOUND, "There is no such thing here."),
    Code.CONFLICT: (HTTPStatus.CONFLICT, "It exists already, with other contents."),
    Code.CHALLENGE_UNKNOWN: (HTTPStatus.FORBIDDEN, "This broker did not make this challenge."),
    Code.CHALLENGE_EXPIRED: (HTTPStatus.FORBIDDEN, "The challenge has expired; ask for another."),
    Code.CHALLENGE_SPENT: (HTTPStatus.FORBIDDEN, "The challenge was used before; ask for another."),
    Code.COLLATERAL_UNAVAILABLE: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The vendor's endorsements for this platform are not at hand.",
    ),
    Code.EVIDENCE_REFUSED: (HTTPStatus.FORBIDDEN, "The evidence was not accepted."),
    Code.DENIED: (HTTPStatus.FORBIDDEN, "The policy does not allow this release."),
    Code.KEY_NOT_ACTIVE: (HTTPStatus.FORBIDDEN, "A key that was asked for may not be released."),
    Code.POLICY_ROLLED_BACK: (HTTPStatus.CONFLICT, "A newer version of this policy is in force."),
    Code.POLICY_INVALID: (HTTPStatus.UNPROCESSABLE_ENTITY, "The policy is not acceptable."),
    Code.STATE_MOVED: (HTTPStatus.CONFLICT, "Keys or policies changed meanwhile; ask again."),
    Code.STATE_MISMATCH: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The database does not say what the log says; an operator must look.",
    ),
    Code.LEASE_LIMIT: (HTTPStatus.FORBIDDEN, "The policy's number of leases is in use."),
    Code.LEASE_ENDED: (HTTPStatus.FORBIDDEN, "The lease has ended."),
    Code.GPU_IN_USE: (HTTPStatus.FORBIDDEN, "A GPU of this machine is in a lease elsewhere."),
    Code.PROVENANCE_REFUSED: (
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "A Sigstore bundle is not genuine under the trusted root that came with it.",
    ),
    Code.PROVENANCE_UNAVAILABLE: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "This broker cannot judge Sigstore bundles; its operator installs ostiary[provenance].",
    ),
    Code.LOG_UNAVAILABLE: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The log cannot be written, so nothing is released.",
    ),
    Code.LOG_ROLLED_BACK: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The database is behind the log's signed head; an operator must look.",
    ),
    Code.HSM_UNAVAILABLE: (HTTPStatus.SERVICE_UNAVAILABLE, "The HSM does not answer."),
    Code.HSM_REFUSED: (HTTPStatus.FORBIDDEN, "The HSM refused."),
    Code.PERMIT_SPENT: (HTTPStatus.CONFLICT, "This release was redeemed before."),
    Code.DATABASE_UNAVAILABLE: (HTTPStatus.SERVICE_UNAVAILABLE, "The database does not answer."),
}


def document(status: HTTPStatus, code: str, sentence: str) -> Response[bytes]:
    """Return a problem document; `type` is a relative reference that the docs explain."""
    body = msgspec.json.encode(
        {
            "type": f"/problems/{code}",
            "title": sentence,
            "status": int(status),
            "code": code,
        }
    )
    return Response(body, status_code=int(status), media_type=MEDIA_TYPE)


def on_broker_error(_: Request[Any, Any, Any], error: BrokerError) -> Response[bytes]:
    """Turn one of our errors into what a caller may see."""
    status, sentence = TABLE.get(
        error.code, (HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong here.")
    )
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s: %s", error.code.value, error)
    code = error.code.value if error.code in TABLE else Code.INTERNAL.value
    return document(status, code, sentence)


def on_http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Turn the framework's own refusals (404, 405, 413) into problem documents."""
    status = HTTPStatus(error.status_code)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return on_anything(_, error)
    code = Code.TOO_LARGE.value if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else "http"
    return document(status, code, status.phrase)


def on_anything(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Turn a mistake of ours into an opaque 500; its type goes to the log, its text does not."""
    _log.error("unexpected %s", type(error).__name__, exc_info=error)
    return document(
        HTTPStatus.INTERNAL_SERVER_ERROR, Code.INTERNAL.value, "Something went wrong here."
    )
