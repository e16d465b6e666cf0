# Everything runs in .venv, which is made on first use. PYTHON chooses the interpreter to make it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
WORKERS ?= 2
# One thread a worker: two workers with two threads each are slower than one on two cores.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test coverage check docs gallery wheel slow clean

help:
	@echo "make demo [ARGS=...]  train a small private model (ARGS go to 'dpmix train')"
	@echo "make test             the fast tests"
	@echo "make coverage         the same, and fails below 95 % coverage of src"
	@echo "make check            ruff and mypy"
	@echo "make docs             the pages of docs/ as a site, in build/site"
	@echo "make gallery          draw the pictures of docs/gallery.md again"
	@echo "make wheel            build sdist and wheel, check them, and train from the wheel alone"
	@echo "make slow             the tests that take minutes"
	@echo "make clean            remove the environment and the output of all tools"

demo: $(VENV)/.installed
	$(BIN)/dpmix train $(ARGS)

test: $(VENV)/.installed-test
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS)

coverage: $(VENV)/.installed-test
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term-missing:skip-covered

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

gallery: $(VENV)/.installed-test
	for script in examples/gallery/*.py; do \
		$(BIN)/python $$script --output docs/gallery/$$(basename $$script .py).png || exit 1; done

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "open build/site/index.html; to search it too: $(PYTHON) -m http.server --directory build/site"

# In an environment that has the wheel and the packages that it declares, and no others.
wheel: $(VENV)/.installed-dev
	rm -rf build/wheel
	$(BIN)/python -m build --no-isolation --outdir build/wheel
	$(BIN)/twine check --strict build/wheel/*
	$(BIN)/python .ci/fresh_environment.py build/wheel/*.whl build/wheel/env
	mkdir build/wheel/empty
	cd build/wheel/empty && ../env/bin/dpmix train --steps 2

slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow --timeout 3600

# Each stamp says "this extra is installed, from this pyproject.toml".
$(VENV)/.installed: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test $(VENV)/.installed-dev: $(VENV)/.installed-%: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "dpmix needs Python 3.11 or newer; $(PYTHON) is" \
		"$$($(PYTHON) --version 2>&1): run make with PYTHON=python3.11 or newer" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) build dist .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf src/*.egg-info
