"""`make gpu-check`: everything that CUDA changes, checked on this machine's GPU and written down.

Runs the tests of this folder with compiled kernels, and writes bench/results/<device>/check.json. Without CUDA it says
so and exits with 1. Arguments go to pytest: `python -m tests.gpu -k graph`.
"""

import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"  # before Triton is imported, which tests/conftest.py would have interpret

import pytest
import torch

from tests.gpu.report import Report


def main(arguments: list[str]) -> int:
    if not torch.cuda.is_available():
        print("gpu-check: this machine has no CUDA device that torch can use", file=sys.stderr)
        return 1
    report = Report(command=" ".join(["python -m tests.gpu", *arguments]))
    # A warning of this machine's own versions is no failure of the check.
    options = ["-o", "filterwarnings=default", "--tb=short", "-q", str(Path(__file__).parent)]
    status = pytest.main([*options, *arguments], plugins=[report])
    print(f"gpu-check: {report.summary()}, written to {report.save()}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
