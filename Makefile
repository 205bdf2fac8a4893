# Everything here sets itself up in .venv; the machine needs make and Python 3.11 or newer, nothing else.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# The tests wait about as much as they compute: five at a time, a file's in one process, in our own order
# (tests/conftest.py); lint computes while they wait.
# With COVER=--cov they say what they cover.
PYTEST := $(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder $(COVER)

.DEFAULT_GOAL := help
.PHONY: help demo quick test lint bench clean

help: ## show these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## a workflow converts a film on two workers, one of which is killed on the way
	@$(BIN)/python examples/demo.py

quick: $(VENV)/.dev ## the tests that need no server, and a short simulation, in half a minute
	@$(BIN)/python -m pytest -q -n 2 --dist load $(COVER) -m 'not long' --sim-scale=0.2 tests/test_shape.py tests/unit tests/wire tests/sim

test: $(VENV)/.dev ## the fast tests on a real nats-server (with lint, and all the others: bash .ci/run)
	@$(PYTEST) -m "not breadth and not long" --ignore=tests/bench --ignore=tests/crash --ignore=tests/interop --ignore=tests/power

lint: $(VENV)/.dev ## style, types and import direction
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "run: $(BIN)/ruff format"; exit 1; }
	@$(BIN)/lint-imports
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --level error & other=$$!; \
		$(BIN)/mypy; own=$$?; wait $$other && exit $$own

bench: $(VENV)/.dev ## measure turnout against bare nats-py on this machine
	@$(BIN)/python -m bench

clean: ## remove .venv, caches and the embedded server's data
	@rm -rf $(VENV) .cache .turnout .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* dist build

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found: install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is not Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make a virtual environment: install its venv module (on Debian and Ubuntu: apt-get install python3-venv)"; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing turnout with what the demo needs into $(VENV)"
	@$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing turnout with what the tests need into $(VENV) (a minute or two)"
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo
