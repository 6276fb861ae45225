# `make help` says what there is to do; everything happens in .venv, made on first use.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench models golden dist clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/dev.stamp ## make .venv with all that development needs (PYTHON=python3.12 chooses another Python)

demo: $(VENV)/run.stamp ## quantize models/digits_resnet.onnx to int8 without data, judge it on real images (installs what is needed)
	@mkdir -p build
	$(BIN)/ptqc quantize models/digits_resnet.onnx --target int8 \
		--eval-data models/digits_test.npz -o build/digits_resnet.int8.onnx --force --report build/digits_resnet.json
	@echo "The model is build/digits_resnet.int8.onnx, the report as a web page:"
	@echo "  $(BIN)/ptqc report build/digits_resnet.json --html build/digits_resnet.html"

test: $(VENV)/dev.stamp ## run the tests (FAST=1 leaves the slow ones out; ARGS=... goes to pytest)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(if $(FAST),-m "not slow") $(ARGS)

check: $(VENV)/dev.stamp ## ruff, formatting, mypy, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict -p ptqc
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp ## let ruff format and repair what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/dev.stamp ## measure against onnxruntime's quantizer and write the README's tables
	$(BIN)/python -m benchmarks.run $(ARGS)

models: $(VENV)/dev.stamp ## train the models of models/ again (three minutes)
	$(BIN)/python -m models.train

golden: $(VENV)/dev.stamp ## write tests/golden again; review the difference before you commit it
	PTQC_WRITE_GOLDEN=1 $(BIN)/python -m pytest -q tests/passes/test_golden.py

dist: $(VENV)/dev.stamp ## source archive and wheel in dist/
	$(BIN)/python -m build

clean: ## remove .venv, caches and everything built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ptqc needs Python 3.11 or later; say which one: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/run.stamp
