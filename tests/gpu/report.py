"""What the GPU check writes down: the machine, the versions, the commit, and each check with its figures."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.rows import TIME_OVER, differences
from bench.timer import Deadline, OutOfTime, plan
from tritonlstm.core import files

SECTIONS = {"numbers": 180, "timing": 40, "pytorch": 180, "launches": 40, "sanitizer": 300}
"""The files of tests in the order of importance, and the seconds that each may take. Not measured."""

SECONDS = 540.0
"""Of all together."""


class Report:
    """A pytest plugin: says what will run and for how long, and collects outcomes, with the figures that tests give by
    `record_property`, in a file that is saved after every test.

    sections: the seconds that the tests of each file may take; those left are skipped, as after `seconds` in all.
    resume: leave out what passed in an earlier run, by the file. Raises ValueError if that was in another environment.
    """

    def __init__(
        self,
        path: Path,
        environment: Mapping[str, object],
        sections: Mapping[str, float],
        seconds: float,
        *,
        resume: bool = False,
    ):
        files.check_target(path)
        self.path = path
        self._environment, self._sections, self._seconds = environment, sections, seconds
        self._start, self._deadline, self._deadlines = time.time(), Deadline(seconds), {}
        self._checks = self._passed() if resume and path.exists() else {}

    def _passed(self) -> dict[str, dict]:
        earlier = json.loads(files.read_text(self.path))
        if differs := differences(earlier, self._environment):
            raise ValueError(f"{self.path}: expected checks of the same environment, got {differs}")
        return {name: check for name, check in earlier["checks"].items() if check["outcome"] == "passed"}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        left = [item for item in items if _name(item.nodeid) not in self._checks]
        config.hook.pytest_deselected(items=[item for item in items if item not in left])
        items[:] = left

    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> list[str]:
        return plan(Counter(map(_section, items)), self._sections, self._seconds, self.path)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item):
        name = _section(item)
        if name not in self._deadlines:
            self._deadlines[name] = self._deadline.within(self._sections[name])
        try:
            with self._deadlines[name].limit():
                return (yield)
        except OutOfTime as error:
            pytest.skip(str(error))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        check = {"outcome": report.outcome, "seconds": round(report.duration, 3), **dict(report.user_properties)}
        if report.skipped:
            check["reason"] = report.longrepr[2].removeprefix("Skipped: ")
        if report.failed:
            check["error"] = str(report.longrepr)[-2000:]
        self._checks[_name(report.nodeid)] = check
        self._save()

    def left(self) -> int:
        """How many checks there was no time for."""
        return sum(check.get("reason") == TIME_OVER for check in self._checks.values())

    def summary(self) -> str:
        counts = Counter(check["outcome"] for check in self._checks.values())
        seconds = time.time() - self._start
        return f"{', '.join(f'{number} {outcome}' for outcome, number in sorted(counts.items()))} in {seconds:.0f} s"

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {**self._environment, "summary": self.summary(), "checks": self._checks}
        files.write(self.path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _section(item: pytest.Item) -> str:
    return item.path.stem.removeprefix("test_")


def _name(nodeid: str) -> str:
    return nodeid.split("tests/gpu/")[-1]
