# make demo    bring the environment up, run every example through it, take it down
# make test [DEVICE=cpu|gpu]   all tests; states live on the GPU where there is one
# make test-faults   everything that can be killed is killed, at random, while four clients work
# make check   style, types, layers, fast tests: under a minute
# make bench   the benchmarks, on this machine
# make cluster [HOSTS=3]   imitated hosts with a real Slurm on this machine (root); cluster-enter: a shell; cluster-down
# make clean   remove what make made

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
READY  := $(VENV)/.ready
DEVICE ?= auto
# Compiled kernels of all clones and versions, so that a fresh clone finds those that it has in common with another.
CACHE  := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/qsimenv
export NUMBA_CACHE_DIR ?= $(CACHE)
SOURCE := qsimenv tests benchmarks examples setup.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-faults check bench cluster cluster-enter cluster-down clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(READY): requirements.txt pyproject.toml setup.py
	@echo "installing into $(VENV) and compiling kernels (the first time only, about two minutes) ..."
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(RUN) -m qsimenv.cli doctor --compile || echo "then they are compiled when they are needed"
	@touch $@

demo: $(READY)
	@$(RUN) examples/demo.py

test: check
	@$(RUN) -m pytest tests --beyond-check --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=20 \
		--device $(DEVICE)

test-faults: $(READY)
	@$(RUN) -m pytest tests/faults --durations=10

check: $(READY)
	@$(VENV)/bin/ruff check $(SOURCE)
	@$(VENV)/bin/ruff format --check --quiet $(SOURCE) || (echo "run: $(VENV)/bin/ruff format $(SOURCE)"; exit 1)
	@$(VENV)/bin/mypy
	@$(RUN) -m pytest tests/test_layers.py tests/unit -m "not slow and not environment" --numprocesses 2 --device $(DEVICE)

bench: $(READY)
	@$(RUN) -m benchmarks

cluster: $(READY)
	@$(RUN) -m tests.cluster up --hosts $(or $(HOSTS),3)

cluster-enter cluster-down: $(READY)
	@$(RUN) -m tests.cluster $(@:cluster-%=%)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
