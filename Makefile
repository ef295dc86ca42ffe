# Each target sets up what it needs: a virtual environment in .venv and the package in it, once.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
TOOLS := .venv/.tools
# Modules are compiled when they are first imported: most of what torch and transformers bring never is. What is compiled
# must be kept, whatever the environment says: each process would compile it again, 12 s of a core. The newest pip takes
# 45 s where that of Python 3.11 takes 71 s.
export PYTHONDONTWRITEBYTECODE :=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-build-isolation

.DEFAULT_GOAL := help
.PHONY: help install demo claims test check docs clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

install: $(TOOLS)  ## the virtual environment with everything in it

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $$($(PYTHON) --version) at $(PYTHON); Python 3.11 or newer is needed. Run: make PYTHON=python3.12 $(MAKECMDGOALS)."; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip 'setuptools>=77'
	$(PIP) --editable '.[mini]'
	@touch $@

$(TOOLS): $(INSTALLED)
	$(PIP) --editable '.[mini,dev]'
	@touch $@

demo: $(INSTALLED)  ## pretrain, join, compare, about 15 minutes on two cores
	$(BIN)/vtb demo

claims: $(INSTALLED)  ## longer trainings on its base models, with every baseline and two seeds, about an hour; resumable
	$(BIN)/vtb demo --claims --seeds 2

test: $(TOOLS)  ## all tests that need no GPU
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not gpu'

check: $(TOOLS)  ## format, lint, types and the floors
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(TOOLS)  ## the table of recipe keys in docs/recipes.md, from the code
	$(BIN)/python -m voicetextblender.train.recipe_reference docs/recipes.md

clean:  ## remove the environment and caches; runs/ is kept
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
