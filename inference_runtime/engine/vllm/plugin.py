"""The entry point of group `vllm.general_plugins`: runs in every process of vLLM, also its helpers.

Guarantees: importing this imports nothing; `register` may be called any number of times, holds no
secret, switches core dumps and /proc access off for the process, ties its life to its parent's
and makes the load format `ostiary` known. It is to be the only plug-in (VLLM_PLUGINS).
"""

from __future__ import annotations


def register() -> None:
    """Harden this process and register the load format.

    Raises:
        HardeningError: the kernel refused; the process that called ends.
    """
    import multiprocessing  # noqa: PLC0415 - importing this module is to cost nothing

    from inference_runtime.engine.vllm.wire import LOAD_FORMAT  # noqa: PLC0415 - same
    from inference_runtime.hardening import die_with_parent, harden_process  # noqa: PLC0415 - same

    # Each of vLLM's processes is an exec of Python, after which the kernel's flags are the default.
    harden_process()
    if multiprocessing.parent_process() is not None:
        die_with_parent()
    from vllm.model_executor import model_loader  # noqa: PLC0415 - same

    from inference_runtime.engine.vllm.loader import SealedLoader  # noqa: PLC0415 - same

    if model_loader._LOAD_FORMAT_TO_MODEL_LOADER.get(LOAD_FORMAT) is not SealedLoader:  # noqa: SLF001 - the registry has no reader
        model_loader.register_model_loader(LOAD_FORMAT)(SealedLoader)
