"""Asking NRAS: what is sent, whose keys are fetched, and how often."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from ostiary.simulator.services import Reply
from tests.kit import nvrim
from tests.kit.collateral import LIMITS
from tests.kit.nvrim import KID, NONCE, Place, jwks, nras_answer
from tests.kit.vendors import NOW
from verifier.collateral import nras as client
from verifier.collateral.nras import NrasClient
from verifier.collateral.web import Budget, Web
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import nras

T = TypeVar("T")
JSON = {"Content-Type": "application/json"}
KEYS = "/.well-known/jwks.json"


class Nras:
    """A service that says what it is told to, and remembers what it was asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []

    def get(self, path: str) -> tuple[str, bytes] | None:
        return ("application/jwk-set+json", jwks()) if path == KEYS else None

    def post(self, path: str, body: bytes) -> tuple[str, bytes] | None:
        self.asked.append({"path": path} | json.loads(body))
        return "application/json", self.answer


def run(place: Place, use: Callable[[NrasClient], Coroutine[Any, Any, T]], **options: Any) -> T:
    async def within() -> T:
        web = Web(LIMITS)
        asked = NrasClient(web, place.server.url, budget=Budget(100, 100), **options)
        try:
            return await use(asked)
        finally:
            await asked.aclose()
            await web.aclose()

    return asyncio.run(within())


def serve(place: Place, answer: bytes | None = None) -> Nras:
    told: Any = Nras(nras_answer() if answer is None else answer)
    place.server.vendors.nvidia = told
    return told  # type: ignore[no-any-return]


def ask(asked: NrasClient) -> Coroutine[Any, Any, tuple[bytes, nras.Keys]]:
    return asked.ask([(b"report", b"chain")], nonce=NONCE, arch="HOPPER")


def test_evidence_goes_out_as_it_came(place: Place) -> None:
    """Report, chain and nonce are sent as they are; answer and keys fit each other."""
    service = serve(place)
    answer, keys = run(place, ask, key="secret")
    (sent,) = service.asked
    assert sent == {
        "path": "/v3/attest/gpu",
        "nonce": NONCE.hex(),
        "arch": "HOPPER",
        "evidence_list": [
            {
                "evidence": base64.b64encode(b"report").decode(),
                "certificate": base64.b64encode(b"chain").decode(),
            }
        ],
        "claims_version": "3.0",
    }
    assert nras.check(answer, keys, nonce=NONCE, leaf_serials=(11,), now=NOW).devices


def test_switches_are_asked_about_where_switches_are(place: Place) -> None:
    """NRAS has a place of its own for them."""
    service = serve(place, nras_answer(prefix="SWITCH"))
    run(
        place,
        lambda asked: asked.ask([(b"r", b"c")], nonce=NONCE, arch="LS10", devices="switch"),
    )
    assert service.asked[0]["path"] == "/v3/attest/switch"


def test_keys_are_fetched_once(place: Place) -> None:
    """As long as the key ids are known nothing is fetched, and never twice at once."""
    serve(place)

    async def often(asked: NrasClient) -> None:
        await asyncio.gather(*(ask(asked) for _ in range(4)))
        await ask(asked)
        assert await asked.keys(frozenset()) == await asked.keys(frozenset({KID}))

    run(place, often)
    assert place.server.asked[KEYS] == 1


def test_an_unknown_key_is_asked_for_once_a_minute(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's key ids do not make us ask again and again."""
    other = nras_answer(sign=lambda claims: nvrim.token(claims, kid="another"))
    serve(place, other)

    async def often(asked: NrasClient) -> None:
        for _ in range(3):
            answer, keys = await ask(asked)
            with pytest.raises(VerifierError, match="unknown"):
                nras.check(answer, keys, nonce=NONCE, leaf_serials=(11,), now=NOW)
        assert place.server.asked[KEYS] == 1
        monkeypatch.setattr(client, "KEYS_AGAIN_S", 0.0)
        await ask(asked)
        assert place.server.asked[KEYS] == 2

    run(place, often)


def test_a_service_that_fails_is_an_error(place: Place) -> None:
    """No answer, another form, or unsigned tokens: an error by name, never an opinion."""
    serve(place, b"{}")
    for answer, reason in (
        (b"{}", Reason.MALFORMED),
        (nras_answer(sign=nvrim.unsigned), Reason.SIGNATURE_MISSING),
    ):
        serve(place, answer)
        with pytest.raises(VerifierError) as caught:
            run(place, ask)
        assert caught.value.reason is reason
    serve(place)
    place.server.fail(KEYS, Reply(200, b"{}", JSON))
    with pytest.raises(VerifierError) as caught:
        run(place, ask)
    assert caught.value.reason is Reason.COLLATERAL_MALFORMED
    place.server.fail("/v3", Reply(403))
    with pytest.raises(VerifierError) as caught:
        run(place, ask)
    assert caught.value.reason is Reason.COLLATERAL_UNAVAILABLE
