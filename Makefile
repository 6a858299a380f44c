PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run test test-fast lint format bench golden tables clean

help:  ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

.venv/run: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Everclip needs Python 3.11 or newer; make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/dev: .venv/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: .venv/run  ## install and run the default experiment
	$(BIN)/everclip

test: .venv/dev lint  ## install, lint, and run the test suite
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-fast: .venv/dev  ## only the tests that take no more than a few seconds
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow and not gpu and not data and not slurm'

lint: .venv/dev  ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/dev  ## time what a run consists of, side by side
	$(BIN)/python scripts/bench_core.py
	$(BIN)/python scripts/bench_data.py

golden: .venv/dev  ## remake tests/golden/<method>.json of the embedded sequence; justify the diff in the commit
	$(BIN)/python -m pytest tests/test_golden.py --remake-golden

tables: .venv/run  ## write REPRODUCTION.md from the run folders in outputs
	$(BIN)/python -m everclip.tables.reproduction REPRODUCTION.md

clean:  ## remove everything that can be made again, outputs excepted
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
