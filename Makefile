# Everything runs in .venv, which `make` builds from constraints.txt. PYTHON chooses the interpreter it is built with.
PYTHON ?= python3
# How many processes `make test` has at a time.
WORKERS ?= 2
ENV := .venv
BIN := $(ENV)/bin

.PHONY: help demo test bench gpu-bench bench-compare readme codegen gpu-check lint clean

help:
	@echo "make demo     train a ConvLSTM to continue Moving MNIST, and show it (ARGS='--help' for its options)"
	@echo "make test     run all tests (ARGS='tests/test_ops.py -k fakes' for some, WORKERS=4 for four at a time)"
	@echo "make bench    time the layer on this CPU against every baseline that is installed, and draw plots (ARGS='--case latency --no-compiled')"
	@echo "make gpu-bench   the same on this machine's GPU, with PYTHON's own torch, in under nine minutes"
	@echo "make bench-compare BASE=<ref>   time this tree against a commit, and fail where it is slower"
	@echo "make readme   write the README's figures from bench/results"
	@echo "make codegen  compile the kernels for four GPU architectures and print the figures"
	@echo "make gpu-check check this machine's GPU, with PYTHON's own torch, and write bench/results/<device>/check.json"
	@echo "make lint     check the style"

$(ENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' triton
	touch $@

demo: $(ENV)/ready
	$(BIN)/python -m examples.moving_mnist $(ARGS)

# First what can run side by side, then the tests marked serial, one at a time. Both count, and both get ARGS; pytest
# ends with 5 where ARGS chooses none of a part's tests, which is an error only of both.
test: $(ENV)/ready
	@beside=0; alone=0; \
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m "not serial" $(ARGS) || beside=$$?; \
	$(BIN)/python -m pytest -m serial $(ARGS) || alone=$$?; \
	case "$$beside $$alone" in "0 0" | "0 5" | "5 0") ;; *) exit 1 ;; esac

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

# With the torch and the Triton of PYTHON's own environment, into which this checkout is installed; without network.
gpu-check:
	@$(PYTHON) -c "import torch, sys; torch.cuda.is_available() or sys.exit('gpu-check: torch finds no CUDA device')"
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --no-index --editable .
	$(PYTHON) -m tests.gpu $(ARGS)

gpu-bench:
	@$(PYTHON) -c "import torch, sys; torch.cuda.is_available() or sys.exit('gpu-bench: torch finds no CUDA device')"
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --no-index --editable .
	$(PYTHON) -m bench.gpu $(ARGS)

lint: $(ENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check

clean:
	rm -rf $(ENV) build dist *.egg-info demo
