# Every target sets up .venv by itself, once per change of pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin

.DELETE_ON_ERROR:
.PHONY: run test test-x64 test-leaks bench bench-kernels lint clean

run: .venv/.with-run
	$(BIN)/python -m jaxmodules.examples.digits $(ARGS)

test: .venv/.with-test
	$(BIN)/python -m pytest $(ARGS)

# Small runs of what also has to hold with JAX's stricter settings, and with all of the compiler's optimizations.
test-x64: .venv/.with-test
	JAX_ENABLE_X64=1 JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest tests/nn/test_functional.py tests/optim/test_against_torch.py \
		tests/transforms/test_[ajrw]*.py $(ARGS)

test-leaks: .venv/.with-test
	JAX_CHECK_TRACER_LEAKS=1 $(BIN)/python -m pytest tests/transforms/test_leaks.py tests/transforms/test_lifetime.py $(ARGS)

bench: .venv/.with-bench
	$(BIN)/python -m jaxmodules.bench $(ARGS)

# Convolution, pooling, normalisation and recurrence, layer by layer; ARGS='--only pool --name ResNet' for a part.
bench-kernels: .venv/.with-bench
	$(BIN)/python -m jaxmodules.bench.kernels $(ARGS)

lint: .venv/.with-lint
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv runs build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "jaxmodules needs Python 3.11 or newer, got: $$($(PYTHON) --version 2>&1) (try: make PYTHON=python3.12)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.with-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@
