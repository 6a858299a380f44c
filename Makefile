PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run test test-fast test-all contract test-floors test-slurm chaos audit lint format bench golden golden-portable tables docs lock clean

help:  ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 18

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
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow and not gpu and not data and not slurm and not everything'

test-all: .venv/dev lint  ## the test suite and its long forms, as two processes for every method
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not gpu and not data and not slurm'

contract: .venv/dev  ## hold methods of your own to the contract: make contract CONFIG_DIR=my_conf (their code lies beside it)
	@test -n "$(CONFIG_DIR)" || { echo 'say which: make contract CONFIG_DIR=my_conf'; exit 2; }
	EVERCLIP_TEST_CONFIG_DIR=$(abspath $(CONFIG_DIR)) PYTHONPATH=$(abspath $(CONFIG_DIR)/..) $(BIN)/python -m pytest -m '' tests/contract tests/test_ddp.py::test_two_processes_equal_one

test-floors:  ## a short set of tests with the oldest versions that pyproject.toml allows (downloads them into .venv-floors)
	test -x .venv-floors/bin/python || $(PYTHON) -m venv .venv-floors
	grep -oE '"[A-Za-z0-9_-]+>=[0-9.]+' pyproject.toml | tr -d '"' | sed 's/>=/==/' > .venv-floors/floors.txt
	.venv-floors/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-floors/floors.txt -e . pytest pytest-xdist
	.venv-floors/bin/python -m pytest -W default -k 'test_a_run_and_the_same_command or check_says or offline_wandb or parts' \
	  tests/test_cli.py tests/test_config.py tests/test_loggers.py

test-slurm: .venv/dev  ## runs on a real SLURM of its own (needs the packages slurm-wlm and munge; some minutes)
	$(BIN)/python -m pytest -m slurm tests/slurm

chaos: .venv/dev  ## kill, stop and starve runs, damage files, garble commands: the long form (an hour)
	rm -rf outputs/chaos
	$(BIN)/python -m tests.faults.chaos kill --kills 40 --root outputs/chaos/kill
	$(BIN)/python -m tests.faults.chaos kill --kills 40 --seed 1 --root outputs/chaos/finetune method=finetune optimizer=sgd
	$(BIN)/python -m tests.faults.chaos kill --kills 40 --seed 2 --root outputs/chaos/icarl method=icarl method.memory_size=12
	$(BIN)/python -m tests.faults.chaos writes --root outputs/chaos/writes max_sessions=2
	$(BIN)/python -m tests.faults.chaos stop --kills 10 --root outputs/chaos/stop
	$(BIN)/python -m tests.faults.chaos full --root outputs/chaos/full max_sessions=2
	test "$$(id -u)" != 0 || $(BIN)/python -m tests.faults.chaos disk --root outputs/chaos/disk
	EVERCLIP_FUZZ=2000 $(BIN)/python -m pytest tests/faults/test_config_fuzz.py tests/faults/test_corrupt.py

audit: .venv/dev  ## look up known weaknesses of the pinned packages (asks the package index)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

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

golden: .venv/dev  ## remake tests/golden: figures of the embedded sequence, digests of the rows of tables; justify the diff in the commit
	$(BIN)/python -m pytest tests/test_golden.py tests/test_tables_definitions.py --remake-golden

golden-portable: .venv/dev  ## hold all recorded figures under other instruction sets, libraries and numbers of threads
	set -e; for setting in ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 ATEN_CPU_CAPABILITY=avx512 \
	  MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 EVERCLIP_TEST_THREADS=2; do echo "$$setting"; \
	  env "$$setting" $(BIN)/python -m pytest -q -n 2 --dist loadgroup -k 'test_golden or official' tests; done

tables: .venv/run  ## write REPRODUCTION.md from the run folders in outputs
	$(BIN)/python -m everclip.reporting.tables.reproduction REPRODUCTION.md

docs: .venv/dev  ## build the documentation into site/, without network (python -m http.server --directory site)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

lock: .venv/dev  ## write uv.lock anew, with the versions of constraints.txt (asks the package index)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	env -u UV_DEFAULT_INDEX -u UV_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL $(BIN)/uv lock --no-config $$(sed 's/^/--upgrade-package /' constraints.txt)

clean:  ## remove everything that can be made again, outputs excepted
	rm -rf .venv .venv-floors build dist site .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
