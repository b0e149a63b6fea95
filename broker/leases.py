"""Leases: every release is one. Listing them, and ending one before its time.

Guarantees: an end is a leaf, and the row changes in the same transaction; an ended lease is never
renewed. Does not reach into the machine that holds the key: measured code there stops the engine
when a renewal is refused or the lease runs out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, final

from broker.clock import Clock
from broker.errors import BrokerError, Code
from broker.log.draft import Appended, Prepared, TreeHead
from broker.log.sequencer import Sequencer
from broker.store.database import Store, Unit
from broker.store.rows import leases, trees
from broker.store.rows.leases import LeaseRow
from broker.tenants import caller as callers
from broker.tenants.caller import Caller
from verifier.wire.canonical import Hex
from verifier.wire.leaf import LeaseEndLeaf

Cause: TypeAlias = Literal["revoked", "superseded", "returned"]

MAX_PAGE: Final = 1000


@final
@dataclass(frozen=True, slots=True)
class LeaseEndDraft:
    """The end of a lease that was live, and why."""

    lease: str
    cause: Cause
    now: int

    async def prepare(self, unit: Unit, head: TreeHead) -> Prepared:
        """Return the leaf, or refuse with `not_found` or `lease_ended`."""
        row = await leases.by_id(unit, self.lease)
        if row is None or row.g != head.g:
            raise BrokerError(Code.NOT_FOUND, f"no lease {self.lease[:63]!r}")
        if not row.is_live(self.now):
            raise BrokerError(Code.LEASE_ENDED, f"lease {row.id} is over")
        await leases.end(unit, row.id, cause=self.cause, leaf=head.size)
        return Prepared(
            LeaseEndLeaf(
                v=1,
                genesis=Hex(head.g),
                time=head.not_before(self.now),
                epoch=head.epoch,
                state=Hex(head.state),
                lease=row.id,
                cause=self.cause,
            )
        )


@final
@dataclass(frozen=True, slots=True)
class LeaseService:
    """Lists and ends leases."""

    store: Store
    sequencer: Sequencer
    clock: Clock

    async def listed(
        self,
        caller: Caller,
        tenant: str,
        *,
        live: bool = False,
        before: tuple[int, str] | None = None,
        limit: int = 100,
    ) -> tuple[LeaseRow, ...]:
        """Return a tenant's leases, newest first; at most 1000.

        Args:
            caller: one of the tenant's signers.
            tenant: the tenant's name.
            live: only those that are live now.
            before: (created, id) of the last one of the page before.
            limit: at most so many.

        Raises:
            BrokerError: `forbidden`, `not_found`, `database_unavailable`.
        """
        async with self.store.read() as unit:
            found = await callers.vendor(unit, caller, tenant)
            return await leases.listed(
                unit,
                found.g,
                live_at=self.clock() if live else None,
                before=before,
                limit=max(0, min(limit, MAX_PAGE)),
            )

    async def find_live(self, lease: str) -> LeaseRow:
        """Return a lease that is live now; its `instance` key is who may act for it.

        Raises:
            BrokerError: `lease_ended`, also for a lease that never was.
        """
        async with self.store.read() as unit:
            row = await leases.by_id(unit, lease)
        if row is None or not row.is_live(self.clock()):
            raise BrokerError(Code.LEASE_ENDED, f"no live lease {lease[:63]!r}")
        return row

    async def standing(self, caller: Caller, tenant: str, lease: str) -> tuple[LeaseRow, int]:
        """Return a lease and its tenant's state epoch, for whoever holds it or may end it.

        The epoch moves with every key and policy: a runtime that sees it move renews, and so hears
        of what was revoked. Says nothing that binds; a renewal's answer does.

        Raises:
            BrokerError: `forbidden`, `not_found`.
        """
        async with self.store.read() as unit:
            found = await callers.member(unit, caller, tenant)
            _require_holder(caller, lease)
            row = await leases.by_id(unit, lease)
            tree = await trees.tree(unit, found.g)
        if row is None or row.g != found.g or tree is None:
            raise BrokerError(Code.NOT_FOUND, f"no lease {lease[:63]!r}")
        return row, tree.epoch

    async def end(self, caller: Caller, tenant: str, lease: str) -> Appended:
        """End a lease: revoked by a signer, or returned by the runtime that holds it.

        Raises:
            BrokerError: `forbidden`, `not_found`, `lease_ended`, `log_unavailable`.
        """
        async with self.store.read() as unit:
            found = await callers.member(unit, caller, tenant)
        _require_holder(caller, lease)
        cause: Cause = "revoked" if caller.is_vendor else "returned"
        return await self.sequencer.append(found.g, LeaseEndDraft(lease, cause, self.clock()))


def _require_holder(caller: Caller, lease: str) -> None:
    if not caller.is_vendor and caller.issuer != f"lease:{lease}":
        raise BrokerError(Code.FORBIDDEN, f"{caller.issuer} does not hold lease {lease[:63]!r}")
