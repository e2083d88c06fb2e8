# make train   sets everything up and trains the demo recipe: a few minutes on two cores
# make test    sets everything up, then lint, types and tests
# make docs    builds the documentation into site/
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-all lint format docs clean

train: .venv
	$(BIN)/python jobs/train.py

test: lint
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadgroup

test-all: lint
	$(BIN)/python -m pytest

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# At every build the theme announces its end of life, May 2027; the variable keeps that out of a build without warnings.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/.docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	touch $@

# The stamp is written last, so an interrupted installation is begun again.
.venv: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist site demo_shards
