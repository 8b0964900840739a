# TORCH names the PyTorch to install: `make install TORCH=torch==2.13.0`. Empty, the build that fits this machine is
# taken: without a GPU the CPU build of 0.2 GB, where PyPI's own for Linux x86-64 brings CUDA and 3 GB.
TORCH ?=
PYTHON ?= python3
# Processes of the tests: one more than there are cores, for some tests wait for other programs.
JOBS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check

.PHONY: install dev hooks quick test check lint format types unit wheel docs web lock fuzz bench quality clean

install: $(VENV)/.installed        ## a virtual environment with the paramisp command

dev: $(VENV)/.dev                  ## ... and with what the tests and checks need

quick: lint types                  ## style, types and the fast tests, in less than a minute
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist worksteal -m "not slow"

test check: dev                    ## everything that CI checks, the tests beside the rest
	@$(MAKE) --no-print-directory -j2 lint types unit wheel

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	@touch $@

# uv knows PyTorch's own package index and picks the build for the machine's GPU, or for none. Where that index cannot
# be reached, pip takes PyPI's build.
$(VENV)/.torch: | $(VENV)/.venv
	@if [ -n "$(TORCH)" ]; then \
	  echo "$(PIP) install '$(TORCH)'"; $(PIP) install "$(TORCH)"; \
	else \
	  echo "PyTorch for this machine"; \
	  { $(PIP) install uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend=auto 'torch>=2.4' 2>/dev/null; } \
	  || { echo "PyTorch's package index cannot be reached: taking PyPI's build"; $(PIP) install torch==2.13.0; }; \
	fi
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	$(PIP) install -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.installed
	$(PIP) install -e ".[dev,ray]"
	@touch $@

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md docs weights/*.md weights/*/*.md tests/bench/README.md

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

hooks: dev                         ## checks before every commit
	$(PIP) install "pre-commit>=4"
	$(BIN)/pre-commit install

types: dev
	$(BIN)/mypy

# Each test has one thread: torch's threads would wait for each other.
unit: dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist worksteal

wheel: dev                         ## build the wheel, install it in an empty environment and use it
	$(BIN)/python tests/distribution/try_wheel.py

docs: dev                          ## the man page and llms.txt, from the code
	$(BIN)/python docs/generate.py

web: dev                           ## the page in web/dist that unprocesses photos in a browser; npm fetches its runtime
	$(BIN)/python web/build.py

lock:                              ## newer versions in uv.lock, for `uv sync`; whatever mirror this machine uses
	uv lock --upgrade --no-config --default-index https://pypi.org/simple

fuzz: dev                          ## damaged files by the thousand; `make fuzz COUNT=20000 SEED=7`
	$(BIN)/python tests/fuzz/run.py --count $(or $(COUNT),3000) --seed $(or $(SEED),1)

bench: dev                         ## timings; each script says what it compares
	@for script in tests/bench/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

quality: dev                       ## docs/quality.md: the weights on ../shared/data and $PARAMISP_SAMPLES
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/quality.py

clean:
	rm -rf $(VENV) build dist web/dist web/.cache .pytest_cache .ruff_cache .mypy_cache
