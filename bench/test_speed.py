"""`make bench`: the cases' small twins on a CPU, against every contender that runs there.

Correctness first, then time and memory. pytest-benchmark times our layer, the contenders run around it in turns.
"""

import math
from pathlib import Path

import pytest
import torch

from tritonlstm.tuning.cases import TWINS

from . import measure
from .check import Oracles
from .deadline import Deadline
from .ending import show
from .environment import Environment, results_folder
from .flow import MODES, Point
from .flow import measure as measure_point
from .providers import (
    COMPILED,
    CONV_FLOOR,
    EAGER,
    EAGER_CONTIGUOUS,
    FLAX,
    HOISTED,
    KERAS,
    MAX_AUTOTUNE,
    OURS,
    OURS_WITHOUT_PEEPHOLE,
    RECOMPUTE,
)
from .rows import OK, Rows

CPU = torch.device("cpu")
PROVIDERS = [OURS, CONV_FLOOR, EAGER, EAGER_CONTIGUOUS, RECOMPUTE, HOISTED]
WITHOUT_PEEPHOLE = [OURS_WITHOUT_PEEPHOLE, FLAX, KERAS]
COMPILERS = [COMPILED, MAX_AUTOTUNE]
STEPS = (4, 8, 16, 32)
"""T of the twin whose time and memory are told against it."""


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest):
    """The rows of this run: saved after every point, printed and drawn when it ends."""
    option = request.config.getoption
    path = Path(option("--csv") or results_folder(CPU, whole=option("--case") is None) / "speed.csv")
    enabled = not option("--benchmark-disable")
    arguments = " ".join(request.config.invocation_params.args)
    collected = Rows(path if enabled else None, Environment.of(CPU, f"pytest {arguments}"))
    yield collected
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        show(collected)


@pytest.fixture(scope="session")
def oracles() -> Oracles:
    return Oracles()


def _drive(benchmark) -> measure.Drive:
    """pytest-benchmark calls our layer, once for a test; its warm-up is `interleave`'s."""
    used = False

    def drive(first, before, after, rounds: int) -> None:
        nonlocal used
        if used:
            measure.drive(first, before, after, rounds)
            return
        used = True
        if benchmark.enabled:
            benchmark.pedantic(first, setup=before, teardown=lambda: after(), rounds=rounds)
            return
        # Disabled, it calls once, and wants to.
        measure.drive(first, before, after, rounds - 1)
        before()
        benchmark.pedantic(first)
        after()

    return drive


def _measure(point: Point, benchmark, rows: Rows, oracles: Oracles, request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("--rounds") if benchmark.enabled else 1
    before = len(rows.all)
    measure_point(point, measure.WallClock(), rows, Deadline(math.inf), lambda mode: count, _drive(benchmark), oracles)
    (ours,) = (row for row in rows.all[before:] if row.provider == OURS.name)
    assert ours.status == OK, ours.reason


@pytest.mark.parametrize("mode", MODES)
def test_speed_and_memory(benchmark, rows, oracles, request: pytest.FixtureRequest, twin: str, mode: str):
    providers = PROVIDERS + (COMPILERS if request.config.getoption("--compiled") else [])
    if any(each.why_absent(CPU) is None for each in (FLAX, KERAS)):
        providers = providers + WITHOUT_PEEPHOLE
    point = Point("contenders", twin, TWINS[twin], torch.float32, providers, modes=[mode])
    _measure(point, benchmark, rows, oracles, request)


@pytest.mark.parametrize("steps", STEPS)
def test_against_steps(benchmark, rows, oracles, request: pytest.FixtureRequest, long_twin: str, steps: int):
    case = TWINS[long_twin].but(steps=steps)
    providers = [OURS, RECOMPUTE, EAGER, EAGER_CONTIGUOUS]
    point = Point("steps", long_twin, case, torch.float32, providers, modes=["training"])
    _measure(point, benchmark, rows, oracles, request)
