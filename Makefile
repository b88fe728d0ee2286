# Makes its own virtual environment; every target does all the set-up that it needs.
PYTHON ?= python3
# One build for everybody's demo and tests. The package itself takes any torch from 2.6 on.
TORCH ?= torch==2.13.0

BIN := .venv/bin
export HF_HUB_OFFLINE := 1

.PHONY: demo test quality style

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: .venv/installed
	$(BIN)/python -m smcl.experiments.icon_demo --output demo

test: .venv/installed
	$(BIN)/python -m pytest

quality: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
