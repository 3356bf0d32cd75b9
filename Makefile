# make lab        opens JupyterLab on notebooks/
# make test       runs all checks and tests; looks for a browser first and gets one if it can
# make test-fast  the tests without browser and long runs, in under three minutes
# make lint       style and types
# make docs       the reference of all modules, in build/docs
# make idea       draws the README's picture
# Each makes .venv if it is missing.
VENV := .venv
BIN := $(VENV)/bin
# The first of these that runs and is Python 3.11 or 3.12.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' 2>/dev/null && echo $$p && break; done)

# In a container one is often root, which Jupyter wants to be told.
ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: lab test test-fast lint docs pages idea clean

lab: $(VENV)/.done
	$(BIN)/jupyter lab $(ROOT) notebooks

test: lint
	$(BIN)/python tests/browsing.py
	$(BIN)/python -m pytest

test-fast: $(VENV)/.done
	$(BIN)/python -m pytest -m "not browser and not slow"

lint: $(VENV)/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.done
	$(BIN)/python .ci/docs.py build/docs

pages: $(VENV)/.done
	$(BIN)/python -m canonkit.overview notebooks/pages/*.md

idea: $(VENV)/.done
	$(BIN)/python -c "import canonkit as ck; ck.figures.idea().savefig('notebooks/images/idea.png', dpi=130)"

$(VENV)/.done: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "canonkit needs Python 3.11 or 3.12: install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e '.[lab,graphs,images,multi,test]'
	# escnn declares a Fortran package (py3nj) that it does not need at run time.
	$(BIN)/pip install --no-deps -c constraints.txt escnn
	touch $@

clean:
	rm -rf $(VENV)
