# Two commands, each of which does all its own set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint benchmark clean

# Rebuilt whenever the dependencies change.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,report,train]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m pipelines.demo demo

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

benchmark: $(VENV)/.installed
	$(BIN)/python -m pipelines.benchmark

clean:
	rm -rf $(VENV) demo build *.egg-info
