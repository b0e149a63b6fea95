"""Housekeeping: what may go, goes, and nothing else."""

import asyncio
import hashlib

import pytest

from broker.audit import Audit
from broker.errors import BrokerError, Code
from broker.maintenance import AUDIT_SECONDS, SPENT_MARGIN, Maintenance
from broker.store.database import open_store
from broker.store.migrate import migrate
from broker.store.objects import Objects

NOW = 1_775_000_000


@pytest.fixture
def url(tmp_path):
    found = f"sqlite+aiosqlite:///{tmp_path / 'x.db'}"
    asyncio.run(migrate(found))
    return found


def test_a_pass_forgets_what_is_refused_anyway_and_keeps_the_rest(tmp_path, url):
    """An expired challenge goes; one that could still be replayed stays spent."""
    old, young = (hashlib.sha256(name).digest() for name in (b"old", b"young"))

    async def run():
        async with await open_store(url) as store:
            audit = Audit(store, lambda: NOW)
            await store.spend_challenge(old, NOW - SPENT_MARGIN - 1)
            await store.spend_challenge(young, NOW - SPENT_MARGIN + 1)
            await Maintenance(store, audit, Objects(tmp_path / "o"), lambda: NOW).once()
            assert await store.spend(old, NOW)
            assert not await store.spend(young, NOW)
            await audit.aclose()

    asyncio.run(run())


def test_denials_are_kept_for_a_year(tmp_path, url):
    """An auditor who asks after a year still finds them; after that they go."""

    async def run():
        async with await open_store(url) as store:
            audit = Audit(store, lambda: NOW)
            await audit.denied("release", b"", BrokerError(Code.DENIED, "no"))
            late = Maintenance(store, audit, Objects(tmp_path / "o"), lambda: NOW + AUDIT_SECONDS)
            await late.once()
            kept = await audit.purge(older_than=NOW + 1)
            await audit.aclose()
            return kept

    assert asyncio.run(run()) == 1
