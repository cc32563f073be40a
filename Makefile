# Every target makes its own virtual environment in $(VENV) when there is none.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_OUT ?= demo_output
# Test processes; each holds JAX and takes up to 5 GiB.
JOBS ?= 2
# More words for pytest, such as a file or -k.
ARGS ?=
# Most of the time of a test goes into compiling, so that the fast ones compile with
# little optimisation; what is about optimised programs has a mark and runs as users
# run it, like all that `make test-all` runs. 5: pytest found none in ARGS.
QUICKLY := XLA_FLAGS="--xla_backend_optimization_level=0 $(XLA_FLAGS)"
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

.PHONY: demo test test-all lint types bench constraints clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ddspx needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --editable ".[dev]" --constraint constraints.txt
	$(BIN)/python -c "import pedalboard" || { echo "pedalboard cannot be loaded; on Debian or Ubuntu: apt-get install libatomic1"; exit 1; }
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python scripts/demo.py --out $(DEMO_OUT) --overwrite

test: $(VENV)/.installed
	$(BIN)/python -m pytest -m "optimized and not slow" $(ARGS) || [ $$? = 5 ]
	$(QUICKLY) $(PYTEST) -m "not slow and not optimized" $(ARGS)

test-all: $(VENV)/.installed
	$(PYTEST) $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.installed
	$(BIN)/python scripts/benchmark.py all

# Resolves the newest allowed versions for every supported Python (needs uv).
constraints:
	uv pip compile --quiet --universal --python-version 3.11 pyproject.toml --extra dev --extra speech --no-emit-index-url --no-annotate --no-header --upgrade --output-file constraints.txt

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache $(DEMO_OUT)
