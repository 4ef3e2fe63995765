# Each target sets up what it needs. PYTHON may name another interpreter (3.11 or later).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= .orlop

.PHONY: up test lint bench soak chaos setup system clean

setup: $(VENV)/ready

$(VENV)/ready: requirements-dev.txt core/pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

# Real parts for the tests: a Docker Engine, an image for it, network namespaces, etcd. Needs root and apt.
system:
	./scripts/install-test-parts

up: setup
	$(BIN)/orlop up --data $(DATA)

# Tests wait for real parts more often than they compute, so several files run side by side; WORKERS: how many. Those
# of others, which count on a machine that does nothing else, come last and alone.
WORKERS ?= 2
test: setup system
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations=30 -m "not alone"
	$(BIN)/python -m pytest -m alone

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m tests.benchmarks

# Simulated clusters, many more than `make test` looks at. SEEDS: how many; FIRST: from which on; ONLY: of one kind
# (mixed, marathon, chronos, chronos-months, swarm).
SEEDS ?= 10000
FIRST ?= 0
soak: setup
	$(BIN)/python tests/soak.py $(SEEDS) $(FIRST) $(if $(ONLY),--only $(ONLY))

# Real processes on hosts of their own, broken at random for so long.
SECONDS ?= 600
chaos: setup system
	$(BIN)/python tests/chaos $(SECONDS)

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
