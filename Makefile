# Two commands set everything up: `make demo` and `make test`. Settings: PYTHON, ONCE=1, CUSTOMERS, PORT, JOBS.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SPARK := $(VENV)/.installed-spark
CUSTOMERS ?= 5000
JOBS ?= 2
PACKAGES := feature_repo serving eval training
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow check format install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "expected Python 3.11 or newer, found " + sys.version.split()[0] + "; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -c 'import serving.rules.filling' # compiles it, so that no service has to
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/nextbest demo --customers $(CUSTOMERS) $(if $(ONCE),--once) $(if $(PORT),--port $(PORT))

test: $(STAMP)
	$(BIN)/python -m pytest -q -n $(JOBS) -m 'not slow'

# Spark is large and few need it: it is installed for the tests that compare the two engines
$(SPARK): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,spark]'
	@touch $(SPARK)

test-slow: $(SPARK)
	$(BIN)/python -m pytest -q -m slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .nextbest build dist *.egg-info
