"""How a tenant is born: the HSM makes its log key, the tenant signs its genesis, leaf 0 says so.

Guarantees: what is enrolled was signed by its own signers, names this broker and the log key that
the HSM made for it (the worker checks that), and never changes: the same genesis again completes
what a crash interrupted, another one is refused. Local: only the operator's command line comes
here, so there is no `Caller`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from broker.errors import BrokerError, Code, refuse_as
from broker.hsm.protocol import Begun
from broker.log.draft import NO_EPOCH, Prepared, TreeHead
from broker.log.sequencer import Sequencer
from broker.log.signer import Hsm, in_our_words
from broker.store.database import Store, Unit
from broker.store.rows import tenants, trees
from broker.tenants import record
from broker.tenants.record import Tenant, read_genesis
from verifier.tlog.merkle import Frontier
from verifier.wire.canonical import B64, Hex, require_id
from verifier.wire.leaf import GenesisLeaf, StateMap

NO_STATE: Final = bytes(32)
"""State digest of a tree without leaves."""


@final
@dataclass(frozen=True, slots=True)
class GenesisDraft:
    """Leaf 0 of a tenant's tree."""

    tenant: Tenant
    now: int

    async def prepare(self, unit: Unit, head: TreeHead) -> Prepared:  # noqa: ARG002 - a Draft
        """Return leaf 0, or refuse with `conflict` if it is there."""
        if head.size > 0:
            raise BrokerError(Code.CONFLICT, f"{self.tenant.name} is enrolled already")
        state = StateMap(
            v=1,
            genesis=Hex(self.tenant.g),
            signers=Hex(self.tenant.genesis.signers_digest()),
            keys=(),
        )
        leaf = GenesisLeaf(
            v=1,
            genesis=Hex(self.tenant.g),
            time=head.not_before(self.now),
            epoch=0,
            state=Hex(state.digest()),
            document=B64(self.tenant.envelope),
        )
        return Prepared(leaf, state)


@final
@dataclass(frozen=True, slots=True)
class TenantService:
    """Begins and enrols tenants, and finds them."""

    store: Store
    sequencer: Sequencer
    hsm: Hsm

    async def begin(self, name: str) -> Begun:
        """Return tree id and log key for the genesis of the tenant `name`; twice gives the same.

        A crash here leaves an unused key in the token, which the next `begin` finds.

        Raises:
            BrokerError: `malformed`, `conflict` once it is enrolled, `hsm_unavailable`.
        """
        with refuse_as(Code.MALFORMED, "tenant name"):
            require_id(name, "tenant")
        with in_our_words():
            return await self.hsm.begin_tenant(name)

    async def enrol(self, envelope: bytes, *, now: int) -> Tenant:
        """Enrol the tenant that signed this genesis; the same one again changes nothing.

        Args:
            envelope: the DSSE envelope of the genesis.
            now: unix seconds.

        Raises:
            BrokerError: `forbidden` if it is not signed by its own signers, `conflict` if the name
                is taken by another genesis, `hsm_refused` if it names another broker or log key,
                `log_unavailable`, `database_unavailable`.
        """
        # 1. Signed by those whom it names?
        with refuse_as(Code.FORBIDDEN, "not a genesis that its own signers signed"):
            tenant = read_genesis(envelope)
        async with self.store.read() as unit:
            _refuse_other(await tenants.by_name(unit, tenant.name), tenant)
        # 2. The worker takes it in, and makes the first KEK. A crash after this leaves a tenant
        #    that only the worker knows; enrolling again goes on from here.
        with in_our_words():
            await self.hsm.enrol_tenant(envelope)
        # 3. Its rows. A crash after this leaves an empty tree; enrolling again goes on from here.
        async with self.store.write() as unit:
            await tenants.insert(
                unit, tenants.TenantRow(tenant.name, tenant.g, envelope, created=now)
            )
            _refuse_other(await tenants.by_name(unit, tenant.name), tenant)
            await trees.insert(unit, _empty_tree(tenant.g))
            row = await trees.tree(unit, tenant.g)
        # 4. Leaf 0.
        if row is None or row.size == 0:
            try:
                await self.sequencer.append(tenant.g, GenesisDraft(tenant, now))
            except BrokerError as error:
                if error.code is not Code.CONFLICT:  # somebody else was faster
                    raise
        return tenant

    async def find(self, name: str) -> Tenant:
        """Return an enrolled tenant; its genesis is public.

        Raises:
            BrokerError: `not_found`, `state_mismatch`.
        """
        async with self.store.read() as unit:
            return await record.by_name(unit, name)

    async def everyone(self) -> tuple[Tenant, ...]:
        """Return all tenants, for the operator.

        Raises:
            BrokerError: `state_mismatch`.
        """
        async with self.store.read() as unit:
            return await record.everyone(unit)


def _refuse_other(row: tenants.TenantRow | None, tenant: Tenant) -> None:
    if row is not None and row.g != tenant.g:
        raise BrokerError(Code.CONFLICT, f"{tenant.name} is enrolled with another genesis")


def _empty_tree(g: bytes) -> trees.TreeRow:
    return trees.TreeRow(
        g=g,
        size=0,
        frontier=Frontier().encode(),
        epoch=NO_EPOCH,
        state=NO_STATE,
        state_map=b"",
        last_time=0,
        signed_size=0,
        checkpoint=b"",
    )
