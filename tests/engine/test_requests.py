from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_runtime.front.problems import Problem, Refusal
from inference_runtime.front.requests import (
    ChatRequest,
    CompletionRequest,
    decode,
    encode_for_engine,
)

CANARY = "canary-51d0-do-not-show"
CHAT = {"model": "demo", "messages": [{"role": "user", "content": CANARY}]}

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["model", "messages", "role", "content", "prompt", "stream", "n", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([ChatRequest, CompletionRequest]))
def test_any_bytes_are_a_request_or_a_refusal(
    body: bytes, kind: type[ChatRequest | CompletionRequest]
) -> None:
    """Bytes that are no request raise our refusal and nothing else."""
    with pytest.raises(Refusal) as refused:
        decode(kind, body)

    assert refused.value.code == Problem.MALFORMED


@settings(max_examples=200, deadline=None)
@given(_json, st.sampled_from([ChatRequest, CompletionRequest]))
def test_any_json_is_a_request_or_a_refusal(
    value: object, kind: type[ChatRequest | CompletionRequest]
) -> None:
    """What is taken is printed and read again as the same request; all else is our refusal."""
    try:
        request = decode(kind, json.dumps(value).encode())
    except Refusal:
        return

    assert decode(kind, encode_for_engine(request)) == request


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=20))),
    st.none() | st.floats(0, 2),
    st.booleans(),
)
def test_a_conversation_reaches_the_engine_as_it_was_sent(
    turns: list[tuple[str, str]], temperature: float | None, stream: bool
) -> None:
    """The known fields are forwarded unchanged, absent ones stay absent."""
    sent: dict[str, object] = {
        "model": "demo",
        "messages": [{"role": role, "content": content} for role, content in turns],
    }
    sent |= {"temperature": temperature} if temperature is not None else {}
    sent |= {"stream": True} if stream else {}

    forwarded = encode_for_engine(decode(ChatRequest, msgspec.json.encode(sent)))

    assert json.loads(forwarded) == sent


@pytest.mark.parametrize(
    "extra",
    [
        {"lora": [{"id": 0, "scale": 1}]},
        {"id_slot": 0},
        {"cache_prompt": True},
        {"grammar": "root ::= [a]"},
        {"__verbose": True},
        {"chat_template_kwargs": {}},
        {"timings_per_token": True},
        {"store": True},
        {"stream": 1},
        {"stream": "true"},
        {"n": 0},
        {"n": 1000},
        {"max_tokens": -1},
        {"max_tokens": 1.5},
        {"top_logprobs": 10**6},
        {"model": None},
    ],
)
def test_fields_of_the_engine_itself_and_odd_values_are_refused(extra: dict[str, object]) -> None:
    """A body cannot reach what llama.cpp reads beyond OpenAI's fields, nor ask for too much."""
    with pytest.raises(Refusal):
        decode(ChatRequest, json.dumps({**CHAT, **extra}).encode())


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://198.51.100.1/"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {"file_id": "x"}},
        {"type": "text", "text": "x", "extra": 1},
    ],
)
def test_contents_that_an_engine_would_fetch_are_refused(part: dict[str, object]) -> None:
    """Only text parts are taken, so no caller can make the engine open a connection."""
    body = {"model": "demo", "messages": [{"role": "user", "content": [part]}]}
    with pytest.raises(Refusal):
        decode(ChatRequest, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"model": "demo", "messages": [{"role": CANARY, "content": "x"}]}, "$.messages[0].role"),
        ({"model": "demo", "messages": [{"role": "user", CANARY: "x"}]}, "$.messages[0]"),
        ({"model": "demo", "messages": [], CANARY: 1}, None),
        ({"model": "demo", "messages": CANARY}, "$.messages"),
        ({"model": "demo", "messages": [], "logit_bias": {CANARY: "x"}}, "$.logit_bias[...]"),
        ({"model": "demo", "messages": [], f"at `$.{CANARY}`": "x"}, None),
    ],
)
def test_a_refusal_names_the_place_and_shows_nothing_of_the_body(
    body: dict[str, object], where: str | None
) -> None:
    """The schema's path is told; values and unknown names of the caller are not."""
    with pytest.raises(Refusal) as refused:
        decode(ChatRequest, json.dumps(body).encode())

    assert refused.value.where == where
    assert CANARY.encode() not in refused.value.body()
    assert CANARY not in f"{refused.value!r}{refused.value.__cause__!r}"


def test_a_request_does_not_show_itself() -> None:
    """Neither a request nor a message of it prints its content."""
    request = decode(ChatRequest, json.dumps(CHAT).encode())

    assert CANARY not in repr(request)
    assert isinstance(request, ChatRequest)
    assert CANARY not in repr(request.messages)


def test_who_asks_is_not_told_to_the_engine() -> None:
    """The caller's own mark is taken and dropped."""
    request = decode(ChatRequest, json.dumps({**CHAT, "user": "alice"}).encode())

    assert json.loads(encode_for_engine(request)) == CHAT


def test_deep_nesting_is_refused() -> None:
    """A body made to exhaust the stack is an error like any other."""
    deep = b'{"model":"demo","messages":[],"tools":[{"a":' + b"[" * 100_000
    with pytest.raises(Refusal):
        decode(ChatRequest, deep)
