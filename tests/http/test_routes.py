"""Who gets past the door: every route without a caller, with a stranger, with the wrong one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.http.problems import TABLE
from tests.kit.broker import House, problem
from tests.kit.broker_guest import identity
from tests.kit.broker_home import MODEL, RIVAL, TENANT
from verifier.wire import canonical, leaf, messages
from verifier.wire.canonical import B64

OPEN = {
    ("GET", "/health"),
    ("GET", "/.well-known/jwks.json"),
    ("POST", "/v1/challenges"),
    ("POST", "/v1/releases"),
    ("POST", "/v1/renewals"),
}
VALUES = {
    "tenant": TENANT,
    "model": "m",
    "version": "1",
    "path": "/a",
    "lease": "none",
    "entry": "1",
    "policy": "00" * 32,
}
QUERIES = {
    "/result": f"?index=0&aud=a&nonce={'00' * 32}",
    "/log/proof": "?index=0",
    "/log/consistency": "?old=1&new=2",
}
BODY = canonical.encode(messages.KeyImport(v=1, statement=B64(b"s"), ciphertext=B64(b"c")))
"""What every route that takes a body is given: canonical where it is read before its caller is."""
REGISTRY = ("/models/", "/leases/")


def routes(house: House) -> Iterator[tuple[str, str]]:
    """Give method and target of every route that needs a caller, as the application has them."""
    for route in house.app.routes:
        if route.path.startswith("/schema"):
            continue
        target = re.sub(r"\{(\w+):\w+\}", lambda m: VALUES[m[1]], route.path).replace("//", "/")
        for suffix, query in QUERIES.items():
            target += query if target.endswith(suffix) else ""
        for method in sorted(route.methods):
            if method != "OPTIONS" and (method, target) not in OPEN:
                yield method, target


def refusal(house: House, method: str, target: str, bearer: str | None) -> tuple[int, str]:
    """Return status and code of what must be refused."""
    body = BODY if method in {"POST", "PUT"} else None
    header = None if bearer is None else f"Bearer {bearer}"
    media = "application/octet-stream" if "/files/" in target else "application/json"
    answer = house.send(method, target, body, authorization=header, content_type=media)
    assert answer.headers["content-type"] == "application/problem+json"
    if method == "HEAD":
        return answer.status_code, ""
    return answer.status_code, str(msgspec.json.decode(answer.content)["code"])


def test_the_walk_sees_every_route(house: House) -> None:
    """The walk is not empty, and finds what it must: some twenty routes in every area."""
    found = set(routes(house))

    assert len(found) >= 19
    for area in ("/keys", "/key-orders", "/policies", "/state", "/log/", "/audit", *REGISTRY):
        assert any(area in target for _, target in found), area


def test_nobody(house: House) -> None:
    """Without a caller every route but the six open ones answers 401."""
    for method, target in routes(house):
        status, code = refusal(house, method, target, None)
        assert (status, code) in {(401, "unauthenticated"), (401, "")}, (method, target)


def test_stranger(house: House) -> None:
    """A well-formed token by a key that nobody enrolled is 401 on every route."""
    key = Ed25519PrivateKey.generate()
    for method, target in routes(house):
        bearer = house.token(method, target, BODY, key=key)
        assert refusal(house, method, target, bearer)[0] == 401, (method, target)


def test_stranger_with_our_key_id(house: House) -> None:
    """A stranger who writes the enrolled key's id into the header is still a stranger."""
    target = f"/v1/tenants/{TENANT}/state"
    good = house.token("GET", target)
    forged = house.token("GET", target, key=Ed25519PrivateKey.generate())
    mixed = ".".join((good.split(".")[0], *forged.split(".")[1:]))

    assert refusal(house, "GET", target, mixed) == (401, "unauthenticated")


def test_another_tenant(house: House) -> None:
    """An enrolled signer of one tenant is 403 on every route of another."""
    for method, target in routes(house):
        bearer = house.token(method, target, BODY, key=house.prepared.signers[RIVAL], issuer=RIVAL)
        assert refusal(house, method, target, bearer)[0] == 403, (method, target)


def test_one_tenants_key_under_anothers_name(house: House) -> None:
    """A signer of one tenant does not become one of another by saying so."""
    target = f"/v1/tenants/{TENANT}/state"
    bearer = house.token("GET", target, key=house.prepared.signers[RIVAL], issuer=TENANT)

    assert refusal(house, "GET", target, bearer) == (401, "unauthenticated")


def test_runtime(house: House) -> None:
    """A runtime's token opens the registry and its own lease, and no vendor's route."""
    lease = house.released().lease.id
    for method, target in routes(house):
        bearer = house.token(method, target, BODY, key=identity().instance, issuer=f"lease:{lease}")
        status, code = refusal(house, method, target, bearer)
        may_read = method in {"GET", "HEAD"} and "/models/" in target
        assert (status, code) in (
            {(404, "not_found"), (404, "")} if may_read else {(403, "forbidden")}
        ), (
            method,
            target,
        )


def test_runtime_of_another_lease(house: House) -> None:
    """A runtime ends its own lease only."""
    first = house.released().lease.id
    second = house.released(house.ask(name="other")).lease.id
    target = f"/v1/tenants/{TENANT}/leases/{second}"
    bearer = house.token("DELETE", target, key=identity().instance, issuer=f"lease:{first}")

    assert refusal(house, "DELETE", target, bearer) == (403, "forbidden")


def test_standing(house: House) -> None:
    """A runtime and its tenant's signers see how a lease stands, in one state epoch."""
    released = house.released()
    target = f"/v1/tenants/{TENANT}/leases/{released.lease.id}"

    def seen() -> dict[str, object]:
        held = house.call(
            "GET", target, key=identity().instance, issuer=f"lease:{released.lease.id}"
        )
        assert held.content == house.call("GET", target).content
        told: dict[str, object] = msgspec.json.decode(held.content)
        return told

    first = seen()
    assert first == {
        "id": released.lease.id,
        "state": "live",
        "not_after": released.lease.not_after,
        "epoch": first["epoch"],
    }
    entry = leaf.decode(released.answer.leaf)
    assert isinstance(entry, leaf.ReleaseLeaf)
    assert first["epoch"] == entry.epoch
    problem(house.call("GET", f"/v1/tenants/{TENANT}/leases/none"), "not_found", 404)


def test_ended_lease(house: House) -> None:
    """The token of a lease that ended is 401, and a lease ends once."""
    lease = house.released().lease.id
    target = f"/v1/tenants/{TENANT}/leases/{lease}"
    ended = house.call("DELETE", target, key=identity().instance, issuer=f"lease:{lease}")
    assert ended.status_code == 200

    again = house.call("DELETE", target, key=identity().instance, issuer=f"lease:{lease}")
    problem(again, "unauthenticated", 401)
    problem(house.call("DELETE", target), "lease_ended", 403)


def test_lease_that_ran_out(house: House) -> None:
    """The token of a lease whose time is over is 401."""
    released = house.released()
    lease = f"lease:{released.lease.id}"
    target = f"/v1/tenants/{TENANT}/models/{MODEL.id}/1/manifest"
    problem(house.call("GET", target, key=identity().instance, issuer=lease), "not_found", 404)

    with house.clock.at(released.lease.not_after):
        answer = house.call("GET", target, key=identity().instance, issuer=lease)
        problem(answer, "unauthenticated", 401)


def test_open_routes(house: House) -> None:
    """Health and the OpenAPI page need nobody, and say that the hardware is simulated."""
    health = house.send("GET", "/health").json()
    assert (health["status"], health["simulated"]) == ("serving", True)

    page = house.send("GET", "/schema/openapi.json")
    assert page.status_code == 200
    assert "/v1/releases" in page.json()["paths"]
    assert house.send("GET", "/schema").status_code == 200


@pytest.mark.parametrize("target", ["/", "/v1", "/v1/tenants", "/metrics", "/v1/tenants/../../x"])
def test_nothing_there(house: House, target: str) -> None:
    """What is no route is a problem document too."""
    problem(house.send("GET", target), "http", 404)


def test_wrong_method(house: House) -> None:
    """A route's other methods are 405, without a framework's page."""
    problem(house.send("GET", "/v1/releases"), "http", 405)


def test_every_code_has_a_sentence() -> None:
    """Nothing that a caller sees is made of an exception's text: the table holds every sentence."""
    assert all(sentence.endswith(".") for _, sentence in TABLE.values())
    assert all(400 <= status < 600 and status != 500 for status, _ in TABLE.values())
