# Makes its own virtual environment; every target does all the set-up that it needs.
PYTHON ?= python3
# One build for everybody's demo and tests. The package itself takes any torch from 2.6 on.
TORCH ?= torch==2.13.0
# For the run with the lowest versions, where 2.6 can be had: `make LOWEST_TORCH=torch==2.6.0 test-lowest`.
LOWEST_TORCH ?= $(TORCH)

BIN := .venv/bin
export HF_HUB_OFFLINE := 1

# Debian's browser, for the tests of the web page; with another one in place nothing is installed.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: demo docs pictures app test test-docker test-lowest test-wheel coverage common fuzz quality style browser results

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)"

# Three sets of packages: what the demo needs, the web page, and all that is tested.
.venv/installed-demo: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable "."
	touch $@

.venv/installed-app: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[app]"
	touch $@

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

browser:
	command -v chromium || command -v google-chrome || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq chromium; }

demo: .venv/installed-demo
	$(BIN)/python -m smcl.experiments.icon_demo --output demo

demo/model/model.safetensors:
	$(MAKE) demo

# Runs what README and docs show with its output, and lays out docs/performance.md; fails if anything was stale.
docs: .venv/installed | demo/model/model.safetensors
	cp docs/performance.md .venv/performance.md
	$(BIN)/python -m smcl.experiments.benchmarks.report
	$(BIN)/python tests/printed.py --demo demo
	cmp docs/performance.md .venv/performance.md

# Draws docs/app.png, and docs/card.png with PHOTOGRAPHS=FOLDER, a model that knows photographs.
pictures: .venv/installed browser | demo/model/model.safetensors
	$(BIN)/python tests/pictures.py $(if $(PHOTOGRAPHS),--photographs $(PHOTOGRAPHS))

app: .venv/installed-app | demo/model/model.safetensors
	$(BIN)/python examples/space/app.py --model demo/model --examples demo/data

# The tests of a file stay together, as they share what they train.
PARALLEL := -n 2 --dist loadfile

test: .venv/installed browser
	$(BIN)/python -m pytest $(PARALLEL)

# With the lowest versions that pyproject.toml declares.
.venv-lowest/installed: pyproject.toml tests/lowest.py
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet "$(LOWEST_TORCH)"
	.venv-lowest/bin/python -m pip install --quiet --no-deps --editable "."
	.venv-lowest/bin/python tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable ".[dev]"
	touch $@

test-lowest: .venv-lowest/installed browser
	.venv-lowest/bin/python -m pytest $(PARALLEL)

# The wheel in an empty environment, outside the repository. An old `build` would put files into it that are gone.
test-wheel:
	rm -rf build dist
	$(PYTHON) -m venv --clear .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet "$(TORCH)"
	.venv-wheel/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	.venv-wheel/bin/python -m pip install --quiet dist/smcl-*.whl
	.venv-wheel/bin/python -I tests/wheel_smoke.py

# The steps of the Dockerfile, in an empty environment.
test-docker: .venv/installed-demo | demo/model/model.safetensors
	$(BIN)/python tests/dockerfile.py demo/model

# Of the rooms that travel to the Hub; pyproject.toml says which, and how much.
coverage: .venv/installed browser
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
	TRANSFORMERS_SOURCE=$$source $(BIN)/python -m pytest -W ignore::pytest.PytestUnknownMarkWarning tests/whole/transformers_common.py

# Random mutations of a small data set; `make fuzz SEED=1` for others.
fuzz: .venv/installed
	$(BIN)/python tests/fuzz.py --mutations 500 --seed $(or $(SEED),0)

# All that docs/results.md shows, two runs at once; an estimate comes first, and what is there is not run again.
#   make results NATURAL="data/natural natural" TEXT=MODEL VISION=MODEL [NATURAL_FULL=... NATURAL_SEED=... ICONS=... CP_MNER=...]
# `python -m smcl.experiments.results --help` says what each of them is.
results: export OMP_NUM_THREADS := 1
results: .venv/installed
	$(BIN)/python -m smcl.experiments.results $(if $(NATURAL),--natural $(NATURAL)) \
		$(if $(NATURAL_FULL),--natural_full $(NATURAL_FULL)) $(if $(NATURAL_SEED),--natural_seed $(NATURAL_SEED)) \
		$(if $(ICONS),--icons $(ICONS)) $(if $(CP_MNER),--cp_mner $(CP_MNER)) $(if $(TEXT),--text_model $(TEXT)) \
		$(if $(VISION),--vision_model $(VISION)) --jobs $(or $(JOBS),2) $(ARGUMENTS)

quality: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
