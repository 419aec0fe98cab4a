# Every target runs in the checkout's own environment (.venv), which `setup` makes and keeps up to date.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
DIGITS := samples/digits
DIGITS_DATA := $(DIGITS)/data/.made

# One thread per test process: two pytest workers on two cores would otherwise fight over them.
test test-full: export OMP_NUM_THREADS = 1

.PHONY: help setup browser demo test test-full lint type bench docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with hbtool and the tested versions of everything it needs

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

$(DIGITS_DATA): $(STAMP) $(DIGITS)/make_data.py
	$(BIN)/python $(DIGITS)/make_data.py
	touch $@

browser: ## Install Chromium for the report page's tests (Debian as root; elsewhere they are skipped)
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } >/dev/null \
		|| echo "Chromium could not be installed: the tests that open the report page are skipped"; fi

demo: $(STAMP) $(DIGITS_DATA) ## Quantize, compile, verify, time and evaluate the digits sample
	$(BIN)/hbtool makertbin -c configs/digits.yaml --model-type onnx
	$(BIN)/hbtool verify model_output/digits.bin
	$(BIN)/hbtool perf model_output/digits.bin
	$(BIN)/python $(DIGITS)/evaluate.py model_output/digits.bin

test: lint type ## Everything a change must pass: lint, types, import contracts, tests
	$(BIN)/pytest -n $(WORKERS) -m 'not slow'

test-full: lint type ## The same with the long sweeps
	$(BIN)/pytest -n $(WORKERS)

lint: $(STAMP) ## Style, formatting and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

type: $(STAMP) ## Static types (mypy --strict)
	$(BIN)/mypy

bench: $(STAMP) tools/bench.py tools/bench_qat.py ## Measure the figures the README and docs quote
	$(BIN)/python tools/bench.py
	$(BIN)/python tools/bench_qat.py

docs: $(STAMP) docs/generate.py ## Write the generated pages: operators, commands, config keys
	$(BIN)/python docs/generate.py

clean: ## Remove what the targets made, .venv included
	rm -rf $(VENV) $(DIGITS)/data model_output hb_perf_result .hb_check build dist ./*.egg-info \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
