"""`make ptx-check`: every case of the numbers on the machine that executes PTX, which `make test` has a selection of.

Arguments go to pytest: `python -m tests.ptx -k bf16`.
"""

import os
import sys
from pathlib import Path

os.environ["TRITONLSTM_PTX"] = "1"  # before the tests are collected

import pytest

TESTS = Path(__file__).parents[1]

if __name__ == "__main__":
    sys.exit(pytest.main(["-q", str(TESTS / "ptx"), str(TESTS / "gpu" / "test_numbers.py"), *sys.argv[1:]]))
