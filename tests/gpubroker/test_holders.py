"""Who may have a device, by rows alone; and the migration that brought them."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from broker.errors import BrokerError
from broker.release.holders import Claim, GpuInUse, require_still_held, take_over
from broker.store import migrate, schema
from broker.store.database import Store, Unit, open_store
from broker.store.rows import devices, leases
from broker.store.rows.leases import LeaseRow
from tests.kit.store import NOW, in_loop

G, OTHER = b"g" * 32, b"o" * 32
ONE, TWO = b"\x41" + b"1" * 8, b"\x41" + b"2" * 8


def url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a database with two tenants."""
    found = tmp_path / "x.db"
    asyncio.run(migrate.migrate(url(found)))
    with closing(sqlite3.connect(found)) as connection, connection:
        for name, g in (("a", G), ("b", OTHER)):
            connection.execute("INSERT INTO tenants VALUES (?, ?, ?, 0)", (name, g, b""))
            connection.execute(
                "INSERT INTO trees VALUES (?, 0, ?, 0, ?, ?, 0, 0, ?)", (g, b"", G, b"", b"")
            )
    return found


def row(name: str, held: tuple[bytes, ...], *, g: bytes = G, platform: bytes = b"p") -> LeaseRow:
    """Return a live lease of the start "i"."""
    return LeaseRow(
        id=name,
        g=g,
        instance=b"i",
        recipients=bytes(32),
        platform=platform,
        kind="tdx",
        policy=bytes(32),
        created=NOW,
        not_after=NOW + 100,
        state=leases.LIVE,
        cause="",
        leaf=0,
        keys=(),
        devices=held,
    )


async def having(store: Store, *rows: LeaseRow) -> None:
    async with store.write() as unit:
        for each in rows:
            await unit.run(
                sa.insert(schema.leases),
                {c.name: getattr(each, c.name) for c in schema.leases.columns},
            )
            for device in each.devices:
                await unit.run(
                    sa.insert(schema.lease_devices), {"lease": each.id, "device": device}
                )


def claim(*held: bytes, g: bytes = G, platform: bytes = b"p", instance: bytes = b"new") -> Claim:
    return Claim(g, platform, instance, held)


@in_loop
async def test_nobody_in_the_way(path: Path) -> None:
    """Devices in no live lease are free, and no devices are nobody's business."""
    async with await open_store(url(path)) as store:
        await having(store, row("a", (ONE,)))
        async with store.write() as unit:
            assert await take_over(unit, claim(TWO), NOW) == ()
            assert await take_over(unit, claim(), NOW) == ()
            assert await take_over(unit, claim(ONE, platform=b"q"), NOW + 100) == ()


@in_loop
async def test_a_new_start_takes_over_what_it_shares(path: Path) -> None:
    """One shared device is enough: the old start cannot have the rest of its set any more."""
    async with await open_store(url(path)) as store:
        await having(store, row("a", (ONE, TWO)), row("b", (TWO,)))
        async with store.write() as unit:
            assert await take_over(unit, claim(ONE), NOW) == ("a",)
            assert await take_over(unit, claim(ONE, TWO), NOW) == ("a", "b")
            assert await take_over(unit, claim(ONE, TWO, instance=b"i"), NOW) == ()


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        (row("a", (ONE,)), claim(ONE, platform=b"q")),
        (row("a", (ONE,)), claim(ONE, platform=b"")),
        (row("a", (ONE,), platform=b""), claim(ONE, platform=b"")),
        (row("a", (ONE,), platform=b""), claim(ONE, platform=b"", instance=b"i")),
        (row("a", (ONE,), g=OTHER), claim(ONE)),
        (row("a", (ONE,), g=OTHER), claim(ONE, instance=b"i")),
    ],
)
def test_somebody_else_holds_it(path: Path, held: LeaseRow, wanted: Claim) -> None:
    """Another platform, one that does not say which, and another tenant are somebody else."""

    async def play() -> GpuInUse:
        async with await open_store(url(path)) as store:
            await having(store, held)
            async with store.write() as unit:
                with pytest.raises(GpuInUse) as refused:
                    await take_over(unit, wanted, NOW)
            return refused.value

    error = asyncio.run(play())
    assert ONE.hex() in error.reasons[0]
    # Whose lease it is, a tenant's signers learn of their own only; the operator learns it all.
    assert (OTHER.hex() in str(error)) is False
    assert ("lease a" in error.reasons[0]) == (held.g == G)
    assert held.g.hex() in error.alert[0]


async def renewed(unit: Unit, lease: LeaseRow, wanted: Claim) -> str:
    """Return the code of the refusal, or nothing."""
    try:
        await require_still_held(unit, lease, wanted, NOW)
    except BrokerError as error:
        return error.code.value
    return ""


@in_loop
async def test_a_renewal(path: Path) -> None:
    """The same machine with the same devices goes on, also one that does not say which it is."""
    unnamed = row("u", (ONE,), platform=b"")
    async with await open_store(url(path)) as store:
        await having(store, unnamed, row("a", (TWO,)), row("b", (TWO,), g=OTHER))
        async with store.write() as unit:
            assert await renewed(unit, unnamed, claim(ONE, platform=b"", instance=b"i")) == ""
            mine = claim(ONE, instance=b"i")
            assert await renewed(unit, unnamed, mine) == "gpu_in_use"
            assert await renewed(unit, unnamed, claim(platform=b"", instance=b"i")) == "denied"
            bare = row("c", ())
            assert await renewed(unit, bare, claim(instance=b"i")) == ""
            assert await renewed(unit, bare, claim(ONE, instance=b"i")) == "denied"
            assert await renewed(unit, row("a", (TWO,)), claim(TWO, instance=b"i")) == "gpu_in_use"


@in_loop
async def test_a_renewal_beside_a_newer_start(path: Path) -> None:
    """Should two starts ever hold one device, the one whose key is asked about does not go on."""
    async with await open_store(url(path)) as store:
        await having(store, row("a", (ONE,)), row("b", (ONE,)))
        async with store.write() as unit:
            older = claim(ONE, instance=b"older")
            assert await renewed(unit, row("a", (ONE,)), older) == "lease_ended"


@in_loop
async def test_devices_are_remembered(path: Path) -> None:
    """Each device has one row, with when it was last seen."""
    async with await open_store(url(path)) as store:
        async with store.write() as unit:
            await devices.lock(unit, (TWO, ONE), NOW)
        async with store.write() as unit:
            await devices.lock(unit, (ONE,), NOW + 5)
        async with store.read() as unit:
            rows = await unit.all(sa.select(schema.devices).order_by(schema.devices.c.device))

    assert [tuple(each) for each in rows] == [(ONE, NOW + 5), (TWO, NOW)]


def test_a_database_of_before(tmp_path: Path) -> None:
    """The migration keeps the leases that there are; they hold no devices."""
    path = tmp_path / "x.db"
    config = migrate._config()
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.commit()
    engine.dispose()
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("INSERT INTO tenants VALUES ('a', ?, ?, 0)", (G, b""))
        raw.execute("INSERT INTO trees VALUES (?, 0, ?, 0, ?, ?, 0, 0, ?)", (G, b"", G, b"", b""))
        raw.execute(
            "INSERT INTO leases VALUES ('old', ?, ?, ?, ?, 'tdx', ?, 0, ?, 'live', '', 0)",
            (G, b"i", bytes(32), b"p", bytes(32), NOW + 100),
        )

    async def read() -> LeaseRow | None:
        await migrate.migrate(url(path))
        async with await open_store(url(path)) as store, store.read() as unit:
            return await leases.by_id(unit, "old")

    found = asyncio.run(read())
    assert found is not None
    assert (found.id, found.devices, found.is_live(NOW)) == ("old", (), True)
