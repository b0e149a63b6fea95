"""Which files of a sealed model vLLM needs: weights, in order, and the small files around them.

Guarantees: only safetensors are weights (other formats run code when they are read); custom code
is never asked for: a document with `auto_map` is refused by the file's name, as is an index that
names a file which the manifest has not. Pure: names and bytes in, a plan out.
Does not check what a config says beyond that: vLLM does, from authenticated bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import msgspec

from inference_runtime.engine.protocol import EngineError, EngineFault
from inference_runtime.sealed.manifest import SealedFile

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
WEIGHTS: Final = ".safetensors"
MAX_SMALL: Final = 64 << 20
"""Largest small file in bytes; the tokenizers of today have up to 35 MB."""
MAX_HEADER: Final = 100_000_000
"""Largest header of a safetensors file in bytes, by its own specification."""
LENGTH: Final = 8
"""A safetensors file starts with the header's length: u64, little-endian."""
# What tokenizers, templates and configs are stored as. Everything else stays sealed.
_SMALL: Final = (".json", ".jinja", ".model", ".txt", ".tiktoken")
_DIGITS: Final = re.compile(r"(\d+)")


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """`weights` as the ranks get them, `small` as they are written into the private folder."""

    weights: tuple[str, ...]
    small: tuple[str, ...]
    left: tuple[str, ...]
    """What vLLM has no use for and what is not opened."""


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


def small_files(files: Sequence[SealedFile]) -> tuple[str, ...]:
    """Return the paths of the small files beside the weights: top level, known kinds only.

    Raises:
        EngineError: BAD_MODEL: no `config.json`, or a small file that is not small.
    """
    small = [file for file in files if _is_small(file.path)]
    if all(file.path != CONFIG for file in small):
        raise EngineError(EngineFault.BAD_MODEL, f"{CONFIG}: the model has none")
    for file in small:
        if file.size > MAX_SMALL:
            raise EngineError(EngineFault.BAD_MODEL, f"{file.path}: over {MAX_SMALL} bytes")
    return tuple(file.path for file in small)


def plan(files: Sequence[SealedFile], small: Mapping[str, bytes]) -> Plan:
    """Return which files are weights, after looking into every small one.

    Args:
        files: those of the manifest.
        small: authenticated bytes of `small_files`.

    Raises:
        EngineError: NO_MODEL: there are no safetensors; BAD_MODEL: a JSON file is none, asks for
            custom code, or is an index of files that are not there.
    """
    for name, raw in small.items():
        if name.endswith(".json"):
            _refuse_custom_code(name, raw)
    there = {file.path for file in files if _is_weights(file.path)}
    if INDEX in small:
        there = _indexed(small[INDEX], there)
    if not there:
        raise EngineError(EngineFault.NO_MODEL, "no safetensors file in the model")
    kept = there | set(small)
    return Plan(
        weights=tuple(sorted(there, key=_natural)),
        small=tuple(sorted(small)),
        left=tuple(file.path for file in files if file.path not in kept),
    )


def header_length(name: str, start: bytes, size: int) -> int:
    """Return the bytes of a safetensors file up to its data, from its first 8 bytes.

    Raises:
        EngineError: BAD_MODEL: no safetensors file starts so.
    """
    length = int.from_bytes(start, "little") if len(start) == LENGTH else 0
    if not 0 < length <= min(MAX_HEADER, size - LENGTH):
        raise EngineError(EngineFault.BAD_MODEL, f"{name}: not a safetensors file")
    return LENGTH + length


def _is_small(path: str) -> bool:
    return "/" not in path and path.endswith(_SMALL)


def _is_weights(path: str) -> bool:
    return "/" not in path and path.endswith(WEIGHTS)


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Order shard 10 after shard 9, however they are padded."""
    return tuple((int(p), "") if p.isdigit() else (-1, p) for p in _DIGITS.split(name))


def _indexed(raw: bytes, there: set[str]) -> set[str]:
    """Return the files that the index names: others repeat the same tensors in other layouts."""
    try:
        index = msgspec.json.decode(raw, type=_Index)
    except (msgspec.DecodeError, RecursionError) as error:
        raise EngineError(EngineFault.BAD_MODEL, f"{INDEX}: not an index") from error
    named = set(index.weight_map.values())
    for name in sorted(named - there):
        shown = name if name.isprintable() else repr(name)
        raise EngineError(EngineFault.BAD_MODEL, f"{INDEX}: names {shown}, which is not there")
    return named


def _refuse_custom_code(name: str, raw: bytes) -> None:
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise EngineError(EngineFault.BAD_MODEL, f"{name}: not JSON") from error
    # A vocabulary may have a word of that name; a request for code is a mapping, list or string.
    waiting: list[Any] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("auto_map"), dict | list | str):
                raise EngineError(
                    EngineFault.BAD_MODEL,
                    f"{name}: auto_map asks for custom code, which is never run",
                )
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
