# Two commands matter: `make demo` and `make test`. Each does all of its own set-up.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test check lint bench serve fuzz docker-steps lock clean

help:                ## this list
	@grep -hE '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.demo  ## one release from end to end, then everything that must be refused
	@$(BIN)/ostiary demo

serve: $(VENV)/.demo ## a broker that stays up, with its OpenAPI page
	@$(BIN)/ostiary demo --serve

test: $(VENV)/.dev   ## all tests
	@$(BIN)/python -m pytest
	@echo "Next: 'make check' (what CI runs), 'make demo', 'make bench'."

check: lint test     ## what CI runs: format, lint, types, contracts, tests

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.dev  ## every benchmark; a table and plots in benchmarks/results/
	@$(BIN)/python -m benchmarks

fuzz: $(VENV)/.dev   ## every parser, 30 seconds each (coverage-guided where atheris is installed)
	@$(BIN)/python -m fuzz.run --seconds 30

docker-steps:        ## the Dockerfile's steps one by one in an empty root (debootstrap, as root)
	python3 deploy/run_dockerfile_steps.py

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
