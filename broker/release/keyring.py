"""The MAC keys of challenges, as the HSM worker hands them out and rotates them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final

from broker.hsm.client import HsmClient


@final
class Keyring:
    """Keys by id, fetched again once the newest is due to rotate. Held in memory only."""

    def __init__(self, hsm: HsmClient, monotonic: Callable[[], float]) -> None:
        self._hsm = hsm
        self._monotonic = monotonic
        self._keys: dict[int, bytes] = {}
        self._newest = 0
        self._until = float("-inf")
        self._lock = asyncio.Lock()

    async def newest(self) -> tuple[int, bytes]:
        """Return id and bytes of the key for new challenges.

        Raises:
            HsmError: the worker does not answer.
        """
        await self._refresh()
        return self._newest, self._keys[self._newest]

    async def all(self) -> dict[int, bytes]:
        """Return the current key and the one before.

        Raises:
            HsmError: the worker does not answer.
        """
        await self._refresh()
        return self._keys

    async def _refresh(self) -> None:
        if self._monotonic() < self._until:
            return
        async with self._lock:
            if self._monotonic() < self._until:
                return
            answer = await self._hsm.challenge_keys()
            self._keys = dict(answer.keys)
            self._newest = answer.keys[0][0]
            self._until = self._monotonic() + answer.rotates_in
