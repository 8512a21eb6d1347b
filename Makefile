# Everything runs from a virtual environment of the project's own, made by the first target that needs it:
# `make demo` and `make test` are all there is to know. Nothing is installed twice unless pyproject.toml changes.

PYTHON  ?= python3
VENV    ?= .venv
# Processes of pytest. The tests mostly wait for servers and deadlines, so more than there are processors pays.
WORKERS ?= 5
ARGS    ?=

BIN := $(VENV)/bin/python
PIP := $(BIN) -m pip install --quiet --disable-pip-version-check --no-compile

# Imported modules are compiled once and kept: workers that the tests start would else compile Celery anew each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo shop test test-fast chaos exclusion matrix bench bench-quick lint format types api docs diagrams environment clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12  which Python makes the environment (now: $(PYTHON))"
	@echo "  VENV=.venv         where it lies"
	@echo "  ARGS='...'         handed to the demo, or to pytest"
	@echo "  CHAOS_SEED=7       what breaks when, and CHAOS_SECONDS=300 for how long"
	@echo "  WORKERS=5          processes of pytest; 0 runs the tests in this one"

demo: $(VENV)/.demo ## Run the example shop, with a server of its own
	@$(BIN) -m example_project $(ARGS)

shop: $(VENV)/.shop ## Open the example shop: a page to call its tasks, a worker, beat
	@$(BIN) -m example_project.shop $(ARGS)

test: $(VENV)/.dev ## Run all tests, against real servers
	@$(BIN) -m pytest -n $(WORKERS) $(ARGS)

test-fast: $(VENV)/.dev ## Run the tests that take no more than about two seconds each
	@$(BIN) -m pytest -n $(WORKERS) -m "not slow" $(ARGS)

chaos: $(VENV)/.dev ## Break everything at once for five minutes, and check what came of it
	@export CHAOS_FOLDER=chaos-history CHAOS_SECONDS="$${CHAOS_SECONDS:-300}" \
	  CHAOS_SEED="$${CHAOS_SEED:-$$($(BIN) -c 'import secrets; print(secrets.randbelow(10**6))')}"; \
	echo "CHAOS_SEED=$$CHAOS_SEED CHAOS_SECONDS=$$CHAOS_SECONDS: histories are kept in $$CHAOS_FOLDER/"; \
	exec $(BIN) -m pytest -n 0 -s tests/chaos/test_chaos.py $(ARGS)

exclusion: $(VENV)/.dev ## Let eight processes want one lock for twenty seconds, on each store
	@CELERY_LOCKS_EXCLUSION_SECONDS=20 $(BIN) -m pytest -n 0 -rP tests/stores/test_exclusion.py $(ARGS)

matrix: $(VENV)/.matrix ## Test each Python, Celery, extra and the lowest versions allowed, in environments of their own
	@$(BIN) -m nox $(ARGS)

bench: $(VENV)/.bench ## Measure it beside other locks and the limits of this machine: some ten minutes
	@$(BIN) -m benchmarks $(ARGS)

bench-quick: $(VENV)/.bench ## A part of that, in under a minute
	@$(BIN) -m benchmarks --quick $(ARGS)

lint: $(VENV)/.dev ## Check the style of the code
	@$(BIN) -m ruff check .
	@$(BIN) -m ruff format --check .

format: $(VENV)/.dev ## Mend the style of the code, as far as it mends itself
	@$(BIN) -m ruff check --fix .
	@$(BIN) -m ruff format .

types: $(VENV)/.dev ## Check the types
	@$(BIN) -m mypy

api: $(VENV)/.dev ## Write down the public API, when it is meant to change
	@$(BIN) -m tests.package.api

docs: $(VENV)/.docs ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN) -m mkdocs build --strict
	@$(BIN) -m tests.package.links site $(ARGS)
	@echo "Built: site/index.html"

environment: $(VENV)/.checks ## Make the environment with all that these need: .ci/run begins with it

diagrams: $(VENV)/.made ## Draw the diagrams of the documentation anew; needs Node.js and Chromium
	@$(BIN) docs/diagrams/draw.py

clean: ## Remove all that the targets above made, the environment too
	rm -rf $(VENV) site dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .nox
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- The environment ------------------------------------------------------------------------------------------------

define CHECK_PYTHON
command -v $(PYTHON) > /dev/null || { \
  echo "There is no '$(PYTHON)'. celery-locks needs Python 3.10 or newer: install it, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
  echo "celery-locks needs Python 3.10 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
  echo "'$(PYTHON)' can't make virtual environments: its modules venv and ensurepip are missing. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
endef

# Prints the pip wheel that comes with Python. Running pip from it to fetch a new pip spares installing the old one first.
define BUNDLED_PIP
import ensurepip, glob, os
places = [os.path.join(os.path.dirname(ensurepip.__file__), "_bundled"), "/usr/share/python-wheels"]
print(next((wheel for place in places for wheel in glob.glob(os.path.join(place, "pip-*.whl"))), ""))
endef
export BUNDLED_PIP

# The new pip resolves twice as fast as the one that comes with Python 3.10 or 3.11.
$(VENV)/.made:
	@$(CHECK_PYTHON)
	@echo "Making $(VENV) with $$($(PYTHON) --version) ..."
	@wheel=$$($(PYTHON) -c "$$BUNDLED_PIP"); \
	if [ -n "$$wheel" ]; then \
	  $(PYTHON) -m venv --without-pip $(VENV) && PYTHONPATH="$$wheel" $(PIP) pip; \
	else \
	  $(PYTHON) -m venv $(VENV) && $(PIP) --upgrade pip; \
	fi
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	@echo "Installing what the demo needs ..."
	@$(PIP) -e ".[demo]"
	@touch $@

$(VENV)/.shop: $(VENV)/.made pyproject.toml
	@echo "Installing what the shop needs ..."
	@$(PIP) -e ".[shop]"
	@touch $@ $(VENV)/.demo

# What the tests need holds what demo and shop need.
$(VENV)/.dev: $(VENV)/.made pyproject.toml
	@echo "Installing what the demo, the tests and the checks need ..."
	@$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/.demo $(VENV)/.shop

# All that .ci/run needs, in one go.
$(VENV)/.checks: $(VENV)/.made pyproject.toml
	@echo "Installing what the tests, the checks and the documentation need ..."
	@$(PIP) -e ".[dev,docs]"
	@touch $@ $(VENV)/.demo $(VENV)/.shop $(VENV)/.dev $(VENV)/.docs

$(VENV)/.bench: $(VENV)/.dev
	@echo "Installing what the benchmarks compare with ..."
	@$(PIP) -e ".[bench]"
	@touch $@

$(VENV)/.matrix: $(VENV)/.dev
	@echo "Installing what runs the matrix ..."
	@$(PIP) -e ".[matrix]"
	@touch $@

$(VENV)/.docs: $(VENV)/.made pyproject.toml
	@echo "Installing what the documentation needs ..."
	@$(PIP) -e ".[docs]"
	@touch $@
