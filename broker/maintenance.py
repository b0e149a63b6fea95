"""Housekeeping while the broker runs: what may go, goes; nothing that decides depends on it.

Guarantees: a spent challenge is forgotten only once it is refused by its expiry anyway, a denial
only after `AUDIT_SECONDS`, a half-written object only after `OBJECT_SECONDS`. A pass that fails is
logged and tried again; it never stops the broker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, final

from broker.audit import Audit
from broker.clock import Clock
from broker.errors import BrokerError
from broker.store.database import Store
from broker.store.objects import Objects

PERIOD: Final = 60.0
"""Seconds between passes."""
SPENT_MARGIN: Final = 300
"""Seconds that a spent challenge is kept beyond its expiry, should the clock be set back."""
AUDIT_SECONDS: Final = 400 * 86400
"""How long denials are kept: a year and some."""
OBJECT_SECONDS: Final = 86400
"""How long an upload may take before what it left is removed."""

_log = logging.getLogger("broker.maintenance")


@final
@dataclass(frozen=True, slots=True)
class Maintenance:
    """What a pass cleans."""

    store: Store
    audit: Audit
    objects: Objects
    clock: Clock

    async def once(self) -> None:
        """Make one pass.

        Raises:
            BrokerError: `database_unavailable`.
        """
        now = self.clock()
        await self.store.purge_spent(now - SPENT_MARGIN)
        await self.audit.purge(older_than=now - AUDIT_SECONDS)
        await asyncio.to_thread(self.objects.sweep, now - OBJECT_SECONDS)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make passes until the block ends."""
        task = asyncio.create_task(self._passes())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _passes(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            try:
                await self.once()
            except BrokerError as error:
                _log.warning("a pass failed: %s", error)
