"""`make gpu-check`: everything that CUDA changes, checked on this machine's GPU and written down.

Runs the tests of this folder with compiled kernels, and writes bench/results/<device>/check.json after each of them.
Exits with 1 if one fails, if there was no time for all, or without CUDA.
"""

import argparse
import importlib.util
import os
import platform
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"  # before Triton is imported, which tests/conftest.py would have interpret

import torch

from bench.rows import environment, results_folder
from tests.gpu.report import PARALLEL, SECONDS, SECTIONS, Report


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__.splitlines()[0], epilog="Other arguments go to pytest."
    )
    parser.add_argument(
        "--section", action="append", choices=SECTIONS, help="only this one, recorded apart (repeatable)"
    )
    parser.add_argument("-k", dest="keyword", help="only the checks that pytest's -k chooses, recorded apart")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="limit of the whole (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="leave out what passed by the record of the same commit")
    parser.add_argument(
        "--processes",
        type=int,
        default=0,
        help=f"number of processes for {' and '.join(PARALLEL)}, by pytest-xdist (default: all run in this one)",
    )
    chosen, others = parser.parse_known_args(arguments)
    if not torch.cuda.is_available():
        print("gpu-check: this machine has no CUDA device that torch can use", file=sys.stderr)
        return 1
    device = torch.device("cuda", torch.cuda.current_device())
    machine = {
        **environment(device, " ".join(["python -m tests.gpu", *arguments])),
        "capability": list(torch.cuda.get_device_capability()),
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory,
        "python": platform.python_version(),
    }
    path = results_folder(device, whole=not (chosen.section or chosen.keyword)) / "check.json"
    tests = {
        name: str(Path(__file__).with_name(f"test_{name}.py"))
        for name in SECTIONS
        if name in (chosen.section or SECTIONS)
    }
    # A warning of this machine's own versions is no failure of the check.
    options = ["-o", "filterwarnings=default", "--tb=short", "-q", *others]
    if chosen.keyword:
        options += ["-k", chosen.keyword]
    if chosen.processes and importlib.util.find_spec("xdist") is None:
        parser.error("--processes: pytest-xdist is not installed")
    try:
        report = Report(path, machine, SECTIONS, chosen.seconds, resume=chosen.resume)
        status = report.run(tests, options, chosen.processes)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"gpu-check: {report.summary()}, written to {path}")
    if left := report.left():
        print(f"gpu-check: no time for {left} of them: --resume goes on with these")
    return status or int(left > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
