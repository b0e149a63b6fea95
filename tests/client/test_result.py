"""The vendor's client asks for a token about a lease, and says exactly what it asks."""

from __future__ import annotations

import httpx
import jwt

from ostiary.client import Tenant, TenantClient
from tests.kit.runtime import SoftBroker


def test_what_is_asked_is_what_the_caller_signs() -> None:
    """Audience and lease are percent-encoded once; the caller's token names that very target."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b"a.b.c"))

    broker = SoftBroker()
    client = TenantClient(
        "http://broker",
        Tenant.read(broker.document),
        broker.vendor,
        transport=httpx.MockTransport(answer),
    )
    raw = client.result("l/1", "https://x.example/?a=b&c", "00" * 32, "legacy")

    assert raw == b"a.b.c"
    target = seen[0].url.raw_path.decode()
    assert target.endswith(
        f"/leases/l%2F1/result?aud=https%3A%2F%2Fx.example%2F%3Fa%3Db%26c&nonce={'00' * 32}"
        "&dialect=legacy"
    )
    bearer = seen[0].headers["authorization"].removeprefix("Bearer ")
    assert jwt.decode(bearer, options={"verify_signature": False})["htu"] == target
