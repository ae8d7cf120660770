"""`make bench`: the cases' small twins on a CPU, against every contender that runs there.

Correctness first, then time and memory. pytest-benchmark times our layer, the contenders run around it in turns.
"""

import math
from pathlib import Path

import pytest
import torch

from tritonlstm.tuning.cases import TWINS

from .deadline import Deadline
from .environment import Environment, results_folder
from .flow import MODES, Point, measure
from .measure import Drive, WallClock
from .providers import COMPILED, CONV_FLOOR, EAGER, FLAX, KERAS, MAX_AUTOTUNE, OURS, OURS_WITHOUT_PEEPHOLE, VARIANTS
from .rows import OK, Rows
from .table import table

CPU = torch.device("cpu")
PROVIDERS = [OURS, CONV_FLOOR, EAGER, *VARIANTS, OURS_WITHOUT_PEEPHOLE, FLAX, KERAS]
COMPILERS = [COMPILED, MAX_AUTOTUNE]


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest):
    """The rows of this run: saved after every point, printed when it ends."""
    path = request.config.getoption("--csv")
    enabled = not request.config.getoption("--benchmark-disable")
    path = Path(path) if path else results_folder(CPU) / "speed.csv"
    arguments = " ".join(request.config.invocation_params.args)
    collected = Rows(path if enabled else None, Environment.of(CPU, f"pytest {arguments}"))
    yield collected
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{table(collected.all)}\n{path if enabled else 'not saved: benchmarks are disabled'}")


def _by_benchmark(benchmark) -> Drive:
    """pytest-benchmark calls our layer; its warm-up is `interleave`'s."""

    def drive(first, before, after, rounds: int) -> None:
        benchmark.pedantic(first, setup=before, teardown=lambda: after(), rounds=rounds)

    return drive


@pytest.mark.parametrize("mode", MODES)
def test_speed_and_memory(benchmark, rows: Rows, request: pytest.FixtureRequest, twin: str, mode: str):
    option = request.config.getoption
    providers = PROVIDERS + (COMPILERS if option("--compiled") else [])
    count = option("--rounds") if benchmark.enabled else 1
    point = Point("contenders", twin, TWINS[twin], torch.float32, providers, modes=[mode])
    before = len(rows.all)
    measure(point, WallClock(), rows, Deadline(math.inf), lambda mode: count, _by_benchmark(benchmark))
    (ours,) = (row for row in rows.all[before:] if row.provider == OURS.name)
    assert ours.status == OK, ours.reason
