"""The options of `make bench` and `make gpu-bench`, and what all their measurements share."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tritonlstm.core import output
from tritonlstm.tuning.cases import CASES, SMALL, STEPS, Case
from tritonlstm.tuning.timing import CudaClock, best_plans

from . import plans
from .flow import Point, Session, Turns, show
from .parts import Part
from .rows import Rows, environment, results_folder
from .timer import CpuClock, Deadline

LIMITS = {"cpu": (9, math.inf, math.inf), "cuda": (30, 500.0, 60.0)}
"""Rounds of each point, seconds of all measurements, and seconds in which a provider may compile a case."""


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return int(text)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    group.addoption(
        "--case", action="append", choices=[*CASES, *STEPS], help="only this case, in a folder apart (repeatable)"
    )
    group.addoption("--rounds", type=_at_least_one, help="of each point (9 on a CPU, 30 on a GPU)")
    group.addoption("--seconds", type=float, help="limit of the measurements (none on a CPU, 500 on a GPU)")
    group.addoption("--no-compiled", action="store_true", help="without torch.compile, in a folder apart")
    group.addoption("--max-autotune", action="store_true", help="torch.compile with autotuning on a CPU too")
    group.addoption("--out", type=Path, help="the folder of results, instead of bench/results/<device>")
    group.addoption("--commit", help="what is timed, if git cannot tell")


class _NoBenchmark:
    """Stands in for pytest-benchmark where it is not installed: only its table and its JSON are missing."""

    @pytest.fixture
    def benchmark(self) -> None:
        return None


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("this machine has no CUDA device that torch can use")
    if not config.pluginmanager.hasplugin("benchmark"):
        config.addinivalue_line("markers", "benchmark: how pytest-benchmark, which is not installed, would time")
        config.pluginmanager.register(_NoBenchmark())


def _work(config: pytest.Config) -> list[Point | Part]:
    """What the options choose, in the order of importance."""
    on_gpu, names = config.getoption("--device") == "cuda", config.getoption("--case")

    def chosen(cases: dict[str, Case]) -> dict[str, Case]:
        return {name: case for name, case in cases.items() if names is None or name in names}

    cases, steps = chosen(CASES if on_gpu else SMALL), chosen(STEPS)
    autotuned = config.getoption("--max-autotune")
    work = plans.on_gpu(cases, steps) if on_gpu else plans.on_cpu(cases, steps, max_autotune=autotuned)
    return plans.without_compilers(work) if config.getoption("--no-compiled") else work


def _name(item: Point | Part, mode: str) -> str:
    return f"{item.run}-{item.name}-T{item.case.steps}-{str(item.dtype).removeprefix('torch.')}-{mode}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each mode of each item, in the order of importance."""
    work = [(item, mode) for item in _work(metafunc.config) for mode in item.modes]
    names = [_name(*each) for each in work]
    metafunc.parametrize(("item", "mode"), work, ids=names)


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest):
    """The run: its rows are saved after every test, and printed and drawn at the end."""
    option = request.config.getoption
    rounds, seconds, compile_seconds = LIMITS[option("--device")]
    on_gpu, disabled = option("--device") == "cuda", option("--benchmark-disable", False)
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    whole = option("--case") is None and not option("--no-compiled") and not disabled
    folder = option("--out") or results_folder(device, whole=whole)
    command = " ".join(["pytest", *map(str, request.config.invocation_params.args)])
    collected = Rows(folder / "speed.csv", environment(device, command, option("--commit")))
    clock, deadline = CudaClock(device) if on_gpu else CpuClock(), Deadline(option("--seconds") or seconds)
    torch.manual_seed(0)
    with best_plans():
        yield Session(clock, collected, deadline, 1 if disabled else option("--rounds") or rounds, compile_seconds)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        output.make_robust()
        show(collected)


@pytest.fixture(scope="session")
def prepare(bench: Session) -> Callable[[Point | Part], dict[str, Turns]]:
    """Builds and checks an item once for all of its modes.

    No fixture of a parameter: pytest would sort the tests by their parameters.
    """
    held = {}

    def prepare(item: Point | Part) -> dict[str, Turns]:
        if id(item) not in held:
            held.clear()  # first: both may not fit in memory
            held[id(item)] = item.prepare(bench)
        return held[id(item)]

    return prepare
