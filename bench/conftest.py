"""The benchmark's own option."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--csv", metavar="PATH", help="write a row for every point to this CSV file")
