"""What the GPU check writes down: the machine, the versions, the commit, and each check with its figures."""

import io
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from bench.rows import TIME_OVER, differences
from bench.timer import Deadline, plan
from tritonlstm.core import files

from .limits import Limits, name_of, section_of

SECTIONS = {"numbers": 300, "timing": 40, "pytorch": 240, "launches": 40, "sanitizer": 300}
"""The files of tests in the order of importance, and the seconds that each may take. In one process on an H100 a check
of the numbers took 0.7 s, of which most to compile the kernels, and one of PyTorch's features 2 s."""

BESIDE = ("numbers", "pytorch")
"""The sections whose checks may run side by side."""

SECONDS = 540.0
"""Of all together."""


class Report:
    """A pytest plugin that runs the checks, and collects outcomes, with the figures that tests give by
    `record_property`, in a file that is saved after every test.

    sections, seconds: as `Limits` has them.
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
        self._start, self._deadline = time.time(), Deadline(seconds)
        self._checks = self._passed() if resume and path.exists() else {}

    def _passed(self) -> dict[str, dict]:
        earlier = json.loads(files.read_text(self.path))
        if differs := differences(earlier, self._environment):
            raise ValueError(f"{self.path}: expected checks of the same environment, got {differs}")
        return {name: check for name, check in earlier["checks"].items() if check["outcome"] == "passed"}

    def run(self, tests: Mapping[str, str], options: Sequence[str], processes: int = 0) -> int:
        """Say what will run and for how long, and run it. Returns pytest's exit status.

        tests: the file of each section.
        processes: how many run the checks of `BESIDE`, by pytest-xdist; with 0 all run in this one.
        """
        counts = Counter(section_of(nodeid) for nodeid in collected([*options, *tests.values()]))
        counts.subtract(section_of(name) for name in self._checks)
        left = {name: counts[name] for name in tests if counts[name] > 0}
        print(*plan(left, self._sections, self._seconds, self.path), sep="\n", flush=True)
        beside = [name for name in left if processes and name in BESIDE]
        alone = [name for name in left if name not in beside]
        several = ["--numprocesses", str(processes), "--dist", "worksteal"]
        status = pytest.ExitCode.OK
        for names, own in ((beside, several), (alone, [])):
            if names and status <= pytest.ExitCode.TESTS_FAILED:
                files = [tests[name] for name in names]
                status = max(status, pytest.main([*own, *options, *files], plugins=[self, Limits(*self._limits)]))
        return int(status)

    @property
    def _limits(self) -> tuple[dict[str, float], float, list[str]]:
        """The arguments of `Limits` from now on."""
        return dict(self._sections), self._deadline.left, list(self._checks)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node) -> None:
        """A process of pytest-xdist is about to start."""
        node.workerinput["limits"] = self._limits

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        check = {"outcome": report.outcome, "seconds": round(report.duration, 3), **dict(report.user_properties)}
        if report.skipped:
            check["reason"] = report.longrepr[2].removeprefix("Skipped: ")
        if report.failed:
            check["error"] = str(report.longrepr)[-2000:]
        self._checks[name_of(report.nodeid)] = check
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


def collected(arguments: Sequence[str]) -> list[str]:
    """The names of the tests that pytest would run. Raises ValueError with what it prints if it cannot tell."""

    class Names:
        found = ()

        def pytest_collection_finish(self, session: pytest.Session) -> None:
            self.found = [item.nodeid for item in session.items]

    names, printed = Names(), io.StringIO()
    with redirect_stdout(printed):
        status = pytest.main(["--collect-only", *arguments], plugins=[names])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise ValueError(printed.getvalue())
    return names.found
