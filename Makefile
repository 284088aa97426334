# Every command for people. `make help` lists them; `make demo` and `make test` need only Python, git and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
TESTS ?= tests/e2e tests/integration tests/unit
WORKERS ?= $(shell echo $$((2 * $$(nproc))))
UV := UV_COMPILE_BYTECODE=1 $(VENV)/bin/uv
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPATH :=

.PHONY: help demo gate-demo release-demo loop-demo test lint format unit down status bench requirements clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/ready ## start the laptop stack, run the whole pipeline on HEAD through Airflow, show the results
	@$(PY) -m scripts.demo

gate-demo: $(VENV)/ready ## judge three pull requests with the real workflow, on a separate stack and GitHub double
	@$(PY) -m scripts.gate_demo

release-demo: $(VENV)/ready ## merge, release, run the pushed image, roll back: with the real workflow, engine and registry
	@$(PY) -m scripts.release_demo

loop-demo: $(VENV)/ready ## change the season: alert, event, retraining, gate, release, lower error; needs Prometheus, Alertmanager
	@$(PY) -m scripts.loop_demo

test: $(VENV)/ready ## lint, types and all tests that this machine can run; TESTS=… for some, WORKERS=… processes
	@$(PY) -m tests.schedule $(WORKERS) $(TESTS)
	@$(MAKE) --no-print-directory lint
	@exec $(PY) -m pytest --numprocesses $(WORKERS) $(TESTS)

lint: $(VENV)/ready ## formatting, lint, types, import rules, workflows, Dockerfiles
	@$(VENV)/bin/ruff format --check --quiet . || { echo "run 'make format'"; exit 1; }
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy --no-error-summary
	@$(VENV)/bin/lint-imports --no-cache | tail -n 3
	@$(PY) -m monitoring --check
	@$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-actions .github/actions/*/action.yml
	@$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml
	@$(VENV)/bin/hadolint Dockerfile $$(find deploy -name Dockerfile)
	@$(VENV)/bin/zizmor --quiet --offline --no-progress .github

format: $(VENV)/ready ## format the code, and fix what the linter can
	@$(VENV)/bin/ruff check --quiet --fix . ; $(VENV)/bin/ruff format .

unit: $(VENV)/ready ## the tests that need no service
	@exec $(PY) -m pytest --numprocesses $(WORKERS) tests/unit

down: ## stop every process that the stack started
	@if [ -x $(PY) ]; then $(PY) -m scripts.stack down; else echo "Nothing was running."; fi

status: $(VENV)/ready ## show the laptop stack's services
	@$(PY) -m scripts.stack status

bench: $(VENV)/ready ## run the benchmarks and write bench/results/
	@$(PY) -m bench

requirements: $(VENV)/ready ## pin requirements/*.in again, with hashes and without addresses
	@bash scripts/pin.sh

clean: down ## stop the stack, and remove its state, the environment and caches
	rm -rf .rps $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis data

$(VENV)/ready: requirements/uv.txt requirements/dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 …")'
	@echo "Making the environment in $(VENV)/ (once; about half a minute)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(UV) pip sync --quiet --python $(PY) --require-hashes requirements/dev.txt
	@touch $@
