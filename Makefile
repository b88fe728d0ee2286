# Makes its own virtual environment; every target does all the set-up that it needs.
PYTHON ?= python3
# One build for everybody's demo and tests. The package itself takes any torch from 2.6 on.
TORCH ?= torch==2.13.0

BIN := .venv/bin
export HF_HUB_OFFLINE := 1

.PHONY: demo test coverage common quality style

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: .venv/installed
	$(BIN)/python -m smcl.experiments.icon_demo --output demo

test: .venv/installed
	$(BIN)/python -m pytest

# Of the rooms that travel to the Hub; pyproject.toml says which, and how much.
coverage: .venv/installed
	$(BIN)/python -m pytest --cov --cov-report=term-missing

# transformers' own common tests, from the source distribution of the release that is installed.
common: .venv/installed
	$(BIN)/python -m pip install --quiet parameterized
	set -e; \
	version=$$($(BIN)/python -c "import transformers; print(transformers.__version__)"); \
	source=.venv/transformers-$$version; \
	test -d $$source || { \
		$(BIN)/python -m pip download --quiet --no-deps --no-binary transformers --dest .venv transformers==$$version; \
		tar -xzf $$source.tar.gz -C .venv; \
	}; \
	TRANSFORMERS_SOURCE=$$source $(BIN)/python -m pytest -W ignore::pytest.PytestUnknownMarkWarning tests/transformers_common.py

quality: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
