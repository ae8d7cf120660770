"""The options of `make bench`."""

import pytest

from tritonlstm.tuning.cases import SMALL

LONG = "odd"
"""The case that runs over more and more steps. Over 32 steps of "latency" the peepholes' gradient is ill-conditioned:
with one seed plain float32 was 60 times as far from float64 as with another."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--csv", metavar="PATH", help="the file of results, instead of bench/results/cpu/speed.csv")
    group.addoption("--case", action="append", choices=SMALL, help="only this case, in a folder apart (repeatable)")
    group.addoption("--rounds", type=int, default=9, help="rounds of each point (%(default)s)")
    group.addoption("--no-compiled", action="store_true", help="without torch.compile, which compiles for minutes")
    group.addoption("--max-autotune", action="store_true", help="torch.compile with autotuning too")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = metafunc.config.getoption("--case") or list(SMALL)
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", chosen, scope="module")
    if "steps" in metafunc.fixturenames:
        metafunc.parametrize("steps", (4, 8, 16, 32) if LONG in chosen else [], scope="module")
