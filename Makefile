# Everything a newcomer needs: `make demo` and `make test`. Both create .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test fuzz browser check bench clean
help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(STAMP)  ## create .venv and install warmstart with its tools

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("warmstart needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another: make setup PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[offline,dev]'
	@touch $(STAMP)

demo: setup  ## compare four ways of adapting MiniLM on real product reviews
	$(BIN)/warmstart sample sentiment demo/sentiment --if-missing
	$(BIN)/warmstart compare demo/sentiment/product_reviews.csv --limit 800 --seeds 1 --budget 4m --out demo/comparison --replace

test: setup  ## run the test suite
	$(BIN)/python -m pytest -n 2 --dist loadscope

fuzz: setup  ## a thousand requests for each route, drawn from the server's own schema
	WARMSTART_CASES=1000 $(BIN)/python -m pytest -q tests/serving/test_schema_cases.py

browser: setup  ## the served page in a headless Chromium, which must be there
	WARMSTART_BROWSER=$${WARMSTART_BROWSER:-chromium} $(BIN)/python -m pytest -q tests/serving/test_browser.py

check: setup  ## ruff, mypy, import contracts, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_docs.py

bench: setup  ## measure against peers and keep the results
	$(BIN)/python benchmarks/probe.py
	$(BIN)/python benchmarks/spectrum.py prefix lora epoch

clean:  ## remove the environment and what demo made
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache
