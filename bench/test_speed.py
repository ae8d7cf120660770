"""`make bench`: the small variants of the cases on a CPU, against every baseline that runs there.

Correctness first, then time and memory. pytest-benchmark times our layer, and the others run around it in turns.
"""

import functools
from pathlib import Path

import pytest
import torch

from tritonlstm.tuning.cases import SMALL

from . import flow, timer
from .check import Oracle
from .conftest import LONG
from .flow import Point
from .providers import COMPILED, EAGER_FORMATS, FLAX, FLOORS, KERAS, MAX_AUTOTUNE, OURS, OURS_WITHOUT_PEEPHOLE
from .providers.ours import HOISTED, OURS_COMPILED, RECOMPUTE
from .rows import MODES, OK, Rows, environment, results_folder

CLOCK, DEADLINE = timer.CpuClock(), timer.Deadline()


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest):
    """The rows of this run: saved after every point, printed and drawn at the end."""
    option = request.config.getoption
    whole = option("--case") is None and not option("--no-compiled")
    path = Path(option("--csv") or results_folder(CLOCK.device, whole=whole) / "speed.csv")
    command = " ".join(["pytest", *request.config.invocation_params.args])
    collected = Rows(None if option("--benchmark-disable") else path, environment(CLOCK.device, command))
    yield collected
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        flow.show(collected)


@pytest.fixture(scope="session")
def compilers(request: pytest.FixtureRequest) -> list:
    option = request.config.getoption
    autotuned = [MAX_AUTOTUNE] if option("--max-autotune") else []
    return [] if option("--no-compiled") else [OURS_COMPILED, COMPILED, *autotuned]


@functools.cache
def oracle(*problem: object) -> Oracle:
    return Oracle(*problem)


@pytest.fixture(scope="module")
def point(case: str, compilers: list) -> flow.Prepared:
    """Built and checked once for both modes."""
    without = [OURS_WITHOUT_PEEPHOLE] if any(each.why_absent(CLOCK.device) is None for each in (FLAX, KERAS)) else []
    providers = [OURS, *FLOORS, *EAGER_FORMATS, RECOMPUTE, HOISTED, *compilers, *without, FLAX, KERAS]
    return flow.prepare(Point("baselines", case, SMALL[case], torch.float32, providers), CLOCK, DEADLINE, oracle)


@pytest.fixture(scope="module")
def point_of_steps(steps: int, compilers: list) -> flow.Prepared:
    providers = [OURS, RECOMPUTE, *EAGER_FORMATS, *compilers]
    case = SMALL[LONG].but(steps=steps)
    return flow.prepare(Point("steps", LONG, case, torch.float32, providers), CLOCK, DEADLINE, oracle)


def _measure(prepared: flow.Prepared, mode: str, benchmark, rows: Rows, request: pytest.FixtureRequest) -> None:
    rounds = request.config.getoption("--rounds") if benchmark.enabled else 1

    def drive(first, before, after, rounds: int) -> None:
        if benchmark.enabled and not benchmark.stats:
            benchmark.pedantic(first, setup=before, teardown=after, rounds=rounds)
            return
        timer.drive(first, before, after, rounds)

    flow.measure(prepared, mode, CLOCK, rows, DEADLINE, rounds, drive)
    if not benchmark.enabled:
        benchmark(lambda: None)  # a fixture that is not used is a warning
    (ours,) = (row for row in rows.all[-len(prepared.rows[mode]) :] if row.provider == OURS.name)
    assert ours.status == OK, ours.reason


@pytest.mark.parametrize("mode", MODES)
def test_speed_and_memory(point, mode: str, benchmark, rows, request: pytest.FixtureRequest):
    _measure(point, mode, benchmark, rows, request)


def test_against_steps(point_of_steps, benchmark, rows, request: pytest.FixtureRequest):
    _measure(point_of_steps, "training", benchmark, rows, request)
