from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from inference_runtime.engine.protocol import EngineAddress
from inference_runtime.front.app import Front, FrontLimits
from inference_runtime.front.server import serve_front
from inference_runtime.front.state import NotServing, ServingState
from tests.kit.engine import DIGEST, LONG, MODEL, House, running_front

CANARY = "canary-90aa-do-not-show"
ASK: list[Any] = [{"role": "user", "content": f"Who is there? {CANARY}"}]
BODY = {"model": MODEL, "messages": ASK, "max_tokens": 4}


def _live(gguf: Path, story: Callable[[House], Awaitable[None]], **options: Any) -> None:
    """Run `story` in a served house."""

    async def run() -> None:
        async with running_front(gguf, **options) as house:
            await asyncio.wait_for(story(house), 90)  # the processors are shared

    asyncio.run(run())


def _code(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert CANARY not in answer.text
    return answer.status_code, error["code"]


def test_the_openai_client_chats_streams_completes_and_lists(gguf: Path) -> None:
    """The unmodified client gets answers with usage, and the model with its digest."""

    async def story(house: House) -> None:
        chat = await house.client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=16)
        assert chat.choices[0].message.content
        assert chat.model == MODEL
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 16

        stream = await house.client.chat.completions.create(
            model=MODEL,
            messages=ASK,
            max_completion_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 16

        text = await house.client.completions.create(model=MODEL, prompt="Many knock", max_tokens=8)
        assert text.choices[0].text

        models = [model async for model in house.client.models.list()]
        assert [(m.id, m.model_extra) for m in models] == [(MODEL, {"model_digest": DIGEST})]

    _live(gguf, story)


ELSEWHERE = [
    "/",
    "/props",
    "/slots",
    "/metrics",
    "/lora-adapters",
    "/models",
    "/completion",
    "/tokenize",
    "/v1/embeddings",
    "/v1/models/demo",
    "/v1/models/",
    "/v1//models",
    "/v1/../props",
    "/v1/models%2f..%2f..%2fprops",
    "/docs",
]


def test_there_is_nothing_beside_the_listed_paths(gguf: Path) -> None:
    """Admin paths of the engine and near misses are 404 in OpenAI's shape, for every method."""

    async def story(house: House) -> None:
        for path in ELSEWHERE:
            for method in ("GET", "POST", "DELETE", "OPTIONS"):
                target = house.http.base_url.copy_with(raw_path=path.encode())
                answer = await house.http.request(method, target)
                assert (path, *_code(answer)) == (path, 404, "not_found")

    _live(gguf, story)


def test_a_listed_path_takes_its_own_method_only(gguf: Path) -> None:
    """Other methods on the five paths are 405."""

    async def story(house: House) -> None:
        for method, path in [
            ("POST", "/health"),
            ("POST", "/ready"),
            ("DELETE", "/v1/models"),
            ("GET", "/v1/chat/completions"),
            ("PUT", "/v1/completions"),
        ]:
            assert _code(await house.http.request(method, path)) == (405, "method_not_allowed")

    _live(gguf, story)


def test_bodies_are_capped_typed_and_known(gguf: Path) -> None:
    """Each kind of bad body has its own code, and none of it comes back."""
    limits = FrontLimits(body_bytes=2000, body_seconds=0.3)

    async def story(house: House) -> None:
        path = "/v1/chat/completions"
        js = {"content-type": "application/json"}

        async def endless() -> Any:
            for _ in range(100):
                yield b" " * 100

        async def slow() -> Any:
            yield b"{"
            await asyncio.sleep(1.5)
            yield b"}"

        async def post(content: Any, **headers: str) -> tuple[int, str]:
            sent = {**js, **{k.replace("_", "-"): v for k, v in headers.items()}}
            return _code(await house.http.post(path, content=content, headers=sent))

        good = json.dumps(BODY)
        assert await post(good, content_type="text/plain") == (415, "unsupported_media_type")
        assert await post(good, content_type="") == (415, "unsupported_media_type")
        other = "application/json; charset=utf-16"
        assert await post(good, content_type=other) == (415, "unsupported_media_type")
        assert await post(good, content_encoding="gzip") == (415, "unsupported_media_type")
        assert await post(good + " " * 2000) == (413, "too_large")
        assert await post(endless()) == (413, "too_large")
        assert await post(slow()) == (408, "body_timeout")
        assert await post(f'{{"{CANARY}": ') == (400, "malformed")
        assert await post(json.dumps({**BODY, CANARY: 1})) == (400, "malformed")
        wrong = json.dumps({**BODY, "model": CANARY})
        assert await post(wrong) == (404, "model_not_found")
        assert await post(b"\xff\xfe" + good.encode()) == (400, "malformed")
        fine = await house.http.post(
            path, content=good, headers={"content-type": 'application/json; charset="UTF-8"'}
        )
        assert fine.status_code == 200
        assert fine.headers["cache-control"] == "no-store"
        assert "server" not in fine.headers
        assert not any(name.startswith("access-control") for name in fine.headers)

    _live(gguf, story, limits=limits)


def test_what_the_engine_refuses_is_told_without_its_words(gguf: Path) -> None:
    """A prompt beyond the context and a value the engine cannot use have codes of ours."""

    async def story(house: House) -> None:
        long = {**BODY, "messages": [{"role": "user", "content": CANARY * 3000}]}
        answer = await house.http.post("/v1/chat/completions", json=long)
        assert _code(answer) == (400, "context_length_exceeded")
        answer = await house.http.post("/v1/chat/completions", json={**long, "stream": True})
        assert _code(answer) == (400, "context_length_exceeded")
        shape = {"type": CANARY}
        bad = {**BODY, "response_format": shape}
        answer = await house.http.post("/v1/chat/completions", json=bad)
        assert _code(answer) == (400, "engine_refused")

    _live(gguf, story)


def test_liveness_and_readiness_follow_the_state() -> None:
    """Without an engine the process is alive and not ready, and says why."""

    async def run() -> None:
        steps = ("attested", "key_held", "engine_up")
        state = ServingState()
        server = await serve_front(Front(state))
        base = f"http://127.0.0.1:{server.port}"
        try:
            async with httpx.AsyncClient(base_url=base, trust_env=False) as http:
                assert (await http.get("/health")).json() == {"status": "alive"}
                ready = await http.get("/ready")
                assert (ready.status_code, ready.json()["reason"]) == (503, "starting")
                assert [ready.json()[name] for name in steps] == [False, False, False]
                state.released()
                ready = await http.get("/ready")
                assert ready.status_code == 503
                assert [ready.json()[name] for name in steps] == [True, True, False]
                assert _code(await http.get("/v1/models")) == (503, "starting")
                answer = await http.post("/v1/chat/completions", json=BODY)
                assert _code(answer) == (503, "starting")
                nowhere = EngineAddress("/nonexistent/engine.sock", "http://engine", "key")
                state.begin(model=MODEL, model_digest=DIGEST, engine=nowhere)
                ready = await http.get("/ready")
                assert ready.status_code == 200
                assert ready.json()["model_digest"] == DIGEST
                assert [ready.json()[name] for name in steps] == [True, True, True]
                answer = await http.post("/v1/chat/completions", json=BODY)
                assert _code(answer) == (503, "engine_unavailable")
                state.cut(NotServing.LEASE_ENDED)
                ready = await http.get("/ready")
                assert (ready.status_code, ready.json()["reason"]) == (503, "lease_ended")
                assert [ready.json()[name] for name in steps] == [True, False, False]
        finally:
            await server.stop()

    asyncio.run(run())


def test_a_state_begins_once_and_keeps_its_first_reason() -> None:
    """What was stopped is not started again, and later reasons do not hide the first."""

    async def run() -> None:
        address = EngineAddress("/x", "http://engine", "key")
        state = ServingState()
        state.begin(model=MODEL, model_digest=DIGEST, engine=address)
        with pytest.raises(RuntimeError):
            state.begin(model=MODEL, model_digest=DIGEST, engine=address)
        state.drain(NotServing.LEASE_REVOKED)
        state.cut(NotServing.ENGINE_EXITED)
        assert (state.serving, state.reason, state.engine) == (False, "lease_revoked", None)
        with pytest.raises(RuntimeError):
            state.begin(model=MODEL, model_digest=DIGEST, engine=address)

    asyncio.run(run())


async def _long_stream(house: House, tokens: int = 8000) -> Any:
    """Begin an answer that runs for a while (8000 tokens: seconds), and take its first chunk."""
    stream = await house.client.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=tokens, stream=True
    )
    await anext(stream)
    return stream


def test_the_end_of_the_lease_cuts_what_runs_and_refuses_what_comes(gguf: Path) -> None:
    """A running stream ends with an error that names the reason; so does a waiting answer."""

    async def story(house: House) -> None:
        stream = await _long_stream(house)
        waiting = asyncio.create_task(
            house.http.post("/v1/chat/completions", json={**BODY, "max_tokens": 8000})
        )
        await asyncio.sleep(0.05)
        house.state.cut(NotServing.LEASE_ENDED)
        with pytest.raises(openai.APIError) as cut:
            async for _ in stream:
                pass
        assert cut.value.code == "lease_ended"
        assert _code(await waiting) == (503, "lease_ended")
        with pytest.raises(openai.APIStatusError) as refused:
            await house.client.chat.completions.create(model=MODEL, messages=ASK)
        assert (refused.value.status_code, refused.value.code) == (503, "lease_ended")
        assert await house.app.drained(5)

    _live(gguf, story, settings=LONG)


def test_a_drain_lets_what_runs_go_on(gguf: Path) -> None:
    """New requests are refused, the running one gets its end, and `drained` tells when."""

    async def story(house: House) -> None:
        stream = await _long_stream(house, 1500)
        house.state.drain(NotServing.STOPPING)
        assert _code(await house.http.post("/v1/chat/completions", json=BODY)) == (503, "stopping")
        assert not await house.app.drained(0)
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices[0].finish_reason == "length"
        assert await house.app.drained(5)

    _live(gguf, story, settings=LONG)


def test_an_engine_that_is_killed_ends_streams_and_gives_503(gguf: Path) -> None:
    """Before anyone flips the state, callers already get a clear answer."""

    async def story(house: House) -> None:
        stream = await _long_stream(house)
        os.kill(house.engine.pid, signal.SIGKILL)
        assert await house.engine.wait_exit() == -signal.SIGKILL
        with pytest.raises(openai.APIError) as ended:
            async for _ in stream:
                pass
        assert ended.value.code == "engine_unavailable"
        answer = await house.http.post("/v1/chat/completions", json=BODY)
        assert _code(answer) == (503, "engine_unavailable")
        house.state.cut(NotServing.ENGINE_EXITED)
        answer = await house.http.post("/v1/completions", json={"model": MODEL, "prompt": "x"})
        assert _code(answer) == (503, "engine_exited")

    _live(gguf, story, settings=LONG)


def test_a_caller_that_leaves_frees_its_place(gguf: Path) -> None:
    """The only place is taken (429), its caller leaves, and the engine answers the next one."""

    async def story(house: House) -> None:
        stream = await _long_stream(house)
        answer = await house.http.post("/v1/chat/completions", json=BODY)
        assert _code(answer) == (429, "too_many_requests")
        await stream.close()
        assert await house.app.drained(5)
        before = asyncio.get_running_loop().time()
        answer = await house.http.post("/v1/chat/completions", json=BODY)
        assert answer.status_code == 200
        # With one slot this would wait for the long answer, had the engine not dropped it.
        assert asyncio.get_running_loop().time() - before < 1

    one = type(LONG)(context=8192, answer=8000, slots=1)
    _live(gguf, story, settings=one, limits=FrontLimits(in_flight=1))


def test_the_callers_headers_do_not_reach_the_engine(gguf: Path) -> None:
    """A wrong or absent Authorization changes nothing: the engine only sees our key."""

    async def story(house: House) -> None:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}):
            answer = await house.http.post("/v1/chat/completions", json=BODY, headers=headers)
            assert answer.status_code == 200
            assert house.engine.address.api_key not in answer.text + repr(answer.headers)

    _live(gguf, story)


def test_the_front_can_be_served_on_a_private_unix_socket(tmp_path: Path) -> None:
    """The socket is for this user only and is removed at the end; a taken place is an error."""
    uds = tmp_path / "front.sock"

    async def run() -> int:
        server = await serve_front(Front(ServingState()), uds=uds)
        transport = httpx.AsyncHTTPTransport(uds=str(uds))
        async with httpx.AsyncClient(transport=transport, base_url="http://front") as http:
            assert (await http.get("/health")).status_code == 200
        with pytest.raises(OSError, match="in use"):
            await serve_front(Front(ServingState()), uds=uds)
        mode = os.stat(uds).st_mode & 0o777  # noqa: PTH116 - one call, in a test
        await server.stop()
        return mode

    assert asyncio.run(run()) == 0o600
    assert not uds.exists()


def test_a_taken_port_is_an_error() -> None:
    """The front does not start where another one listens."""

    async def run(port: int) -> None:
        with pytest.raises(OSError, match="in use"):
            await serve_front(Front(ServingState()), port=port)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        asyncio.run(run(taken.getsockname()[1]))


def test_a_caller_that_leaves_while_sending_its_body_is_forgotten(gguf: Path) -> None:
    """Half a request and a closed connection leave nothing running."""

    async def story(house: House) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
            b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
        )
        await writer.drain()
        await asyncio.sleep(0.1)
        assert not await house.app.drained(0.01)
        writer.close()
        await writer.wait_closed()
        assert await house.app.drained(5)

    _live(gguf, story)
