"""The options of `make bench` and `make gpu-bench`, and what all their measurements share."""

import argparse
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tritonlstm.core import output
from tritonlstm.tuning.cases import CASES, SMALL, STEPS, Case
from tritonlstm.tuning.timing import CudaClock, cudnn_plans

from . import plans
from .flow import Point, Session, Turns, show
from .parts import Part
from .plans import Section
from .rows import Rows, environment, results_folder
from .timer import CpuClock, Deadline, plan

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
        "--case", action="append", choices=[*CASES, *STEPS], help="only this case, recorded apart (repeatable)"
    )
    group.addoption(
        "--section", action="append", help="only this one of what is printed first, recorded apart (repeatable)"
    )
    group.addoption("--resume", action="store_true", help="go on with the record of an earlier run of the same commit")
    group.addoption("--rounds", type=_at_least_one, help="of each point (9 on a CPU, 30 on a GPU)")
    group.addoption("--seconds", type=float, help="limit of the measurements (none on a CPU, 500 on a GPU)")
    group.addoption("--no-compiled", action="store_true", help="without torch.compile, recorded apart")
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
    _sections(config)  # now, if it raises
    if not config.pluginmanager.hasplugin("benchmark"):
        config.addinivalue_line("markers", "benchmark: how pytest-benchmark, which is not installed, would time")
        config.pluginmanager.register(_NoBenchmark())


def _sections(config: pytest.Config) -> list[Section]:
    """What the options choose, in the order of importance."""
    on_gpu, names = config.getoption("--device") == "cuda", config.getoption("--case")

    def of(cases: dict[str, Case]) -> dict[str, Case]:
        return {name: case for name, case in cases.items() if names is None or name in names}

    cases, steps = of(CASES if on_gpu else SMALL), of(STEPS)
    autotuned = config.getoption("--max-autotune")
    sections = plans.on_gpu(cases, steps) if on_gpu else plans.on_cpu(cases, steps, max_autotune=autotuned)
    try:
        return plans.chosen(sections, config.getoption("--section"), compilers=not config.getoption("--no-compiled"))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def _device(config: pytest.Config) -> torch.device:
    on_gpu = config.getoption("--device") == "cuda"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


_ROWS = pytest.StashKey[Rows]()


def _rows(config: pytest.Config) -> Rows:
    """The rows of this run, and those that it resumes."""
    if _ROWS not in config.stash:
        option, device = config.getoption, _device(config)
        parts = "--case", "--section", "--no-compiled", "--benchmark-disable"
        folder = option("--out") or results_folder(device, whole=not any(option(name, False) for name in parts))
        command = " ".join(["pytest", *map(str, config.invocation_params.args)])
        own = environment(device, command, option("--commit"))
        try:
            config.stash[_ROWS] = Rows(folder / "speed.csv", own, resume=option("--resume"))
        except (OSError, ValueError) as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[_ROWS]


def _name(item: Point | Part, mode: str) -> str:
    return f"{item.run}-{item.name}-T{item.case.steps}-{str(item.dtype).removeprefix('torch.')}-{mode}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each mode of each item, in the order of importance."""
    sections = _sections(metafunc.config)
    work = [(section, item, mode) for section in sections for item in section.items for mode in item.modes]
    metafunc.parametrize(("section", "item", "mode"), work, ids=[_name(*each[1:]) for each in work])


def _parameters(items: list[pytest.Item]) -> dict[pytest.Item, dict]:
    """Of the tests that measure, which may not be all."""
    found = {test: test.callspec.params for test in items if hasattr(test, "callspec")}
    return {test: parameters for test, parameters in found.items() if "section" in parameters}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the run that is resumed has completed."""
    done = {row.point for row, _ in _rows(config).kept}
    out = [test for test, given in _parameters(items).items() if given["item"].point(given["mode"]) in done]
    config.hook.pytest_deselected(items=out)
    items[:] = [test for test in items if test not in out]


def _seconds(config: pytest.Config) -> float:
    """That all measurements may take together."""
    return config.getoption("--seconds") or LIMITS[config.getoption("--device")][1]


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    sections = [given["section"] for given in _parameters(items).values()]
    limits = {section.name: section.seconds for section in sections}
    counts = Counter(section.name for section in sections)
    return plan(counts, limits, _seconds(config), _rows(config).path)


@pytest.fixture(scope="session")
def sessions(request: pytest.FixtureRequest):
    """The session of each section, which share all but their deadlines. The rows are printed and drawn at the end."""
    option, config, device = request.config.getoption, request.config, _device(request.config)
    rounds, _, compile_seconds = LIMITS[option("--device")]
    rounds = 1 if option("--benchmark-disable", False) else option("--rounds") or rounds
    clock = CudaClock(device) if device.type == "cuda" else CpuClock()
    whole, begun = Session(clock, _rows(config), Deadline(_seconds(config)), rounds, compile_seconds), {}

    def of(section: Section) -> Session:
        if section.name not in begun:
            begun[section.name] = replace(whole, deadline=whole.deadline.within(section.seconds))
        return begun[section.name]

    torch.manual_seed(0)
    with cudnn_plans(tried=True):
        yield of
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        output.make_robust()
        show(whole.collected)


@pytest.fixture(scope="session")
def prepare() -> Callable[[Point | Part, Session], dict[str, Turns]]:
    """Builds and checks an item once for all of its modes.

    No fixture of a parameter: pytest would sort the tests by their parameters.
    """
    held = {}

    def prepare(item: Point | Part, session: Session) -> dict[str, Turns]:
        if id(item) not in held:
            held.clear()  # first: both may not fit in memory
            held[id(item)] = item.prepare(session)
        return held[id(item)]

    return prepare
