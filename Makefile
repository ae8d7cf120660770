# Everything runs in .venv, which `make` builds from constraints.txt. PYTHON chooses the interpreter it is built with.
PYTHON ?= python3
# How many test processes run at a time.
WORKERS ?= 2
ENV := .venv
BIN := $(ENV)/bin

.PHONY: help demo check test test-isa bench gpu-bench bench-compare readme codegen ptx-check gpu-check lint clean

help:
	@echo "make demo     train a ConvLSTM to continue Moving MNIST, and show it (ARGS='--help' for its options)"
	@echo "make check    run the quick tests, in under a minute: core, reference, kernels and modules"
	@echo "make test     run all tests (ARGS='tests/ops/test_ops.py -k fakes' for some, WORKERS=4 for four at a time)"
	@echo "make test-isa ISA=avx2   run what depends on the CPU as on one with AVX2, or with ISA=default without"
	@echo "make bench    time the layer on this CPU against every baseline that is installed, and draw plots (ARGS='--case latency --no-compiled')"
	@echo "make gpu-bench   the same on this machine's GPU, with PYTHON's own torch, in under nine minutes (ARGS=--resume goes on)"
	@echo "make bench-compare BASE=<ref>   time this tree against a commit, and fail where it is slower"
	@echo "make readme   write the README's figures from bench/results"
	@echo "make codegen  compile the kernels for four GPU architectures and print the figures"
	@echo "make ptx-check execute what the kernels compile to for a GPU on this CPU: every case, in minutes (make test has a selection)"
	@echo "make gpu-check check this machine's GPU, with PYTHON's own torch, and write bench/results/<device>/check.json (ARGS=--resume goes on)"
	@echo "make lint     check the style"

$(ENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(ENV)/ready
	$(BIN)/python -m examples.moving_mnist $(ARGS)

# First what can run side by side, then the tests marked serial, one at a time. Both count, and both get ARGS; pytest
# ends with 5 where ARGS chooses none of a part's tests, which is an error only of both. To collect all files for the few
# serial tests would take as long as one of them.
test: $(ENV)/ready
	@beside=0; alone=0; \
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m "not serial" $(ARGS) || beside=$$?; \
	$(BIN)/python -m pytest -m serial $(or $(ARGS),$(shell grep -rl --include='test_*.py' 'mark\.serial' tests)) || alone=$$?; \
	case "$$beside $$alone" in "0 0" | "0 5" | "5 0") ;; *) exit 1 ;; esac

check: $(ENV)/ready
	$(BIN)/python -m pytest --numprocesses $(WORKERS) tests/core tests/test_reference.py tests/kernels tests/modules $(ARGS)

# oneDNN's name for each of ATen's instruction sets.
ONEDNN_ISA_avx2 := AVX2
ONEDNN_ISA_default := SSE41
ISA_TESTS := tests/linear tests/modules \
	tests/engines/test_sequence.py::test_shapes_agree_with_the_oracle \
	tests/engines/test_sequence.py::test_options_agree_with_the_oracle

test-isa: $(ENV)/ready
	@test -n "$(ONEDNN_ISA_$(ISA))" || { echo "test-isa: ISA must be avx2 or default, is '$(ISA)'" >&2; exit 2; }
	ATEN_CPU_CAPABILITY=$(ISA) ONEDNN_MAX_CPU_ISA=$(ONEDNN_ISA_$(ISA)) \
		$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ISA_TESTS) $(ARGS)

bench: $(ENV)/ready
	$(BIN)/python -m pytest bench $(ARGS)

# The working tree, or HEAD=<ref>, against BASE=<ref>.
bench-compare: $(ENV)/ready
	@test -n "$(BASE)" || { echo "bench-compare: BASE=<ref> is missing" >&2; exit 2; }
	$(BIN)/python -m bench.compare $(BASE) $(HEAD) $(ARGS)

readme: $(ENV)/ready
	$(BIN)/python -m bench.readme $(ARGS)

codegen: $(ENV)/ready
	$(BIN)/python -m bench.codegen $(ARGS)

ptx-check: $(ENV)/ready
	$(BIN)/python -m tests.ptx --numprocesses $(WORKERS) --dist worksteal $(ARGS)

# With the torch and the Triton of PYTHON's own environment, into which this checkout is installed; without network. Both
# say first what they will do and how long each section may take, save after each test, and with ARGS=--resume go on where
# an earlier run ended; ARGS='--section numbers', or '--section gates' for gpu-bench, runs one section.
gpu-check:
	@$(PYTHON) -c "import torch, sys; torch.cuda.is_available() or sys.exit('gpu-check: torch finds no CUDA device')"
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --no-index --editable .
	$(PYTHON) -m tests.gpu $(ARGS)

gpu-bench:
	@$(PYTHON) -c "import torch, sys; torch.cuda.is_available() or sys.exit('gpu-bench: torch finds no CUDA device')"
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --no-index --editable .
	$(PYTHON) -m pytest bench --device cuda $(ARGS)

lint: $(ENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# Only what is this checkout's: ENV may name any folder, and make may run in any.
clean:
	@grep -qs '^name = "tritonlstm"' pyproject.toml || { echo "clean: $(CURDIR) is no checkout of tritonlstm" >&2; exit 2; }
	@if test -e '$(ENV)' || test -L '$(ENV)'; then \
		case "$$(cd '$(ENV)' && pwd -P)" in "$$(pwd -P)"/?*) test -f '$(ENV)/pyvenv.cfg' ;; *) false ;; esac || \
		{ echo "clean: ENV must be a virtual environment inside $(CURDIR), is '$(ENV)'" >&2; exit 2; }; \
	fi
	rm -rf -- '$(ENV)' build dist *.egg-info demo
