"""The load format `ostiary` inside vLLM: tensors out of sealed memory from the supervisor.

Guarantees: weights come from sealed memfds only, never from a path on a disk or a network; every
tensor of every file is offered to the model once, as vLLM's own safetensors loader does it, with
its expert filter and its check for missing weights. Built on vLLM 0.32 (`DefaultModelLoader`,
`_get_weights_iterator`); an internal interface, so the version is checked before the start.
Does not hold against hostile code in this very process.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Generator
from fnmatch import fnmatch
from typing import Any

import torch
from safetensors import safe_open
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.distributed import get_world_group
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.ep_weight_filter import should_skip_weight

from inference_runtime.engine.vllm.receive import HandoutError, received
from inference_runtime.engine.vllm.wire import SOCKET_KEY


class SealedLoader(DefaultModelLoader):  # type: ignore[misc]  # vLLM has no types here
    """vLLM's default loader with another source of tensors."""

    def __init__(self, load_config: LoadConfig) -> None:
        """Take our key out of the extra config: the default loader refuses what it does not know.

        Raises:
            HandoutError: the extra config is not `{"socket": PATH}`.
        """
        extra: Any = load_config.model_loader_extra_config
        if not isinstance(extra, dict) or set(extra) != {SOCKET_KEY}:
            raise HandoutError(f"the load format takes one extra key, {SOCKET_KEY!r}")
        plain = copy.copy(load_config)
        plain.model_loader_extra_config = {}
        super().__init__(plain)
        self._socket = str(extra[SOCKET_KEY])
        self._used = False

    def download_model(self, model_config: ModelConfig) -> None:
        """Do nothing: the weights are not to be had before the load."""

    def _get_weights_iterator(
        self, source: DefaultModelLoader.Source
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        # A second source is another checkpoint, which nobody sealed; a second pass finds nobody.
        if self._used or source.subfolder is not None:
            raise HandoutError("this model wants a second checkpoint, which is not supported")
        if self.load_config.safetensors_load_strategy is not None:
            raise HandoutError(
                f"{self.load_config.safetensors_load_strategy}: this way of storing tensors is "
                "not supported"
            )
        self._used = True
        self.counter_before_loading_weights = time.perf_counter()
        world = get_world_group()
        patterns = source.allow_patterns_overrides
        for name, descriptor in received(self._socket, world.rank_in_group, world.world_size):
            if patterns is None or any(fnmatch(name, pattern) for pattern in patterns):
                yield from self._tensors(descriptor, source.prefix)

    def _tensors(
        self, descriptor: int, prefix: str
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        # Mapped privately by the library: a model that changes what it was given changes its own
        # pages, and one that keeps a tensor keeps the mapping with it.
        with safe_open(f"/proc/self/fd/{descriptor}", framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors file is no dictionary
                if not should_skip_weight(name, self.local_expert_ids):
                    yield prefix + name, file.get_tensor(name)
