# Each target sets up what it needs on a fresh machine.
PYTHON ?= python3
BIN = .venv/bin
STORE ?= ./mlruns
# Tests wait for processes of their own; three at a time keep two cores busy.
JOBS ?= 3
PARALLEL = -n $(JOBS) --dist worksteal
export MLFLOW_DISABLE_TELEMETRY = true
export DO_NOT_TRACK = 1
export HF_HUB_DISABLE_TELEMETRY = 1
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: sweep test test-fast faults torture bench check ui clean

sweep: .venv/installed
	$(BIN)/python -m sweeps.run lr_warmup

test: .venv/installed
	$(BIN)/python -m pytest -q $(PARALLEL)

test-fast: .venv/installed
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow"

# Every way to break a sweep that is tested, of which `make test` takes a sample.
faults: .venv/installed
	$(BIN)/python -m pytest -q $(PARALLEL) -m faults --all-faults

# Kills a sweep N times at random moments and compares it with one never stopped.
torture: .venv/installed
	TORTURE_KILLS=$(or $(N),100) $(BIN)/python -m pytest -q -s tests/driver/test_torture.py -m slow --timeout 0

# Every goal of speed beside its figure; nothing else should use the machine meanwhile.
bench: .venv/installed
	$(BIN)/python -m benchmarks --rounds $(or $(ROUNDS),3)

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Light: without MLflow's job runners and with one worker it is two processes instead of fifteen.
ui: .venv/installed
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --workers 1 --host 127.0.0.1 --port $(or $(SWEEPS_UI_PORT),5000) \
		--backend-store-uri "sqlite:///$(abspath $(STORE))/mlflow.db"

# The constraints name torch's version, not its build: a CPU or CUDA build of it that is there already stays.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
