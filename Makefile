# Every target sets up .venv by itself when it is missing or older than pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
# Tests run in so many processes, a file in one: many only wait. Each takes about 2 GB.
WORKERS ?= 2

.PHONY: simulate test lint bench clean

simulate: $(READY)
	$(BIN)/python -m nescient_fl.simulate --clients 5 $(ARGS)

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	status=0; $(BIN)/python scripts/bench_training.py $(ARGS) || status=$$?; \
	$(BIN)/python scripts/bench_secure.py || status=$$?; exit $$status

# A half-finished installation has no mark, so it is begun anew.
$(READY): pyproject.toml
	rm -f $@
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else "Python 3.11 to 3.13 is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): this takes a few minutes and about 6 GB the first time"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
