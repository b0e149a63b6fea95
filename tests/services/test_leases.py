"""Leases: counted, listed, and ended by a leaf."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from broker.errors import Code
from broker.log.draft import Prepared, TreeHead
from broker.store.database import Unit
from broker.store.rows import leases
from broker.store.rows.leases import LeaseRow
from tests.kit.services import KEY, Services, services
from tests.kit.store import NOW, Ended, TestCaller, in_loop, refusal
from verifier.wire import leaf as wire_leaf
from verifier.wire.messages import KeyRef

OTHER = KeyRef("other", 1)


@dataclass(frozen=True)
class Leased:
    """A leaf that brings a lease with it."""

    lease: str
    keys: tuple[KeyRef, ...] = (KEY,)
    not_after: int = NOW + 3600
    platform: bytes = b"p1"

    async def prepare(self, unit: Unit, head: TreeHead) -> Prepared:
        row = LeaseRow(
            id=self.lease,
            g=head.g,
            instance=b"spki",
            recipients=bytes(32),
            platform=self.platform,
            kind="tdx",
            policy=bytes(32),
            created=NOW,
            not_after=self.not_after,
            state=leases.LIVE,
            cause="",
            leaf=head.size,
            keys=self.keys,
        )
        await leases.insert(unit, row)
        return await Ended(self.lease).prepare(unit, head)


async def lease(made: Services, name: str, **changes: object) -> None:
    await made.house.append(Leased(name, **changes))  # type: ignore[arg-type]  # mixed fields


async def live(made: Services, *refs: KeyRef, now: int = NOW) -> int:
    async with made.house.store.read() as unit:
        return await leases.count_live(unit, made.g, refs, now)


@in_loop
async def test_live_leases_are_counted_by_key(tmp_path: Path) -> None:
    """A lease counts once however many of the keys it holds, and only while its time runs."""
    async with services(tmp_path) as made:
        await lease(made, "a", keys=(KEY, OTHER))
        await lease(made, "b", keys=(OTHER,))
        await lease(made, "c", keys=(KEY,), not_after=NOW)

        assert await live(made, KEY, OTHER) == 2
        assert await live(made, KEY) == 1
        assert await live(made, KeyRef("none", 1)) == 0
        assert await live(made, KEY, OTHER, now=NOW + 3600) == 0


@in_loop
async def test_vendor_revokes(tmp_path: Path) -> None:
    """A signer ends a lease: a leaf says so, it no longer counts, and cannot end twice."""
    async with services(tmp_path) as made:
        await lease(made, "a")
        appended = await made.leases.end(made.house.caller, "acme", "a")
        row = (await made.leases.listed(made.house.caller, "acme"))[0]

        leaf = wire_leaf.decode(appended.leaf)
        assert isinstance(leaf, wire_leaf.LeaseEndLeaf)
        assert (leaf.lease, leaf.cause) == ("a", "revoked")
        assert (row.state, row.cause, row.leaf) == ("ended", "revoked", appended.index)
        assert await live(made, KEY) == 0
        again = await refusal(made.leases.end(made.house.caller, "acme", "a"))
        assert again.code is Code.LEASE_ENDED


@in_loop
async def test_runtime_returns_only_its_own(tmp_path: Path) -> None:
    """The holder of a lease may hand it back, and no other lease."""
    async with services(tmp_path) as made:
        await lease(made, "a")
        await lease(made, "b")
        holder = TestCaller("acme", "lease:a")

        other = await refusal(made.leases.end(holder, "acme", "b"))
        appended = await made.leases.end(holder, "acme", "a")

        assert other.code is Code.FORBIDDEN
        assert b'"cause":"returned"' in appended.leaf


@in_loop
async def test_lease_that_is_over_cannot_be_ended_or_used(tmp_path: Path) -> None:
    """Expired, unknown and foreign leases are refused."""
    async with services(tmp_path) as made:
        await lease(made, "a")
        assert (await made.leases.find_live("a")).keys == (KEY,)
        made.now = NOW + 3600

        assert (await refusal(made.leases.find_live("a"))).code is Code.LEASE_ENDED
        assert (await refusal(made.leases.find_live("x"))).code is Code.LEASE_ENDED
        caller = made.house.caller
        assert (await refusal(made.leases.end(caller, "acme", "a"))).code is Code.LEASE_ENDED
        assert (await refusal(made.leases.end(caller, "acme", "x"))).code is Code.NOT_FOUND


@in_loop
async def test_renewing_prolongs_only_what_is_live(tmp_path: Path) -> None:
    """A renewed lease has a later end; an ended one stays ended."""
    async with services(tmp_path) as made:
        await lease(made, "a")
        async with made.house.store.write() as unit:
            renewed = await leases.renew(
                unit, "a", not_after=NOW + 9000, recipients=b"\x01" * 32, leaf=7
            )
            await leases.end(unit, "a", cause="revoked", leaf=8)
            again = await leases.renew(
                unit, "a", not_after=NOW + 9999, recipients=bytes(32), leaf=9
            )
            row = await leases.by_id(unit, "a")

        assert (renewed, again) == (True, False)
        assert row is not None
        assert (row.not_after, row.recipients, row.leaf) == (NOW + 9000, b"\x01" * 32, 8)


@in_loop
async def test_leases_are_listed_in_pages(tmp_path: Path) -> None:
    """Newest first, each once, with the live ones alone where asked for."""
    async with services(tmp_path) as made:
        for name in ("a", "b", "c"):
            await lease(made, name)
        await lease(made, "d", not_after=NOW)
        caller, seen, before = made.house.caller, [], None
        while page := await made.leases.listed(caller, "acme", before=before, limit=3):
            seen += [row.id for row in page]
            before = (page[-1].created, page[-1].id)
        alive = await made.leases.listed(caller, "acme", live=True)

        assert seen == ["d", "c", "b", "a"]
        assert [row.id for row in alive] == ["c", "b", "a"]
        runtime = TestCaller("acme", "lease:a")
        assert (await refusal(made.leases.listed(runtime, "acme"))).code is Code.FORBIDDEN


@in_loop
async def test_leases_of_a_platform_are_found(tmp_path: Path) -> None:
    """Live leases of one machine are found by its id; the empty id finds none."""
    async with services(tmp_path) as made:
        await lease(made, "a", platform=b"p1")
        await lease(made, "b", platform=b"p2")
        await lease(made, "c", platform=b"")
        async with made.house.store.read() as unit:
            found = await leases.live_on_platform(unit, made.g, b"p1", NOW)
            none = await leases.live_on_platform(unit, made.g, b"", NOW)

        assert [row.id for row in found] == ["a"]
        assert none == ()
