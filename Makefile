# Two commands on a fresh machine:  make improve  and  make test
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
BUDGET ?= 60s
# What was compiled once is kept: a suite starts hundreds of processes, each of which would compile all of src again.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q

.PHONY: improve test nightly check clean

improve: $(VENV)/.improve ## train, search and prove on a real table, and write a report
	$(BIN)/wellposed improve --budget $(BUDGET)

test: check ## everything that must hold
	$(BIN)/python -m pytest -n 3 --dist worksteal
	$(BIN)/python tests/installed.py

nightly: check ## what proves the tests: mutants of the slow laws, and the rest of a product of cases
	$(BIN)/python -m pytest -n 3 -m nightly

check: $(VENV)/.test ## style, types, layers
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then echo "wellposed needs Python 3.11 or newer, and none was found; install it, or give make PYTHON=/path/to/python3." >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "wellposed needs Python 3.11 or newer; $(PYTHON) is older. Give make PYTHON=/path/to/python3." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) lacks venv or ensurepip; on Debian and Ubuntu run: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.improve: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[all]'
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.improve

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
