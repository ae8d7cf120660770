"""The options of `make bench`."""

import pytest

from tritonlstm.tuning.cases import TWINS


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--csv", metavar="PATH", help="the file of results, instead of bench/results/cpu/speed.csv")
    group.addoption("--case", action="append", choices=TWINS, help="only this case (repeatable)")
    group.addoption("--rounds", type=int, default=11, help="rounds of each point")
    group.addoption("--compiled", action="store_true", help="torch.compile too: minutes of compiling for each case")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "twin" in metafunc.fixturenames:
        metafunc.parametrize("twin", metafunc.config.getoption("--case") or list(TWINS))
