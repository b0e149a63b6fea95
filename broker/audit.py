"""The audit table: what was refused, with every reason, for operators and the tenant's own vendor.

Guarantees: a denial that was recorded is durable; rows hold codes, digests and sentences about
claims, never payloads or secrets, and are bounded, whoever sent the request. Not the log: nobody
signs it, and an unauthenticated caller must not grow the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, final

from broker.clock import Clock
from broker.errors import BrokerError, Code
from broker.store.batch import Batcher
from broker.store.database import Store
from broker.store.rows import audit
from broker.store.rows.audit import AuditRow
from broker.tenants import caller as callers
from broker.tenants.caller import Caller
from verifier.explain import Explanation, explain_reasons

MAX_REASONS: Final = 64
MAX_TEXT: Final = 500
"""Most characters of a reason, actor or subject."""
MAX_PAGE: Final = 1000
_BATCH: Final = 256
NEWEST: Final = (1 << 63) - 1
"""Above every row's id."""


def _bounded(text: str) -> str:
    """Return `text` short and printable: it may quote what a stranger sent."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:MAX_TEXT])


def explanation(row: AuditRow) -> Explanation:
    """Return what a denial means and what to do about it; `verifier.explain.text` writes it."""
    return explain_reasons(f"{row.kind} refused: {row.code}", row.reasons)


@final
@dataclass(frozen=True, slots=True)
class Audit:
    """Records denials, many in one transaction, and lists them."""

    store: Store
    clock: Clock
    _writer: Batcher[AuditRow, None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_writer", Batcher(self._write, limit=_BATCH))

    async def denied(
        self, kind: str, tenant: bytes, error: BrokerError, *, actor: str = "", subject: str = ""
    ) -> None:
        """Record a refusal before it is answered.

        A crash here leaves a refusal that nobody recorded, and nobody got anything.

        Args:
            kind: what was tried, such as `release`.
            tenant: genesis digest, empty if it is not known.
            error: the refusal; its detail and all its reasons are kept.
            actor: who tried, such as a key id; empty if nobody proved anything.
            subject: what it was about, such as a lease.

        Raises:
            BrokerError: `database_unavailable`.
        """
        reasons = [error.detail, *error.reasons]
        left_out = len(reasons) - MAX_REASONS
        if left_out > 0:
            reasons = [*reasons[: MAX_REASONS - 1], f"and {left_out + 1} more"]
        await self._writer.submit(
            AuditRow(
                id=0,  # given by the database
                time=self.clock(),
                tenant=tenant,
                kind=_bounded(kind),
                code=error.code.value,
                actor=_bounded(actor),
                subject=_bounded(subject),
                reasons=tuple(map(_bounded, reasons)),
            )
        )

    async def _write(self, rows: Sequence[AuditRow]) -> Sequence[None]:
        async with self.store.write() as unit:
            for row in rows:
                await audit.insert(unit, row)
        return [None] * len(rows)

    async def listed(
        self, caller: Caller, tenant: str, *, before: int = NEWEST, limit: int = 100
    ) -> tuple[AuditRow, ...]:
        """Return a tenant's denials, newest first, with ids below `before`; at most 1000.

        Raises:
            BrokerError: `forbidden`, `not_found`, `database_unavailable`.
        """
        async with self.store.read() as unit:
            found = await callers.vendor(unit, caller, tenant)
            return await audit.listed(
                unit, found.g, before=before, limit=max(0, min(limit, MAX_PAGE))
            )

    async def find(self, caller: Caller, tenant: str, entry: int) -> AuditRow:
        """Return one of a tenant's denials.

        Raises:
            BrokerError: `forbidden`, `not_found`, `database_unavailable`.
        """
        async with self.store.read() as unit:
            found = await callers.vendor(unit, caller, tenant)
            row = await audit.by_id(unit, found.g, entry)
        if row is None:
            raise BrokerError(Code.NOT_FOUND, f"no refusal {entry} of {tenant}")
        return row

    async def purge(self, *, older_than: int) -> int:
        """Remove denials from before `older_than` (unix seconds); return how many."""
        async with self.store.write() as unit:
            return await audit.purge(unit, older_than)

    async def aclose(self) -> None:
        """Finish what was taken."""
        await self._writer.aclose()
