"""The private folder that vLLM is started on: authenticated small files, headers of weights.

Guarantees: a file is written only after it was opened whole and found to be the manifest's; every
other small file of the model is opened as well, so that a wrong one stops the start. Of weights
only the safetensors header is written (names, types and shapes, from which vLLM tells embeddings
that are tied in the config and not in the checkpoint); it has to be the same in the whole file
when that is opened, and `Prepared.heads` is what it has to be.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from inference_runtime.engine.protocol import Model
from inference_runtime.engine.vllm import checkpoint
from inference_runtime.engine.vllm.home import Home
from inference_runtime.sealed.layout import FIRST


@final
@dataclass(frozen=True, slots=True)
class Prepared:
    """What a load needs to know: the plan, headers by name, and bytes of all weights."""

    plan: checkpoint.Plan
    heads: Mapping[str, bytes]
    size: int


def prepare(model: Model, home: Home) -> Prepared:
    """Open, check and write what vLLM reads by path. Blocks.

    Raises:
        RuntimeFault: a file is not what the manifest says; the text names it.
        EngineError: the model is none that vLLM may load, or there is no room in memory.
    """
    sizes = {file.path: file.size for file in model.files}
    # 1. Small files, whole.
    small = {path: _read(model, path) for path in checkpoint.small_files(model.files)}
    plan = checkpoint.plan(model.files, small)
    for path in plan.left:
        if sizes[path] <= checkpoint.MAX_SMALL:
            model.open(path).close()
    # 2. Headers of the weights: the first segments only, as each file is opened once.
    heads: dict[str, bytes] = {}
    for path in plan.weights:
        start = model.head(path, FIRST)
        length = checkpoint.header_length(path, start[: checkpoint.LENGTH], sizes[path])
        heads[path] = start[:length] if length <= len(start) else model.head(path, length)
    # 3. Nothing is written before everything is known to be good.
    for path, data in (small | heads).items():
        home.write(path, data)
    return Prepared(plan, heads, sum(sizes[path] for path in plan.weights))


def _read(model: Model, path: str) -> bytes:
    with model.open(path) as file:
        data = bytearray()
        while len(data) < file.size:
            data += os.pread(file.fileno(), file.size - len(data), len(data))
        return bytes(data)
