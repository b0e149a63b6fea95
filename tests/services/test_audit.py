"""The audit table: every denial with all its reasons, bounded, and nobody else's."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.audit import MAX_REASONS, MAX_TEXT
from broker.errors import BrokerError, Code
from tests.kit.services import services
from tests.kit.store import NOW, TestCaller, in_loop, refusal


@in_loop
async def test_denial_is_kept_with_every_reason(tmp_path: Path) -> None:
    """Detail and all reasons of a refusal are there, in order, when `denied` returns."""
    async with services(tmp_path) as made:
        error = BrokerError(Code.EVIDENCE_REFUSED, "appraisal", ("debug_enabled: x", "vmpl: 2"))
        await made.audit.denied("release", made.g, error, actor="key", subject="lease")
        (row,) = await made.audit.listed(made.house.caller, "acme")

        assert (row.time, row.kind, row.code) == (NOW, "release", "evidence_refused")
        assert (row.actor, row.subject) == ("key", "lease")
        assert row.reasons == ("appraisal", "debug_enabled: x", "vmpl: 2")


@in_loop
async def test_denials_of_strangers_are_not_shown_to_tenants(tmp_path: Path) -> None:
    """A denial without a known tenant is kept, and stands in no tenant's list."""
    async with services(tmp_path) as made:
        await made.audit.denied("release", b"", BrokerError(Code.CHALLENGE_UNKNOWN, "no"))

        assert await made.audit.listed(made.house.caller, "acme") == ()
        assert made.house.sql("SELECT code FROM audit") == [("challenge_unknown",)]


@in_loop
async def test_what_strangers_send_is_bounded_and_printable(tmp_path: Path) -> None:
    """Long texts are cut, many reasons counted, control characters replaced."""
    async with services(tmp_path) as made:
        reasons = tuple(f"{n}\x1b[2J\n" + "x" * 2000 for n in range(200))
        await made.audit.denied("release", made.g, BrokerError(Code.DENIED, "no", reasons))
        (row,) = await made.audit.listed(made.house.caller, "acme")

        assert len(row.reasons) == MAX_REASONS
        assert row.reasons[-1] == "and 138 more"
        assert all(len(text) <= MAX_TEXT and text.isprintable() for text in row.reasons)


@in_loop
async def test_pages_and_purge(tmp_path: Path) -> None:
    """Newest first, in pages by id; old ones go when told so."""
    async with services(tmp_path) as made:
        for number in range(5):
            made.now = NOW + number
            await made.audit.denied("release", made.g, BrokerError(Code.DENIED, str(number)))
        caller = made.house.caller
        first = await made.audit.listed(caller, "acme", limit=3)
        rest = await made.audit.listed(caller, "acme", before=first[-1].id, limit=3)
        purged = await made.audit.purge(older_than=NOW + 3)

        assert [row.reasons[0] for row in first + rest] == ["4", "3", "2", "1", "0"]
        assert (purged, len(await made.audit.listed(caller, "acme"))) == (3, 2)


@in_loop
async def test_many_denials_at_once_are_all_kept(tmp_path: Path) -> None:
    """Concurrent denials share transactions and lose none."""
    async with services(tmp_path) as made:
        error = BrokerError(Code.DENIED, "no")
        await asyncio.gather(*(made.audit.denied("release", made.g, error) for _ in range(300)))

        assert len(await made.audit.listed(made.house.caller, "acme", limit=1000)) == 300


@in_loop
async def test_only_signers_read_denials(tmp_path: Path) -> None:
    """A runtime or another tenant does not learn why something was refused."""
    async with services(tmp_path) as made:
        for caller in (TestCaller("acme", "lease:x"), TestCaller("other", "other")):
            assert (await refusal(made.audit.listed(caller, "acme"))).code is Code.FORBIDDEN


@in_loop
async def test_denial_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    """When the table refuses, the caller is told, and can refuse the harder."""
    async with services(tmp_path) as made:
        made.house.sql("DROP TABLE audit")

        error = await refusal(made.audit.denied("x", b"", BrokerError(Code.DENIED, "no")))

        assert error.code is Code.DATABASE_UNAVAILABLE
