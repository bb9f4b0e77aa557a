# Every target sets up what it needs in .venv first. EXTRA=gpu takes vllm's CUDA build instead of the CPU one; PYTHON names an interpreter.
EXTRA ?= cpu
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(EXTRA)
# Two processes share the tests; tests/conftest.py says which of them stay together.
PYTEST := $(BIN)/python -m pytest -n 2

export HF_HUB_OFFLINE ?= 1

.PHONY: setup quickstart test test-all chaos bench gpu-check docs docs-tables lint format clean

setup: $(READY)

$(READY): pyproject.toml scripts/setup.sh scripts/install.py
	@rm -f $(VENV)/.ready-*
	@scripts/setup.sh $(EXTRA)
	@touch $@

quickstart: $(READY)
	@$(BIN)/python -m examples.quickstart.quickstart

test: $(READY)
	@$(PYTEST) -m "not slow and not chaos"

test-all: $(READY)
	@$(PYTEST) -m "not chaos"

chaos: $(READY)
	@$(BIN)/python -m pytest tests/chaos

bench: $(READY)
	@$(BIN)/python -m pip show --quiet trl 2>/dev/null || $(BIN)/python -m pip install --quiet --editable ".[bench]" || \
		echo "bench: TRL cannot be installed here; what is compared with it is left out"
	@$(BIN)/python -m benchmarks all

gpu-check: $(READY)
	@$(BIN)/python -m benchmarks gpu

docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "docs: open build/docs/index.html"

docs-tables: $(READY)
	@$(BIN)/python -m raypref.metrics.docs docs
	@$(BIN)/python -m raypref.settings.reference docs

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
