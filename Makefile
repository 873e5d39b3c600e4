# Two commands: `make demo` shows the whole idea in minutes, `make test` checks it. Both set up .venv first, once.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
LOWEST := .venv-lowest
COVERED := patching tracer finetune
JOBS ?= 2
PERF_STAMP := $(VENV)/.set-up-perf

.PHONY: help setup demo test quick test-slow test-lowest coverage perf tables notebooks gallery lint clean

help:
	@echo "make demo       trace, prescribe, fine-tune and trace again on the miniature; writes demo/report.html"
	@echo "make test       fast tests, doctests, lint and types (JOBS=2 processes)"
	@echo "make quick      a part of them, for every change"
	@echo "make test-slow  the tests that take minutes"
	@echo "make test-lowest  the tests with the oldest versions that pyproject.toml claims"
	@echo "make coverage   the fast tests, and that they reach 95 % of the branches of $(COVERED), each"
	@echo "make perf       time tracing and training against peers and the machine (QUICK=1: only try it)"
	@echo "make tables     run every tower of the zoo and write docs/tower_table.md"
	@echo "make notebooks  run examples/*.py and write the notebooks beside them"
	@echo "make gallery    draw every kind of figure and write docs/gallery.md"
	@echo "make lint       ruff (lint and format) and mypy only"
	@echo "make setup      only create .venv and install"

setup: $(STAMP)

# Runs again when the dependencies change; the stamp is written last, so that an interrupted set-up is not mistaken for one.
$(STAMP): pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
		[ -x $(BIN)/python ] || uv venv --python '>=3.11' $(VENV); \
		uv pip install --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[test]'; \
	else \
		[ -x $(BIN)/python ] || { \
			$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tracescribe needs Python 3.11 or newer: make PYTHON=python3.11 ...")'; \
			$(PYTHON) -m venv $(VENV); }; \
		$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip; \
		$(BIN)/python -m pip install -c constraints.txt -e '.[test]'; \
	fi
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m tracescribe demo --out demo

test: $(STAMP)
	$(BIN)/pytest -n $(JOBS)

# Without the zoo of towers, the benchmarks and the building of packages: for every change.
quick: $(STAMP)
	$(BIN)/pytest -n $(JOBS) tests --ignore=tests/zoo --ignore=tests/perf --ignore=tests/test_packaging.py \
		--ignore-glob='*test_zoo_*'

test-slow: $(STAMP)
	$(BIN)/pytest -n $(JOBS) -m slow

# The oldest versions that pyproject.toml claims, in an environment of their own (needs uv).
test-lowest:
	@[ -x $(LOWEST)/bin/python ] || uv venv --python 3.11 $(LOWEST)
	uv pip install --compile-bytecode --python $(LOWEST)/bin/python --resolution lowest-direct -e '.[test]'
	$(LOWEST)/bin/pytest -n $(JOBS) tests --ignore=tests/test_quality.py

coverage: $(STAMP)
	$(BIN)/pytest -n $(JOBS) --cov --cov-report=
	for part in $(COVERED); do $(BIN)/coverage report --include="$$part/*" --skip-covered --fail-under=95; done

# The peers that only the benchmarks need are installed for them alone.
perf: $(PERF_STAMP)
	$(BIN)/python perf/run.py $(if $(QUICK),--quick)

$(PERF_STAMP): $(STAMP)
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[perf]'; \
	else \
		$(BIN)/python -m pip install -c constraints.txt -e '.[perf]'; \
	fi
	@touch $@

tables: $(STAMP)
	TRACESCRIBE_WRITE_TABLES=1 $(BIN)/pytest -q tests/patching/test_zoo_towers.py

notebooks: $(STAMP)
	$(BIN)/python docs/notebooks.py

gallery: $(STAMP)
	$(BIN)/python docs/gallery.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p tracescribe

clean:
	rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
