# Two commands do all the set-up on a fresh machine: `make app` and `make test`. Both make and reuse .venv.
# Choose another Python with `make PYTHON=python3.12 test`, give the app options with `make app ARGS=…`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

EXTRAS_app := [app]
EXTRAS_test := [lessons,test]
EXTRAS_docs := [docs]
EXTRAS_recipes := [recipes]

NOTEBOOKS := $(wildcard lessons/*.ipynb)
QUICK := not browser and not lessons and not slow
# Counting lines costs two fifths more time, so that continuous integration alone does it, over the quick and slow tests.
COVERAGE = $(if $(CI),--cov=copra_lab --cov-append --cov-report=$(1))
# Two tests at a time, each in a process of one thread: at these sizes that is faster than one on two threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
BROWSER_TESTS := $(shell grep -rls --include='*.py' 'mark\.browser' tests)

.DEFAULT_GOAL := help
.PHONY: help app check test lint lessons site rebuild clean
.DELETE_ON_ERROR:

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | expand -t 12

app: $(VENV)/.installed-app ## open the app in the browser
	$(BIN)/python app.py $(ARGS)

test: lint $(VENV)/.installed-docs ## run every check: style, types, tests, the page in a browser, the lessons
	$(if $(wildcard lessons/build.py),$(BIN)/python lessons/build.py --check)
	$(BIN)/python -m sphinx -W --keep-going -q -c docs . build/site
	rm -f .coverage
	$(PYTEST) -m '$(QUICK)' $(call COVERAGE,)
	$(PYTEST) -m '(slow or lessons) and not browser' $(call COVERAGE,term:skip-covered)
	$(if $(BROWSER_TESTS),$(BIN)/python -m pytest -m browser $(BROWSER_TESTS))
	$(if $(NOTEBOOKS),$(PYTEST) --nbmake --nbmake-kernel=python3 --nbmake-timeout=900 $(NOTEBOOKS))

check: lint ## run what takes two minutes: style, types, contracts of imports, the quick tests
	$(PYTEST) -q -m '$(QUICK)'

lint: $(VENV)/.installed-test ## check style, types and which package imports which
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports

lessons: $(VENV)/.installed-test ## run the lessons' sources and write their notebooks
	$(BIN)/python lessons/build.py $(ARGS)

site: $(VENV)/.installed-docs ## make the web site (lessons, methods, reference, reports) in build/site
	$(BIN)/python -m sphinx -W --keep-going -c docs . build/site

rebuild: $(VENV)/.installed-test $(VENV)/.installed-recipes ## remake all that is stale: adapters, experiments, tables, lessons
	$(BIN)/python recipes/rebuild.py $(ARGS)

clean: ## remove the environment and every cache in this folder
	rm -rf $(VENV) build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so that an install that was cut short is taken up again. A directory without a working
# python is no environment, whatever else is in it.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.$(EXTRAS_$*)'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "copra-lab needs Python 3.11 or newer, and $(PYTHON) is not: name one with make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) could not make an environment: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
