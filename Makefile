# Each command does all its own set-up. `make test` is quick; `make lint test-all` runs every tier of tests, as CI does.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Memory once asked for is kept for the next array: to give it back and ask again takes a fifth of the time (glibc).
KEPT := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296
PYTEST := $(KEPT) $(BIN)/python -m pytest --numprocesses auto --dist worksteal

# What Python compiled is kept for its next process, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-quick test-all lint benchmark clean

# Rebuilt whenever the dependencies change.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev,report,train]'
	touch $@

demo: PAIR := demo/02_optical_train_01.tif demo/02_sar_train_01.tif
demo: POINTS := demo/02_tiepoints_train_01.csv
demo: $(VENV)/.installed
	$(BIN)/sn9reg simulate demo --size 2400 --seed 1 --overwrite
	$(BIN)/sn9reg align $(PAIR) --out demo/offsets.tif --sigma --tiepoints-out demo/matches.csv --overwrite
	$(BIN)/sn9reg score demo/offsets.tif $(PAIR) $(POINTS)
	$(BIN)/sn9reg report demo/offsets.tif $(PAIR) --tiepoints $(POINTS) --matches demo/matches.csv --out demo/report \
		--overwrite

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The linter runs beside the tests.
test: $(VENV)/.installed
	$(MAKE) --jobs 2 lint test-quick

test-quick: $(VENV)/.installed
	$(PYTEST) -m "not (notebook or browser or ray or study or gdal or fuzz or wheel)"

test-all: $(VENV)/.installed
	$(PYTEST)

benchmark: $(VENV)/.installed
	$(BIN)/python -m pipelines.benchmark

clean:
	rm -rf $(VENV) demo build *.egg-info
