"""Every error that the front answers with: one closed table, in OpenAI's shape.

Guarantees: the text of an error is fixed here; nothing of a request, of an answer or of the
engine's own words is ever in it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, final

import msgspec


@final
class Problem(StrEnum):
    """Stable codes; the reasons of `state.NotServing` come beside them, with status 503."""

    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    TOO_LARGE = "too_large"
    BODY_TIMEOUT = "body_timeout"
    MALFORMED = "malformed"
    UNKNOWN_MODEL = "model_not_found"
    CONTEXT_EXCEEDED = "context_length_exceeded"
    ENGINE_REFUSED = "engine_refused"
    ENGINE_ERROR = "engine_error"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    TOO_MANY = "too_many_requests"


_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"

_TABLE: Final[dict[Problem, tuple[int, str, str]]] = {
    Problem.NOT_FOUND: (404, _INVALID, "There is nothing at this path."),
    Problem.METHOD_NOT_ALLOWED: (405, _INVALID, "This path does not take this method."),
    Problem.UNSUPPORTED_MEDIA_TYPE: (
        415,
        _INVALID,
        "The body must be application/json in UTF-8, without a content encoding.",
    ),
    Problem.TOO_LARGE: (413, _INVALID, "The body is larger than this server takes."),
    Problem.BODY_TIMEOUT: (408, _INVALID, "The body did not arrive in time."),
    Problem.MALFORMED: (
        400,
        _INVALID,
        "The body is not a request that this server knows: a field is unknown, missing or wrong.",
    ),
    Problem.UNKNOWN_MODEL: (404, _INVALID, "No such model is served here; see /v1/models."),
    Problem.CONTEXT_EXCEEDED: (400, _INVALID, "The request is longer than the model's context."),
    Problem.ENGINE_REFUSED: (400, _INVALID, "The engine refused the values in this request."),
    Problem.ENGINE_ERROR: (502, _SERVER, "The engine failed at this request."),
    Problem.ENGINE_UNAVAILABLE: (503, _SERVER, "The engine cannot be reached."),
    Problem.TOO_MANY: (429, "rate_limit_error", "Too many requests run at this moment."),
}

_NOT_SERVING: Final = "The model is not served at this moment; the code says why."


@final
class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure
    """A request that ends in an error answer. `code` is a `Problem` or a `NotServing` value."""

    def __init__(self, code: Problem | str, *, where: str | None = None) -> None:
        """Make a refusal; `where` names the place in the schema, such as `$.messages[0].role`."""
        super().__init__(str(code))
        self.code = str(code)
        self.where = where

    @property
    def status(self) -> int:
        """HTTP status."""
        return self._row()[0]

    def body(self) -> bytes:
        """Return the JSON body: `error` with message, type, param and code, as OpenAI's API has."""
        _, kind, message = self._row()
        error = {"message": message, "type": kind, "param": self.where, "code": self.code}
        return msgspec.json.encode({"error": error})

    def _row(self) -> tuple[int, str, str]:
        try:
            return _TABLE[Problem(self.code)]
        except ValueError:
            return (503, _SERVER, _NOT_SERVING)
