"""The options of `make bench`."""

import pytest

from tritonlstm.tuning.cases import TWINS

LONG = "odd"
"""The twin that is run over more and more steps. Over 32 of "latency" the peepholes' gradient hangs on chance: with one
seed plain float32 was 60 times as far from float64 as with another, and eager 2.8 times as far as that."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--csv", metavar="PATH", help="the file of results, instead of bench/results/cpu/speed.csv")
    group.addoption("--case", action="append", choices=TWINS, help="only this case, in a folder apart (repeatable)")
    group.addoption("--rounds", type=int, default=9, help="rounds of each point (%(default)s)")
    group.addoption("--compiled", action="store_true", help="torch.compile too: minutes of compiling for each case")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "twin" in metafunc.fixturenames:
        metafunc.parametrize("twin", metafunc.config.getoption("--case") or list(TWINS))
    if "long_twin" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--case") or [LONG]
        metafunc.parametrize("long_twin", [LONG] if LONG in chosen else [])
