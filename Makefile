# Every target sets itself up from a bare clone: a virtual environment in .venv, filled through constraints.txt.
# Pass options on with ARGS, for example:  make test ARGS="-k files -x"     make demo DEMO=runs/another
# Where only a GPU build of torch is at hand, point pip at a CPU build (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL) to save space.

PYTHON ?= python3
VENV   ?= .venv
PINS   ?= constraints.txt
OLDEST  = transformers==5.5.0 tokenizers==0.22.2 huggingface_hub==1.33.0
ARGS   ?=
DEMO   ?= runs/demo

BIN     := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
READY   := $(VENV)/.ready
SOURCES := $(wildcard src tests benchmarks)

export PYTHONUNBUFFERED = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-oldest lint format bench clean

help:  ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY)  ## create .venv and install the pinned set (the other targets do this themselves)

demo: $(READY)  ## train and compare dense, MoE, MoVE and both on real text; the report goes to runs/demo
	$(BIN)/vademecum demo --out $(DEMO) $(ARGS)

# Every test computes in one thread, so as many run side by side as there are cores, eight at most (ARGS="-n 0" for one
# after another, as a debugger wants them).
test: $(READY)  ## run the tests
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

# The newest supported transformers is in constraints.txt; hooks into another library deserve the oldest as well.
test-oldest:  ## run the contracts against the oldest transformers that is supported
	$(MAKE) test VENV=.venv-oldest PINS=.venv-oldest.txt ARGS="tests/test_contracts.py tests/test_attach.py tests/test_loops.py tests/test_sharded.py tests/test_record.py tests/test_rows.py tests/test_banks.py tests/kinds/test_moe.py $(ARGS)"

lint: $(READY)  ## ruff (lint and format) and mypy, changing nothing
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(READY)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(READY)  ## run the benchmarks; numbers go to benchmarks/results
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(PINS) --no-build-isolation --editable '.[bench]'
	@set -e; found=; for script in benchmarks/*.py; do \
	  [ -e "$$script" ] && [ "$$script" != benchmarks/common.py ] || continue; found=1; echo "== $$script"; $(BIN)/python "$$script" $(ARGS); \
	done; [ -n "$$found" ] || { echo "no benchmarks/*.py here" >&2; exit 1; }

clean:  ## remove the environment and the tools' caches; runs/ stays
	rm -rf $(VENV) .venv-oldest .venv-oldest.txt build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an interrupted set-up starts again; it is renewed when the pins or the metadata change.
.venv-oldest.txt: constraints.txt Makefile
	sed $(foreach pin,$(OLDEST),-e 's/^$(firstword $(subst ==, ,$(pin)))==.*/$(pin)/') $< > $@

$(READY): pyproject.toml $(PINS)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}: try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(PINS) setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(PINS) --no-build-isolation --editable '.[dev,tensorboard]'
	@touch $@
