"""What the supervisor asks of an engine, whichever it is.

Guarantees, of every engine behind `Engine`: its process takes the model as open descriptors of
sealed memfds and never as a file on a disk; its address is reachable for this user only and asks
for a random key; it never sees the key that sealed the model, which stays behind `Model`.
Does not say how an engine serves: the front speaks to its OpenAI-compatible HTTP surface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, final

from inference_runtime.sealed.manifest import SealedFile
from inference_runtime.sealed.memory import MemoryFile
from inference_runtime.sealed.open import OpenedModel


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
    NOT_INSTALLED = "engine_not_installed"
    BAD_MODEL = "engine_bad_model"
    OUT_OF_MEMORY = "engine_out_of_memory"
    NO_PRIVATE_MEMORY = "engine_no_private_memory"


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
    caller, who may close it as soon as the engine has started or failed to.
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


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """One step that is done, for whoever watches: what, with what detail, in how many seconds."""

    name: str
    detail: str
    seconds: float


Watch = Callable[[Stage], None]


class Model(Protocol):
    """A sealed model that is opened as the engine asks for it; `sealed.stream_model` is one.

    Its methods block, may be called from any thread, and raise RuntimeFault with the file's name.
    """

    @property
    def files(self) -> Sequence[SealedFile]:
        """Path and size of every file."""
        ...

    def open(self, path: str) -> MemoryFile:
        """Return one file, authentic and frozen; the caller closes it."""
        ...

    def open_all(self) -> OpenedModel:
        """Return all files; the caller closes them."""
        ...

    def head(self, path: str, length: int) -> bytes:
        """Return the start of a file, to be compared with the whole once that is open."""
        ...

    def close(self) -> None:
        """Wipe the key: nothing can be opened any more."""
        ...


class Engine(Protocol):
    """One engine, started at most once."""

    @property
    def ranks(self) -> int:
        """Into how many parts it splits each layer: its tensor parallel size."""
        ...

    @property
    def gpus(self) -> int:
        """How many GPUs will hold plaintext of the model: as many have to be attested."""
        ...

    @property
    def address(self) -> EngineAddress:
        """Where it serves. Raises EngineError (STATE) unless `start` has returned."""
        ...

    @property
    def pid(self) -> int:
        """Process id of the engine. Raises EngineError (STATE) unless it was started."""
        ...

    async def load(self, model: Model, *, alias: str, watch: Watch) -> EngineAddress:
        """Load the model and return when it can answer, `alias` being its name for callers.

        Closes `model` as soon as no file is wanted any more. Raises EngineError, or RuntimeFault
        if a file of the model is not what it should be; nothing of the engine is left running then.
        """
        ...

    @property
    def last_words(self) -> str:
        """Why it ended, as far as is known; empty if nothing is. Holds nothing of a request."""
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
