"""Revocation against release, forced into every order: leaf order decides, and no key is let go.

The sequencer's `stall` and a wrapper around the worker's client hold a release exactly between two
rooms while somebody else revokes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx

from broker.keys.service import KeyService
from broker.log.sequencer import Sequencer
from broker.services import Services
from ostiary import vendor
from tests.kit.broker import House, problem
from tests.kit.broker_home import MODEL, RELEASES, TENANT, caller_of
from verifier.wire import leaf
from verifier.wire.canonical import Hex
from verifier.wire.leaf import KeyState


async def revoke(house: House, keys: KeyService, state: KeyState = KeyState.COMPROMISED) -> None:
    """Revoke `MODEL` past the door."""
    found = await keys.state(caller_of(TENANT), TENANT)
    order = vendor.sign_order(house.tenant, house.key, MODEL, state, epoch=found.head.epoch)
    await keys.order(caller_of(TENANT), TENANT, order)


def second_broker(services: Services) -> KeyService:
    """Return key services with a sequencer of their own, as a second broker on the database has."""
    flow = services.releases
    return replace(services.keys, sequencer=Sequencer(flow.store, flow.hsm))


class Between:
    """The worker's client, with something that happens before one of its calls."""

    def __init__(self, client: Any, call: str, happens: Callable[[], Awaitable[None]]) -> None:
        self._client = client
        self._call = call
        self._happens = happens
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name != self._call:
            return found

        async def after(*values: Any) -> Any:
            self.calls += 1
            await self._happens()
            return await found(*values)

        return after


def with_flow(house: House, **changes: Any) -> None:
    """Let the door use a release flow with other parts."""
    found = house.app.state.services
    house.app.state.services = replace(found, releases=replace(found.releases, **changes))


def last_leaf(house: House) -> leaf.AnyLeaf:
    """Return the newest leaf."""
    rows = house.sql(
        "SELECT leaf FROM leaves WHERE g = ? ORDER BY idx DESC LIMIT 1", house.tenant.digest
    )
    return leaf.decode(rows[0][0])


def test_between_decision_and_log(own: House) -> None:
    """A key revoked after the decision, before the leaf, is not released nor logged."""
    keys = second_broker(own.services)
    flow = own.services.releases
    revoked: list[int] = []

    async def once() -> None:
        if not revoked:
            revoked.append(1)
            await revoke(own, keys)

    with_flow(own, sequencer=Sequencer(flow.store, flow.hsm, stall=once))
    reasons = own.refused(own.ask().body(), "state_moved", leaves=1)

    assert "decided at epoch" in reasons
    assert isinstance(last_leaf(own), leaf.KeyLeaf)
    assert own.sql("SELECT count(*) FROM leases") == [(0,)]


def test_between_log_and_worker(own: House) -> None:
    """A key revoked after the leaf, before the worker, is not released: the worker sees it."""
    happened = Between(own.services.releases.hsm, "release", lambda: revoke(own, own.services.keys))
    with_flow(own, hsm=happened)

    own.refused(own.ask().body(), "state_moved", leaves=2)
    assert happened.calls == 1
    assert isinstance(last_leaf(own), leaf.KeyLeaf)


def test_suspended_and_back_between(own: House) -> None:
    """A key suspended and active again meanwhile is not released on the older leaf either."""

    async def there_and_back() -> None:
        await revoke(own, own.services.keys, KeyState.SUSPENDED)
        await revoke(own, own.services.keys, KeyState.ACTIVE)

    with_flow(own, hsm=Between(own.services.releases.hsm, "release", there_and_back))
    own.refused(own.ask().body(), "state_moved", leaves=3)

    with_flow(own, hsm=own.services.releases.hsm)
    own.released()


def test_after_the_worker(own: House) -> None:
    """A release that the worker made before a revocation is answered, and its leaf comes first."""
    with_flow(
        own,
        hsm=Between(
            own.services.releases.hsm, "sign_answer", lambda: revoke(own, own.services.keys)
        ),
    )
    released = own.released()

    assert bytes(released.deks[MODEL].view()) == own.prepared.dek
    assert isinstance(last_leaf(own), leaf.KeyLeaf)
    own.refused(own.ask().body(), "key_not_active")


def test_lying_broker(own: House) -> None:
    """A broker that tells its worker of another recipient than it logged gets no key for it."""
    asked, other = own.ask(), own.ask(name="other")
    client: Any = own.services.releases.hsm

    class Liar:
        def __getattr__(self, name: str) -> Any:
            return self.lie if name == "release" else getattr(client, name)

        async def lie(self, *parts: Any) -> Any:
            spki = other.identity.recipients[0].key
            return await client.release(*parts[:-1], bytes(spki))

    with_flow(own, hsm=Liar())
    own.refused(asked.body(), "hsm_refused", leaves=1, why="recipient")


def test_permit_used_twice(own: House) -> None:
    """A leaf moves keys once: a broker that asks its worker again is refused."""
    client = own.services.releases.hsm

    class Twice:
        def __getattr__(self, name: str) -> Any:
            return self.twice if name == "release" else getattr(client, name)

        async def twice(self, *parts: Any) -> Any:
            await client.release(*parts)
            return await client.release(*parts)

    with_flow(own, hsm=Twice())
    own.refused(own.ask().body(), "permit_spent", leaves=1)


def test_storm(own: House) -> None:
    """A crowd of releases while the key is revoked: each key let go has its leaf before that."""
    bodies = [own.ask() for _ in range(24)]

    async def one(body: bytes) -> httpx.Response:
        return await own.sending("POST", RELEASES, body)

    async def later() -> None:
        await asyncio.sleep(0.03)
        await revoke(own, own.services.keys)

    async def all_of_it() -> list[Any]:
        requests = [one(asked.body()) for asked in bodies]
        return list(await asyncio.gather(later(), *requests))

    answers = own.run(all_of_it())[1:]
    rows = own.sql("SELECT leaf FROM leaves WHERE g = ? ORDER BY idx", own.tenant.digest)
    entries = [leaf.decode(row[0]) for row in rows]
    (revoked,) = (
        at
        for at, entry in enumerate(entries)
        if isinstance(entry, leaf.KeyLeaf)
        and (entry.key, entry.state_to) == (MODEL, KeyState.COMPROMISED)
    )
    logged = {
        bytes(entry.challenge) for entry in entries[:revoked] if isinstance(entry, leaf.ReleaseLeaf)
    }
    assert not any(isinstance(entry, leaf.ReleaseLeaf) for entry in entries[revoked:])
    for asked, answer in zip(bodies, answers, strict=True):
        if answer.status_code == 200:
            assert bytes(Hex(asked.open(answer.content).answer.challenge)) in logged
        else:
            code = answer.json()["code"]
            assert code in {"state_moved", "key_not_active"}
            problem(answer, code)
