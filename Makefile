# make run    everything, on a bare machine with Python 3.11 to 3.13
# make test   the whole test suite, the browser's included
# make lint   format, lint, types, layers
# make bench  the benchmarks
# make setup  the set-up alone; fast when nothing has changed
#
# Settings may stand on the line: `make run PORT=8001 DATA_DIR=/srv/chat`; make hands them on as environment.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
DEVELOPMENT := $(VENV)/.development
MODULES := node_modules/.installed

.PHONY: run setup test lint bench clean

run: setup
	@exec $(BIN)/python manage.py run

setup: $(RUNTIME) $(MODULES)

test: setup $(DEVELOPMENT)
	@deploy/install-browser
	@$(BIN)/python -m pytest

lint: $(DEVELOPMENT)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup $(DEVELOPMENT)
	@$(BIN)/python -m bench

clean:
	rm -rf $(VENV) node_modules

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else f"Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is {sys.version.split()[0]}; set PYTHON, for example make run PYTHON=python3.12.")'
	@echo "Making the virtual environment…"
	@$(PYTHON) -m venv $(VENV)

$(RUNTIME): requirements.txt | $(BIN)/python
	@echo "Installing the dependencies (some minutes the first time)…"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(DEVELOPMENT): requirements-dev.txt $(RUNTIME)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(MODULES): package-lock.json package.json | $(RUNTIME)
	@echo "Installing the browser modules…"
	@deploy/npm ci --no-audit --no-fund --loglevel=error
	@touch $@
