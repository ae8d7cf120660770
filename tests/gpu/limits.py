"""The plugin that keeps the checks of a process within their time, and leaves out those that have passed before."""

import time
from collections.abc import Collection, Mapping

import pytest

from bench.timer import Deadline, OutOfTime


class Limits:
    """sections: the seconds that the tests of each file may take in a process; those left are then skipped.
    end: when all are, by `time.monotonic`, which all processes of a machine share.
    done: the names of the checks that are left out.
    """

    def __init__(self, sections: Mapping[str, float], end: float, done: Collection[str]):
        self._sections, self._done = sections, set(done)
        self._deadline, self._deadlines = Deadline(end - time.monotonic()), {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        left = [item for item in items if name_of(item.nodeid) not in self._done]
        config.hook.pytest_deselected(items=[item for item in items if item not in left])
        items[:] = left

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item):
        section = section_of(item.nodeid)
        if section not in self._deadlines:
            self._deadlines[section] = self._deadline.within(self._sections[section])
        try:
            with self._deadlines[section].limit():
                return (yield)
        except OutOfTime as error:
            pytest.skip(str(error))


def register(config: pytest.Config) -> None:
    """In a process of pytest-xdist, with the arguments that it was sent."""
    if given := getattr(config, "workerinput", {}).get("limits"):
        config.pluginmanager.register(Limits(*given))


def name_of(nodeid: str) -> str:
    return nodeid.split("tests/gpu/")[-1]


def section_of(nodeid: str) -> str:
    """The name of its file without test_."""
    return name_of(nodeid).split(".py::")[0].split("test_")[-1]
