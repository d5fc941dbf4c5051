# Two commands: `make demo` and `make test`. Both set up .venv first, from a bare clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
HERE := not gpu and not jetson and not arm64

.PHONY: demo test test-avx2 test-arm64 e2e check setup clean

demo: $(READY)
	$(BIN)/edge-inception build --precision int8

# Two tests at a time, each with one thread of its own; a file's tests share what they build. The
# long files come first, in the order of their folders: many short ones then fill both to the end.
test: check test-avx2
	$(PYTEST) -m "$(HERE)"

# Engines and builds as on a CPU that has AVX2 alone: OpenVINO picks other kernels there, which
# saturate, and has no bf16. The whole suite comes behind it, so that its result is the last line.
test-avx2: $(READY)
	ONEDNN_MAX_CPU_ISA=AVX2 OV_CPU_MAX_ISA=AVX2 $(PYTEST) -m "cpu_isa and $(HERE)"

# Every architecture through a whole build: about half an hour, resumable.
e2e: $(READY)
	$(BIN)/python tests/benchmarks/family.py

# The wheel and a bundle in an emulated arm64 Debian, kept in build/arm64: minutes, as root.
test-arm64: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m arm64 tests/e2e/test_arm64.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(READY)

# Versions are pinned in .ci/constraints.txt; pyproject.toml holds the honest ranges. The type stubs
# lie apart: among the packages they would make "import tensorrt" succeed, with nothing in it.
$(READY): pyproject.toml .ci/constraints.txt .ci/mend_stubs.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "edge-inception needs Python 3.10 or later, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	@echo "setting up $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --constraint .ci/constraints.txt torch
	$(PIP) install --constraint .ci/constraints.txt --editable '.[compile,rtx,demo,deploy,report,dev]'
	$(PIP) install --constraint .ci/constraints.txt --no-deps --target $(VENV)/stubs tensorrt-stubs
	$(BIN)/python .ci/mend_stubs.py $(VENV)/stubs
	@touch $@

clean:
	rm -rf $(VENV) build dist
