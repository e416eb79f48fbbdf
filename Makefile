# Every target sets itself up: the virtual environment is made once and remade when pyproject.toml or the pins change.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs

.PHONY: help quickstart test test-all lint format docs docs-serve clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	@echo "Installing lightning_ae into $(VENV) (once; some minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@nice $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 &  # as pip does before it goes on
	@touch $@

quickstart: $(READY)  ## Install, train a VAE on embedded images of clothes, show what it learned and where its pictures are
	@$(BIN)/lightning-ae quickstart
	@printf '  . %s/activate    # puts lightning-ae on your path\n' $(BIN)

test: $(READY)  ## Run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -q

test-all: $(READY)  ## Run the tests, the slow ones too
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -q -m "slow or not slow"

lint: $(READY)  ## Check style and types, and that generated text is up to date
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m lightning_ae.models.table --check
	@$(BIN)/python -m lightning_ae.zoo.publishing.cards --check
	@$(BIN)/python docs/architecture.py --check

format: $(READY)  ## Format the code, fix what can be fixed, regenerate tables, cards and the schema
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/python -m lightning_ae.models.table
	@$(BIN)/python -m lightning_ae.zoo.publishing.cards
	@$(BIN)/python docs/architecture.py

$(DOCS_READY): $(READY)
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $@

docs: $(DOCS_READY)  ## Build the site into docs/_build/html, strictly: a broken link or example fails
	@OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -n -q -j 2 -b html docs docs/_build/html
	@OMP_NUM_THREADS=1 $(BIN)/python docs/notebooks.py --check --run docs/_build/notebooks
	@echo "docs/_build/html/index.html"

docs-serve: docs  ## Build the site and show it at http://127.0.0.1:8000
	@$(BIN)/python -m http.server 8000 --bind 127.0.0.1 --directory docs/_build/html

clean:  ## Remove the virtual environment and caches (runs stay)
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
