"""A tiny folder of sharded safetensors, to seal and open what vLLM would load.

Guarantees: the shards and their index follow the safetensors layout (u64 little-endian header
length, JSON header padded with spaces to 8 bytes, tensor data) and hold the demo shape's tensors.
Does not make a servable model: names are GGUF's, and there is no tokenizer beside it; `hub` does.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ostiary.demo_model.shape import Shape, tensors

_VOCABULARY: Final = 256
_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"
_DTYPES: Final = {"float16": "F16", "float32": "F32", "int8": "I8"}

Tensor = npt.NDArray[np.float16] | npt.NDArray[np.float32] | npt.NDArray[np.int8]


def make_safetensors_folder(
    folder: Path, *, shards: int = 3, shape: Shape | None = None, seed: int | None = None
) -> Path:
    """Write `shards` safetensors files and their index into `folder` (made if absent).

    Args:
        folder: where the files go.
        shards: number of files; tensors are dealt out in turn, 1 to 99999.
        shape: sizes of the model; a very small one where none is given.
        seed: a number for the same bytes again; without it they are fresh.

    Returns:
        The path of the index.

    Raises:
        ValueError: `shards` is out of range, or there are fewer tensors than shards.
        OSError: the folder cannot be written.
    """
    shape = shape or Shape(layers=2, width=64, heads=2, kv_heads=1, feed_forward=128)
    rng = np.random.default_rng(secrets.randbits(128) if seed is None else seed)
    everything: list[tuple[str, Tensor]] = list(tensors(shape, _VOCABULARY, [], rng))
    if shards < 1:
        raise ValueError("shards must be 1 or more")
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, everything, shards)
    return folder / _INDEX


def write_shards(folder: Path, everything: Sequence[tuple[str, Tensor]], shards: int) -> None:
    """Write tensors as `shards` safetensors files and an index; 0 means one file without one.

    Raises:
        ValueError: there are fewer tensors than shards.
        OSError: the folder cannot be written.
    """
    if shards == 0:
        (folder / _SINGLE).write_bytes(_encode(dict(everything)))
        return
    if not 0 < shards <= min(99_999, len(everything)):
        raise ValueError(f"shards must be 0 to {min(99_999, len(everything))}")
    where: dict[str, str] = {}
    total = 0
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part: dict[str, Tensor] = dict(everything[number::shards])
        (folder / name).write_bytes(_encode(part))
        where.update(dict.fromkeys(part, name))
        total += sum(tensor.nbytes for tensor in part.values())
    index = folder / _INDEX
    document = {"metadata": {"total_size": total}, "weight_map": where}
    index.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _encode(part: dict[str, Tensor]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, tensor in part.items():
        start = len(data)
        data += np.ascontiguousarray(tensor).astype(tensor.dtype.newbyteorder("<")).tobytes()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [start, len(data)],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(data)
