# Everything runs in .venv, which `make` builds from constraints.txt. PYTHON chooses the interpreter it is built with.
PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin

.PHONY: help demo test bench codegen gpu-check lint clean

help:
	@echo "make demo     train a ConvLSTM to continue Moving MNIST, and show it (ARGS='--help' for its options)"
	@echo "make test     run all tests"
	@echo "make bench    time the layer against an eager ConvLSTM"
	@echo "make codegen  compile the kernels for four GPU architectures and print the figures"
	@echo "make gpu-check check this machine's GPU, with PYTHON's own torch, and write bench/results/<device>/check.json"
	@echo "make lint     check the style"

$(ENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' triton
	touch $@

demo: $(ENV)/ready
	$(BIN)/python -m examples.moving_mnist $(ARGS)

test: $(ENV)/ready
	$(BIN)/python -m pytest $(ARGS)

bench: $(ENV)/ready
	$(BIN)/python -m pytest bench $(ARGS)

codegen: $(ENV)/ready
	$(BIN)/python -m bench.codegen $(ARGS)

# With the torch and the Triton of PYTHON's own environment, into which this checkout is installed; without network.
gpu-check:
	@$(PYTHON) -c "import torch, sys; torch.cuda.is_available() or sys.exit('gpu-check: torch finds no CUDA device')"
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --no-index --editable .
	$(PYTHON) -m tests.gpu $(ARGS)

lint: $(ENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check

clean:
	rm -rf $(ENV) build dist *.egg-info demo
