# Everything a person or CI does here. `make demo` and `make test` need nothing but Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test unit lint types contracts wheel dev clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       install, then train the heart federation and show what each hospital gained"
	@echo "make test       install, then run every test"
	@echo "make unit       the fast tests only"
	@echo "make lint       ruff and the import contracts"
	@echo "make types      mypy, strict"
	@echo "make wheel      build the wheel and try it in a fresh environment"
	@echo "make dev        the environment for working on moonflower"
	@echo "make clean      remove what make made"

demo: $(VENV)/.installed
	$(BIN)/moonflower simulate configs/heart.toml

test: dev
	$(BIN)/python -m pytest tests

unit: dev
	$(BIN)/python -m pytest tests -m "not slow"

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: dev
	MYPYPATH=.names $(BIN)/mypy

wheel: dev
	rm -rf build dist *.egg-info
	$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	$(BIN)/python tests/wheel_check.py dist/*.whl

dev: $(VENV)/.developed .names/moonflower

# The checkout is the package; this link lets mypy see it under its name.
.names/moonflower:
	mkdir -p .names && ln -sfn .. .names/moonflower

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "moonflower needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing moonflower into $(VENV), once (torch is large)"
	$(PIP) --editable .
	touch $@

$(VENV)/.developed: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .names build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
