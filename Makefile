# Everything runs in .venv, which `make` builds from constraints.txt. PYTHON chooses the interpreter it is built with.
PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin

.PHONY: help demo test bench codegen lint clean

help:
	@echo "make demo     train a ConvLSTM to continue Moving MNIST, and show it (ARGS='--help' for its options)"
	@echo "make test     run all tests"
	@echo "make bench    time the layer against an eager ConvLSTM"
	@echo "make codegen  compile the kernels for four GPU architectures and print the figures"
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

lint: $(ENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check

clean:
	rm -rf $(ENV) build dist *.egg-info demo
