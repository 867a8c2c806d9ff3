# make portrait   set up, then run the main job        make lint    ruff, mypy, import-linter
# make test       set up, then pass the tests          make bench   measure speed
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.copo-setup
OUT ?= out

.PHONY: portrait test lint bench setup package api clean

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "copo needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

portrait: setup
	$(BIN)/copo portrait --out $(OUT)

test: setup
	$(BIN)/python -m pytest -n 2

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python benchmarks/head.py
	$(BIN)/copo bench render

api: setup
	$(BIN)/python tools/api_reference.py --strict --out docs/api

package: setup
	$(BIN)/python -m build

clean:
	rm -rf build dist out docs/api .pytest_cache .mypy_cache .ruff_cache .hypothesis
