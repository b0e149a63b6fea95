"""Whether the front may serve, for whom, and with which engine: set by the supervisor.

Guarantees: a state starts as not serving; what was cut stays cut; each change is seen by the very
next request, and a cut also by those that run.
Does not know leases or engines' health: the supervisor does, and flips this.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Protocol, final

from inference_runtime.engine.protocol import EngineAddress


@final
class NotServing(StrEnum):
    """Why the front does not serve. The values are stable and shown to callers."""

    STARTING = "starting"
    LEASE_ENDED = "lease_ended"
    LEASE_REVOKED = "lease_revoked"
    RENEWAL_FAILED = "renewal_failed"
    ENGINE_EXITED = "engine_exited"
    STOPPING = "stopping"


class RuntimeState(Protocol):
    """What the front reads; it never writes it."""

    @property
    def serving(self) -> bool:
        """Whether a new request may be taken."""
        ...

    @property
    def reason(self) -> str:
        """A stable code for why not; empty while serving."""
        ...

    @property
    def attested(self) -> bool:
        """Whether the broker has accepted this start's evidence."""
        ...

    @property
    def key_held(self) -> bool:
        """Whether a lease on the key lives; the key itself is wiped once the weights are open."""
        ...

    @property
    def model(self) -> str:
        """The model's name for callers; empty before it is known."""
        ...

    @property
    def model_digest(self) -> str:
        """SHA-256 of the canonical manifest, hex; empty before it is known."""
        ...

    @property
    def engine(self) -> EngineAddress | None:
        """Where the engine listens; None unless there is one."""
        ...

    async def wait_cut(self) -> None:
        """Return when requests that still run must end at once."""
        ...


@final
class ServingState:
    """The `RuntimeState` that a supervisor holds. One event loop only."""

    def __init__(self) -> None:
        self._reason: NotServing | None = NotServing.STARTING
        self._released = False
        self._model = ""
        self._digest = ""
        self._engine: EngineAddress | None = None
        self._cut = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether a new request may be taken."""
        return self._reason is None

    @property
    def reason(self) -> str:
        """A stable code for why not; empty while serving."""
        return self._reason.value if self._reason is not None else ""

    @property
    def attested(self) -> bool:
        """Whether the broker has accepted this start's evidence."""
        return self._released

    @property
    def key_held(self) -> bool:
        """Whether a lease on the key lives; the key itself is wiped once the weights are open."""
        return self._released and not self._cut.is_set()

    @property
    def model(self) -> str:
        """The model's name for callers; empty before it is known."""
        return self._model

    @property
    def model_digest(self) -> str:
        """SHA-256 of the canonical manifest, hex; empty before it is known."""
        return self._digest

    @property
    def engine(self) -> EngineAddress | None:
        """Where the engine listens; None unless there is one."""
        return self._engine

    async def wait_cut(self) -> None:
        """Return when requests that still run must end at once."""
        await self._cut.wait()

    def released(self) -> None:
        """The broker's release was checked: evidence accepted, lease begun."""
        self._released = True

    def begin(self, *, model: str, model_digest: str, engine: EngineAddress) -> None:
        """Serve from now on.

        Raises:
            RuntimeError: the state has left STARTING: what was stopped is not started again.
        """
        if self._reason is not NotServing.STARTING or self._cut.is_set():
            raise RuntimeError("a state begins once")
        self._model, self._digest, self._engine = model, model_digest, engine
        self._reason = None

    def drain(self, reason: NotServing) -> None:
        """Take no new request; those that run may go on. The first reason given stays."""
        if self._reason is None or self._reason is NotServing.STARTING:
            self._reason = reason

    def cut(self, reason: NotServing) -> None:
        """Take no new request and end those that run, now."""
        self.drain(reason)
        self._engine = None
        self._cut.set()
