# Every recipe a person or CI needs; `.ci/run` calls them verbatim.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test lint types imports bench proto lock

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# One environment for everything; rebuilt when the lock or the project file changes.
$(VENV)/.installed: requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "demur needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/.installed  ## train, fit, calibrate, serve and watch accept/abstain on real digits
	$(BIN)/demur demo

test: $(VENV)/.installed  ## the test suite (no root, nothing beyond Python and make)
	$(BIN)/python -m pytest -q -m "not slow and not helm and not peers" $(PYTEST_ARGS)

lint: $(VENV)/.installed  ## ruff
	$(BIN)/ruff check monitor proto detectors adapters tests src/demur/__init__.py
	$(BIN)/ruff format --check monitor proto detectors adapters tests src/demur/__init__.py

types: $(VENV)/.installed  ## mypy, strict
	$(BIN)/mypy -p demur

imports: $(VENV)/.installed  ## who may import whom
	$(BIN)/lint-imports

lock: ## re-resolve the lock files (needs uv)
	uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/base.lock
	uv pip compile -q pyproject.toml --extra dev -c requirements/base.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/dev.lock
