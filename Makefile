# Everything runs in .venv, which is made on first use. PYTHON chooses the interpreter to make it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
WORKERS ?= 2
# One thread a worker: two workers with two threads each are slower than one on two cores.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test check docs gallery slow clean

help:
	@echo "make demo [ARGS=...]  train a small private model (ARGS go to 'dpmix train')"
	@echo "make test             fast tests, with coverage of src (90 % or it fails)"
	@echo "make check            ruff and mypy"
	@echo "make docs             the pages of docs/ as a site, in build/site"
	@echo "make gallery          the pictures of docs/gallery.md, anew"
	@echo "make slow             the tests that take minutes"
	@echo "make clean            remove the environment and what tools left behind"

demo: $(VENV)/.installed
	$(BIN)/dpmix train $(ARGS)

test: $(VENV)/.installed-test
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term-missing:skip-covered \
		--cov-fail-under=90

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

slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

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
