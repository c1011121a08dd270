# Everything a person or CI does here. `make demo` and `make test` need nothing but Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Every process would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE
# Files of tests side by side, grouped as tests/conftest.py says.
WORKERS := -n 3 --dist loadscope --no-loadscope-reorder
# Tools and long runs share what the tests share.
TOOL := PYTHONPATH=tests:tools $(BIN)/python
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test unit peers soak browser figures rounds lint types wheel docs reference sbom audit dev clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       install, then train the heart federation and show what each hospital gained"
	@echo "make test       install, then run every test"
	@echo "make unit       the tests of single rooms, within a minute"
	@echo "make peers      against programs of others: oidc-provider, Prometheus, ONNX, Lightning, peft (installs them); in containers"
	@echo "make soak       hostile inputs to every parser of the wire; kills at 1,000 points; a long run under kills"
	@echo "make browser    the dashboard in a real browser (Debian's package chromium)"
	@echo "make figures    measure what docs/costs.md claims, and attacks with bounds off and on"
	@echo "make rounds     measure a round of real processes, and an envelope of 50 MB"
	@echo "make lint       ruff and the import contracts"
	@echo "make types      mypy, strict"
	@echo "make wheel      build the wheel and try it in a fresh environment"
	@echo "make docs       build the documents into site/; a link that leads nowhere fails"
	@echo "make reference  write docs/reference/ from the code"
	@echo "make sbom       list all parts in build/sbom.json (CycloneDX)"
	@echo "make audit      ask the advisory database about every pinned package"
	@echo "make dev        the environment for working on moonflower"
	@echo "make clean      remove what make made"

demo: $(VENV)/.installed
	$(BIN)/moonflower simulate configs/heart.toml

test: dev
	$(BIN)/python -m pytest tests/unit tests/federation tests/live tests/docs $(WORKERS)

unit: dev
	$(BIN)/python -m pytest tests/unit $(WORKERS)

peers: dev
	$(BIN)/python -m pytest tests/peers $(WORKERS)

soak: dev
	$(PIP) --quiet --editable '.[soak]'
	$(TOOL) tools/fuzzing.py -runs=100000 -seed=1
	$(TOOL) tests/federation/test_machines.py
	$(TOOL) tools/crash.py 1000 1
	$(TOOL) tests/federation/test_rule_one.py 10000
	$(TOOL) tools/soak_live.py 300 1
	$(TOOL) tools/soak_away.py 60 540 4

browser: dev
	$(PIP) --quiet --editable '.[browser]'
	$(BIN)/python -m pytest tests/browser

rounds: dev
	$(TOOL) tools/rounds.py

figures: dev
	$(PIP) --quiet --editable '.[figures]'
	$(TOOL) tools/figures.py
	$(TOOL) tools/kinds.py
	$(TOOL) tools/rare_class.py
	$(TOOL) tools/training.py
	$(TOOL) tools/survey_speed.py
	$(TOOL) tools/bounds_model.py

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: dev
	MYPYPATH=.names $(BIN)/mypy

wheel: dev
	rm -rf build dist *.egg-info
	$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	$(TOOL) tools/wheel_check.py dist/*.whl

# The theme's notice about its successor is known; it would only hide what matters.
docs: $(VENV)/.documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

reference: $(VENV)/.installed
	$(BIN)/python docs/reference.py

sbom: $(VENV)/.supplied
	$(TOOL) tools/sbom.py

audit: $(VENV)/.supplied
	$(TOOL) tools/audit.py

dev: $(VENV)/.developed .names/moonflower

# The checkout is the package; this link lets mypy see it under its name.
.names/moonflower:
	mkdir -p .names && ln -sfn .. .names/moonflower

$(VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "moonflower needs Python 3.11 or newer; found $$("$(PYTHON)" --version 2>/dev/null || echo "no $(PYTHON)")."; \
	       echo "Try: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# pip says what it downloads: the first time is long, and silence looks like a hang.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing moonflower into $(VENV): once, a minute or more, torch is large."
	$(PIP) --editable .
	@touch $@

$(VENV)/.developed: $(VENV)/.installed
	@echo "Installing the tools for tests and checks into $(VENV): once."
	$(PIP) --quiet --editable '.[dev]'
	@touch $@

$(VENV)/.documented: $(VENV)/.installed
	$(PIP) --quiet --editable '.[docs]'
	@touch $@

$(VENV)/.supplied: $(VENV)/.installed
	$(PIP) --quiet --editable '.[supply]'
	@touch $@

clean:
	rm -rf $(VENV) .names .peers build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
