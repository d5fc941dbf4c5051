# `make` lists the targets. Those that need .venv set it up first, from a bare clone.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
HERE := not gpu and not jetson and not arm64

.PHONY: help demo test test-avx2 quick e2e test-arm64 check setup clean

help: ## list these targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: $(READY) ## build an INT8 solar-cell inspector from a trained Inception-v4
	$(BIN)/edge-inception build --precision int8

# Two tests at a time, each with one thread of its own; a file's tests share what they build. The
# long files come first, in the order of their folders: many short ones then fill both to the end.
test: check test-avx2 ## check, then all tests: what CI runs, up to 25 minutes
	$(PYTEST) -m "$(HERE)"

# Engines and builds as on a CPU that has AVX2 alone: OpenVINO picks other kernels there, which
# saturate, and has no bf16. The whole suite comes behind it, so that its result is the last line.
test-avx2: $(READY) ## engines and builds as on a CPU with AVX2 alone
	ONEDNN_MAX_CPU_ISA=AVX2 OV_CPU_MAX_ISA=AVX2 $(PYTEST) -m "cpu_isa and $(HERE)"

# It says what it compares with, and names the test files that it had no time for: no test begins
# later than 100 s after the start, whatever the checks took.
STARTED := $(shell date +%s)
quick: check ## check, then the fast tests of what changed since main: 2 minutes
	$(BIN)/python .ci/changed_tests.py --seconds $$(($(STARTED) + 100 - $$(date +%s)))

e2e: $(READY) ## build every architecture: about half an hour, resumable
	$(BIN)/python tests/benchmarks/family.py

# The emulated Debian is kept in build/arm64.
test-arm64: $(READY) ## run wheel and bundle in an emulated arm64 Debian, as root
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m arm64 tests/e2e/test_arm64.py

check: $(READY) ## lint, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(READY) ## make .venv: a few minutes

# Versions are pinned in .ci/constraints.txt; pyproject.toml holds the honest ranges. The type stubs
# lie apart: among the packages they would make "import tensorrt" succeed, with nothing in it.
$(READY): pyproject.toml .ci/constraints.txt .ci/mend_stubs.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "edge-inception needs Python 3.10 or later, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	@test ! -L $(VENV) || { echo "$(VENV) is a link to another checkout's environment, which --clear would empty: run make setup there, or remove the link" >&2; exit 1; }
	@echo "setting up $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --constraint .ci/constraints.txt torch
	$(PIP) install --constraint .ci/constraints.txt --editable '.[compile,rtx,demo,deploy,report,dev]'
	$(PIP) install --constraint .ci/constraints.txt --no-deps --target $(VENV)/stubs tensorrt-stubs
	$(BIN)/python .ci/mend_stubs.py $(VENV)/stubs
	@touch $@

clean: ## remove .venv and what builds wrote into build/ and dist/
	rm -rf $(VENV) build dist
