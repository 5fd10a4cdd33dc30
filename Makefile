# Every target builds .venv by itself; nothing but Python 3.11 or later, git and make is needed.
PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: .venv demo test check format bench docs clean
.DEFAULT_GOAL := test

.venv: $(STAMP)

# Versions come from constraints.txt alone; a changed pyproject.toml or constraints.txt installs again.
$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into .venv: about three and a half minutes and 7 GB the first time"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".[all]"
	touch $@

demo: .venv
	$(BIN)/lensbase demo

# One process a core, each with whole files: fixtures of a module are made once.
test: .venv
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

check: .venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: .venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv
	$(BIN)/python -m pytest benchmarks $(BENCH_ARGS)

docs: .venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
