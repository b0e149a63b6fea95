"""What the supervisor asks of an engine, whichever it is.

Guarantees, of every engine behind `Engine`: it takes the model as open descriptors of sealed
memfds and never as a file on a disk; its address is reachable for this user only and asks for a
random key; it never sees the key that sealed the model.
Does not say how an engine serves: the front speaks to its OpenAI-compatible HTTP surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, final


@final
class EngineFault(StrEnum):
    """Why an engine does not serve. The values are stable."""

    NOT_SEALED = "engine_file_not_sealed"
    NO_MODEL = "engine_no_model"
    BAD_NAME = "engine_bad_name"
    LOAD_FAILED = "engine_load_failed"
    EXITED = "engine_exited"
    TIMED_OUT = "engine_timed_out"
    UNAVAILABLE = "engine_unavailable"
    STATE = "engine_state"


class EngineError(Exception):
    """An engine that could not start or does not run; `fault` is stable, the text names no data."""

    def __init__(self, fault: EngineFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@final
@dataclass(frozen=True, slots=True)
class ModelFile:
    """One opened file of the model.

    `name` is its path inside the model folder; `fd` is a memfd with all seals, owned by the
    caller, who may close it as soon as `start` has returned or raised.
    """

    name: str
    fd: int


@final
@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where a running engine listens, and the key that it asks for (never in a repr)."""

    uds: str
    base_url: str
    api_key: str = field(repr=False)


class Engine(Protocol):
    """One engine, started at most once."""

    @property
    def address(self) -> EngineAddress:
        """Where it serves. Raises EngineError (STATE) unless `start` has returned."""
        ...

    @property
    def pid(self) -> int:
        """Process id of the engine. Raises EngineError (STATE) unless it was started."""
        ...

    async def start(self, files: Sequence[ModelFile], *, alias: str) -> EngineAddress:
        """Load the model and return when it can answer, `alias` being its name for callers.

        Raises EngineError; nothing of the engine is left running then.
        """
        ...

    async def wait_exit(self) -> int:
        """Return the exit status once the engine has ended (negative: the signal's number)."""
        ...

    async def drain(self, seconds: float) -> bool:
        """Ask the engine to finish and end within `seconds`; True if it has ended.

        Call it after the front has stopped taking requests; call `stop` whatever it returns.
        """
        ...

    async def stop(self) -> None:
        """End the engine now, and remove what it left; may be called at any time, also twice."""
        ...
