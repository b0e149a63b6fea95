"""The child process that holds llama.cpp: `python -m inference_runtime.engine.llama_child FD`.

Guarantees: it hardens itself before it receives a secret; llama.cpp logs nothing; it answers only
on its unix socket and only to who knows the key; it ends when its supervisor ends.
Does not limit who may ask for what: that is the front's work, which alone reaches it.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Final

import msgspec
import xllamacpp

from inference_runtime.engine import control
from inference_runtime.hardening import HardeningError, die_with_parent, harden_process

EXIT_OK: Final = 0
EXIT_NOT_HARDENED: Final = 70
EXIT_PROTOCOL: Final = 71
EXIT_LOAD: Final = 72

# llama.cpp's scale: -1 prints nothing at all, 3 is its default, and from 4 on it prints prompts.
_SILENT: Final = -1


def main(control_fd: int) -> int:
    """Serve until told to finish or until the supervisor is gone; return the exit status."""
    # 1. No secret before the walls stand.
    try:
        die_with_parent()
        harden_process()
    except HardeningError:
        return EXIT_NOT_HARDENED
    with socket.socket(fileno=control_fd) as supervisor:
        supervisor.send(control.encode(control.Hardened()))
        # 2. The order, and the model's descriptor with it.
        packet, descriptors, _, _ = socket.recv_fds(supervisor, control.MAX_MESSAGE, 1)
        try:
            order = control.decode(packet)
        except msgspec.DecodeError:
            return EXIT_PROTOCOL
        if not isinstance(order, control.Begin) or len(descriptors) != 1:
            return EXIT_PROTOCOL
        # 3. Load.
        try:
            server = xllamacpp.Server(_parameters(order, descriptors[0]))
        except (RuntimeError, ValueError, OSError):
            supervisor.send(control.encode(control.Failed()))
            return EXIT_LOAD
        os.close(descriptors[0])  # what was mapped stays mapped
        Path(order.socket_path).chmod(0o600)
        supervisor.send(control.encode(control.Ready()))
        # 4. Serve on llama.cpp's own threads until a packet comes, or the end of the supervisor.
        last_words = supervisor.recv(control.MAX_MESSAGE)
        if not last_words:
            os._exit(EXIT_OK)  # nobody is left to wait for an orderly end
        # 5. Destroying it lets running answers end; the supervisor kills us if that takes long.
        del server
    return EXIT_OK


def _parameters(order: control.Begin, descriptor: int) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path = f"/proc/self/fd/{descriptor}"
    params.model_alias = {order.alias}
    params.hostnames = [order.socket_path]  # a name that ends in .sock is a unix socket
    params.api_keys = [order.api_key]
    params.verbosity = _SILENT
    params.n_ctx = order.context * order.slots
    params.n_parallel = order.slots
    params.n_predict = order.answer
    params.n_threads_http = order.slots + 2
    params.cpuparams.n_threads = order.threads
    params.cpuparams_batch.n_threads = order.threads
    params.fit_params = False
    params.offline = True
    # One caller must not learn from the time of an answer what another one asked.
    params.cache_prompt = False
    params.cache_idle_slots = False
    params.cache_ram_mib = 0
    params.show_timings = False
    params.ui = False
    params.endpoint_slots = False
    params.endpoint_metrics = False
    params.endpoint_props = False
    params.cors_origins = ""
    params.cors_credentials = False
    return params


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
