"""Reading a log: checkpoint, leaves and proofs, for the tenant, its auditors and its monitors.

Guarantees: shows only what stands under the newest stored checkpoint, and makes proofs that were
checked before they are handed out. Who may ask is checked by `Reader`, which takes the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from broker.errors import BrokerError, Code, refuse_as
from broker.store.database import Store, Unit
from broker.store.rows import trees
from broker.store.rows.trees import TreeRow
from broker.tenants import caller as callers
from broker.tenants.caller import Caller
from broker.tenants.record import Tenant
from verifier.tlog import prove
from verifier.tlog.checkpoint import open_checkpoint
from verifier.tlog.merkle import leaf_hash, verify_inclusion
from verifier.tlog.proof import Receipt

MAX_PAGE: Final = 256
"""Most leaves in one answer."""


@final
@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the logs of one database, each for its own tenant only."""

    store: Store

    async def checkpoint(self, caller: Caller, tenant: str) -> bytes:
        """Return the newest signed checkpoint (a C2SP note).

        Raises:
            BrokerError: `forbidden`, `not_found`.
        """
        async with self.store.read() as unit:
            return (await self._tree(unit, caller, tenant)).checkpoint

    async def leaves(
        self, caller: Caller, tenant: str, *, start: int, limit: int
    ) -> tuple[bytes, ...]:
        """Return up to `limit` leaves from `start` on; fewer at the end of the log.

        Raises:
            BrokerError: `forbidden`, `not_found`, `malformed` for a negative number.
        """
        if start < 0 or limit < 0:
            raise BrokerError(Code.MALFORMED, "start and limit are not negative")
        async with self.store.read() as unit:
            row = await self._tree(unit, caller, tenant)
            end = min(row.signed_size, start + min(limit, MAX_PAGE))
            return await trees.leaves(unit, row.g, start, end)

    async def receipt(self, caller: Caller, tenant: str, index: int) -> bytes:
        """Return a receipt (C2SP tlog-proof) for leaf `index` under the newest checkpoint.

        Raises:
            BrokerError: `forbidden`, `not_found`, `log_rolled_back` if the stored tree is damaged.
        """
        async with self.store.read() as unit:
            found = await callers.vendor(unit, caller, tenant)
            _, receipt = await self.logged(unit, found, index)
            return receipt

    async def logged(self, unit: Unit, tenant: Tenant, index: int) -> tuple[bytes, bytes]:
        """Return a leaf and its receipt, for services that have checked their caller.

        Raises:
            BrokerError: `not_found`, `log_rolled_back` if the stored tree is damaged.
        """
        row = await _signed(unit, tenant)
        if not 0 <= index < row.signed_size:
            raise BrokerError(Code.NOT_FOUND, f"no leaf {index} under the newest checkpoint")
        with refuse_as(Code.LOG_ROLLED_BACK, f"no proof for leaf {index}"):
            head = open_checkpoint(row.checkpoint, tenant.origin, tenant.vkey)
            raw = await trees.leaves(unit, row.g, index, index + 1)
            if len(raw) != 1:
                raise BrokerError(Code.LOG_ROLLED_BACK, f"leaf {index} is missing")
            nodes = await trees.nodes(unit, row.g, prove.inclusion_nodes(index, head.size))
            proof = prove.inclusion_proof(index, head.size, prove.Fetched(nodes))
            verify_inclusion(index, head.size, leaf_hash(raw[0]), proof, head.root)
            return raw[0], Receipt(index, proof, row.checkpoint).encode()

    async def consistency(
        self, caller: Caller, tenant: str, *, old: int, new: int
    ) -> tuple[bytes, ...]:
        """Return the proof that the tree of `new` leaves extends that of `old`.

        Raises:
            BrokerError: `forbidden`, `not_found` beyond the newest checkpoint, `malformed`,
                `log_rolled_back` if nodes are missing.
        """
        if not 0 <= old <= new:
            raise BrokerError(Code.MALFORMED, "0 <= old <= new expected")
        async with self.store.read() as unit:
            row = await self._tree(unit, caller, tenant)
            if new > row.signed_size:
                raise BrokerError(Code.NOT_FOUND, f"the newest checkpoint has {row.signed_size}")
            nodes = await trees.nodes(unit, row.g, prove.consistency_nodes(old, new))
            with refuse_as(Code.LOG_ROLLED_BACK, "the stored tree lost nodes"):
                return prove.consistency_proof(old, new, prove.Fetched(nodes))

    async def _tree(self, unit: Unit, caller: Caller, tenant: str) -> TreeRow:
        return await _signed(unit, await callers.vendor(unit, caller, tenant))


async def _signed(unit: Unit, tenant: Tenant) -> TreeRow:
    row = await trees.tree(unit, tenant.g)
    if row is None or row.signed_size == 0:
        raise BrokerError(Code.NOT_FOUND, f"the log of {tenant.name} has no checkpoint yet")
    return row
