# Everything runs from a virtual environment of the project's own, made by the first target that needs it.
# `make demo` and `make test` are all there is to know. What they install is locked in requirements/, with hashes.

PYTHON  ?= python3
VENV    ?= .venv
# Processes of pytest. The tests mostly wait for servers and deadlines, so more than there are processors pays.
WORKERS ?= 4
# Fewer for the fast tests, since each process collects them all first.
FAST_WORKERS ?= 3
ARGS    ?=

BIN := $(VENV)/bin/python
PIP := $(BIN) -m pip install --quiet --disable-pip-version-check --no-compile
# Every package is named in requirements/ with its version and hashes: nothing is resolved, nothing else is installed.
LOCKED := $(PIP) --no-deps --require-hashes

# The groups of pyproject.toml that are locked. Each takes the versions of those before it.
GROUPS := dev bench matrix docs shop demo
# What `make lock` upgrades: everything. UPGRADE= changes only what pyproject.toml asks for.
UPGRADE ?= --upgrade

# Imported modules are compiled once and kept: otherwise each worker of the tests would compile Celery again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo shop test test-fast test-all test-docker coverage chaos exclusion matrix bench bench-quick model lint format types api docs dist lock diagrams environment clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12  which Python makes the environment (now: $(PYTHON))"
	@echo "  VENV=.venv         its folder"
	@echo "  ARGS='...'         passed to the demo, or to pytest"
	@echo "  CHAOS_SEED=7       what breaks when, and CHAOS_SECONDS=300 for how long"
	@echo "  WORKERS=4          processes of pytest; 0 runs the tests in this one"

demo: $(VENV)/.demo ## Run the example shop, with a server of its own
	@$(BIN) -m example_project $(ARGS)

shop: $(VENV)/.shop ## Open the example shop: a page to call its tasks, a worker, beat
	@$(BIN) -m example_project.shop $(ARGS)

test: $(VENV)/.dev ## Test every promise and every store, with real servers and workers: a quarter of an hour on two processors
	@$(BIN) -m pytest -n $(WORKERS) -m "not exhaustive" $(ARGS)

test-fast: $(VENV)/.dev ## Run the tests that start no process and take no more than about two seconds each
	@$(BIN) -m pytest -n $(FAST_WORKERS) -m "not slow and not processes" $(ARGS)

test-all: $(VENV)/.dev ## Run all tests: also chaos, the tutorial, the demo, browsers and benchmarks
	@$(BIN) -m pytest -n $(WORKERS) $(ARGS)

test-docker: $(VENV)/.dev ## Run the acceptance tests with workers and servers in containers; needs a Docker engine
	@$(BIN) -m pytest -n 2 -p no:celery_locks.testing.local -p celery_locks.testing.docker tests/acceptance $(ARGS)

coverage: $(VENV)/.dev ## Run the tests that are not slow, and report the lines that none of them reaches
	@$(BIN) -m coverage erase
	@$(BIN) -m coverage run -m pytest -n $(WORKERS) -m "not slow" $(ARGS)
	@$(BIN) -m coverage combine --quiet
	@$(BIN) -m coverage report

chaos: $(VENV)/.dev ## Break everything at random for five minutes, and check the history
	@export CHAOS_FOLDER=chaos-history CHAOS_SECONDS="$${CHAOS_SECONDS:-300}" \
	  CHAOS_SEED="$${CHAOS_SEED:-$$($(BIN) -c 'import secrets; print(secrets.randbelow(10**6))')}"; \
	echo "CHAOS_SEED=$$CHAOS_SEED CHAOS_SECONDS=$$CHAOS_SECONDS: histories are kept in $$CHAOS_FOLDER/"; \
	exec $(BIN) -m pytest -n 0 -s tests/chaos/test_chaos.py $(ARGS)

exclusion: $(VENV)/.dev ## Test exclusion: eight processes compete for one lock, twenty seconds on each store
	@CELERY_LOCKS_EXCLUSION_SECONDS=20 $(BIN) -m pytest -n 0 -rP tests/stores/test_exclusion.py $(ARGS)

matrix: $(VENV)/.matrix ## Test each Python, Celery and extra, the newest and the oldest dependencies
	@$(BIN) -m nox $(ARGS)

bench: $(VENV)/.bench ## Compare it with other locks: some ten minutes
	@$(BIN) -m benchmarks $(ARGS)

bench-quick: $(VENV)/.bench ## Run a part of that, in under a minute
	@$(BIN) -m benchmarks --quick $(ARGS)

model: $(VENV)/.made ## Check the model of a ticket's life with Spin: takes three minutes; needs Spin and gcc
	@$(BIN) docs/model/check.py $(ARGS)

lint: $(VENV)/.dev ## Check the style of the code
	@$(BIN) -m ruff check .
	@$(BIN) -m ruff format --check .
	@$(VENV)/bin/lint-imports --no-cache --no-logo

format: $(VENV)/.dev ## Fix the style of the code, as far as a tool can
	@$(BIN) -m ruff check --fix .
	@$(BIN) -m ruff format .

types: $(VENV)/.dev ## Check the types
	@$(BIN) -m mypy

api: $(VENV)/.dev ## Record the public API, when you mean to change it
	@$(BIN) -m tests.package.api

docs: $(VENV)/.docs ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN) -m mkdocs build --strict
	@$(BIN) -m tests.package.links site $(ARGS)
	@echo "Built: site/index.html"

dist: $(VENV)/.dev ## Build the wheel and the sdist into dist/, and check their metadata
	@rm -rf dist
	@$(BIN) -m hatchling build -d dist
	@$(BIN) -m twine check --strict dist/*

lock: $(VENV)/.matrix ## Lock the newest release of each dependency in requirements/, with hashes
	@for group in $(GROUPS); do \
	  before=$$(for other in $(GROUPS); do [ "$$other" = "$$group" ] && break; echo "-c requirements/$$other.txt"; done); \
	  echo "Locking requirements/$$group.txt ..."; \
	  echo "-e ." | $(VENV)/bin/uv pip compile - --group $$group $$before $(UPGRADE) --quiet --universal \
	    --python-version 3.10 --generate-hashes --no-emit-package celery-locks --no-annotate \
	    --custom-compile-command "make lock" -o requirements/$$group.txt > /dev/null || exit 1; \
	done

environment: $(VENV)/.checks ## Make the environment for all of these: .ci/run begins with it

diagrams: $(VENV)/.made ## Draw the diagrams of the documentation again; needs Node.js and Chromium
	@$(BIN) docs/diagrams/draw.py

clean: ## Remove everything that the targets above made, with the environment
	rm -rf $(VENV) site dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .nox
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- The environment ------------------------------------------------------------------------------------------------

define CHECK_PYTHON
case "$(VENV)" in *" "*) echo "VENV='$(VENV)' has a blank in it, which make can't handle: name another folder" >&2; exit 1;; esac; \
command -v "$(PYTHON)" > /dev/null || { \
  echo "There is no '$(PYTHON)'. celery-locks needs Python 3.10 or newer: install it, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }; \
"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
  echo "celery-locks needs Python 3.10 or newer, and '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }; \
"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || { \
  echo "'$(PYTHON)' can't make virtual environments: its modules venv and ensurepip are missing. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
endef

$(VENV)/.made:
	@$(CHECK_PYTHON)
	@echo "Making $(VENV) with $$("$(PYTHON)" --version) ..."
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

# $(call INSTALL,what for,group...): the locked packages of these groups, and the project itself in editable mode.
define INSTALL
@echo "Installing what $(1) ..."
@$(LOCKED) $(foreach group,$(2),-r requirements/$(group).txt)
@$(PIP) --no-deps --no-build-isolation --editable .
endef

$(VENV)/.demo: $(VENV)/.made pyproject.toml requirements/demo.txt
	$(call INSTALL,the demo needs,demo)
	@touch $@

$(VENV)/.shop: $(VENV)/.made pyproject.toml requirements/shop.txt
	$(call INSTALL,the shop needs,shop)
	@touch $@ $(VENV)/.demo

# What the tests need includes what the demo and the shop need.
$(VENV)/.dev: $(VENV)/.made pyproject.toml requirements/dev.txt
	$(call INSTALL,the demo and the tests and the checks need,dev)
	@touch $@ $(VENV)/.demo $(VENV)/.shop

$(VENV)/.docs: $(VENV)/.made pyproject.toml requirements/docs.txt
	$(call INSTALL,the documentation needs,docs)
	@touch $@

# Everything that .ci/run needs, in one call of pip.
$(VENV)/.checks: $(VENV)/.made pyproject.toml requirements/dev.txt requirements/docs.txt
	$(call INSTALL,the tests and the checks and the documentation need,dev docs)
	@touch $@ $(VENV)/.demo $(VENV)/.shop $(VENV)/.dev $(VENV)/.docs

$(VENV)/.bench: $(VENV)/.dev requirements/bench.txt
	$(call INSTALL,the benchmarks compare with,bench)
	@touch $@

$(VENV)/.matrix: $(VENV)/.dev requirements/matrix.txt
	$(call INSTALL,the matrix and the lock need,matrix)
	@touch $@
