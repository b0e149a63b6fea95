"""What a caller may ask, decoded once into frozen types and printed anew for the engine.

Guarantees: a field that is not listed here never reaches the engine (engines read many of their
own from a body: adapters, slots, grammars, verbose modes); contents are text only, so that the
engine fetches nothing for a caller; what the engine reads is our own encoding.
Does not check every range: the engine does, and its refusal is passed on without its words.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, final

import msgspec
from msgspec import Meta

from inference_runtime.front.problems import Problem, Refusal

# Counts that would make one request cost as much as very many.
Count = Annotated[int, Meta(ge=1)]
Choices = Annotated[int, Meta(ge=1, le=8)]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Unknown fields are refused, at every level that we know; null says the same as absent."""

    def __repr__(self) -> str:
        """Show no content: a request is a secret of its caller."""
        return f"{type(self).__name__}(...)"


@final
class TextPart(_Strict, frozen=True):
    """The only kind of content part that is taken."""

    type: Literal["text"]
    text: str


@final
class Message(_Strict, frozen=True):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None


@final
class StreamOptions(_Strict, frozen=True):
    """Whether the last chunk tells the usage."""

    include_usage: bool = False


class _Common(_Strict, frozen=True):
    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Choices | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None


@final
class ChatRequest(_Common, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[Message]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None


@final
class CompletionRequest(_Common, frozen=True, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[str]
    echo: bool | None = None
    suffix: str | None = None
    logprobs: TopLogprobs | None = None


Request = ChatRequest | CompletionRequest

_decoders: Final[dict[type[Request], msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind, strict=True) for kind in (ChatRequest, CompletionRequest)
}
# The schema's own words, such as `$.messages[0].role`; names of a caller's keys are `[...]`.
_PLACE: Final = re.compile(r" - at `(?:key in )?(\$[A-Za-z_.\[\]\d]*)`\Z")


def decode(kind: type[Request], body: bytes) -> Request:
    """Return the request in `body`.

    Raises:
        Refusal: MALFORMED, naming the place in the schema and nothing of the body.
    """
    try:
        request: Request = _decoders[kind].decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        place = _PLACE.search(str(error))
        # `from None`: the text of a decode error may quote the body.
        raise Refusal(Problem.MALFORMED, where=place[1] if place else None) from None
    return request


def encode_for_engine(request: Request) -> bytes:
    """Return the body that the engine gets: the known fields without the caller's own marks."""
    # `user` tells the engine who asks, which it has no need to know.
    return msgspec.json.encode(msgspec.structs.replace(request, user=None))
