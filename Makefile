PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint long clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

setup: .venv/ready

demo: setup
	$(BIN)/codesign simulate zoo:vit_tiny --device h200

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n 2 -m "not long and not exporters" --cov=codesign --cov=hwmodels --cov=workloads --cov-report=term:skip-covered

long: setup
	$(BIN)/pytest -n 2 -m "long and not exporters"

clean:
	rm -rf .venv build dist *.egg-info
