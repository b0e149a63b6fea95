"""The process that becomes vLLM's API server: `python -m inference_runtime.engine.vllm.child FD`.

Guarantees: it hardens itself before it learns the server's key, which comes over an inherited
socket and stays in this process; it starts vLLM only if our plug-in is there; custom code of a
model is never trusted, whatever the arguments say; the socket it serves at is this user's alone.
Does not log: its output goes to the driver, which throws it away once the engine serves.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

import msgspec

from inference_runtime.engine.vllm import door, wire
from inference_runtime.engine.vllm.order import (
    EXIT_NO_PLUGIN,
    EXIT_NOT_HARDENED,
    EXIT_PROTOCOL,
    HARDENED,
    MAX_ORDER,
    Order,
)
from inference_runtime.hardening import HardeningError, die_with_parent, harden_process


def main(control_fd: int) -> int:
    """Serve until the driver stops it; return the exit status."""
    try:
        die_with_parent()
        harden_process()
    except HardeningError:
        return EXIT_NOT_HARDENED
    os.umask(0o077)  # vLLM binds its socket and makes its files with what this leaves
    with socket.socket(fileno=control_fd) as driver:
        driver.send(HARDENED)
        try:
            order = msgspec.json.decode(driver.recv(MAX_ORDER), type=Order)
        except (msgspec.DecodeError, OSError):
            return EXIT_PROTOCOL
    return _serve(order)


def _serve(order: Order) -> int:
    import uvloop  # noqa: PLC0415 - the ranks import this module again, and need none of these
    from vllm.entrypoints.launchers.api_server.entry import run_server  # noqa: PLC0415 - same
    from vllm.entrypoints.launchers.cli_args import (  # noqa: PLC0415 - same
        make_arg_parser,
        validate_parsed_serve_args,
    )
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup  # noqa: PLC0415 - same
    from vllm.model_executor import model_loader  # noqa: PLC0415 - same
    from vllm.plugins import load_general_plugins  # noqa: PLC0415 - same
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415 - same

    cli_env_setup()
    load_general_plugins()
    # vLLM only logs a plug-in that fails.
    if wire.LOAD_FORMAT not in model_loader._LOAD_FORMAT_TO_MODEL_LOADER:  # noqa: SLF001 - the registry has no reader
        return EXIT_NO_PLUGIN
    parsed: Any = make_arg_parser(FlexibleArgumentParser()).parse_args(order.arguments)
    if parsed.trust_remote_code or parsed.load_format != wire.LOAD_FORMAT:
        return EXIT_PROTOCOL
    validate_parsed_serve_args(parsed)
    door.admit(order.key)
    uvloop.run(run_server(parsed))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
