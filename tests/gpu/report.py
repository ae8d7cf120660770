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
from bench.timer import plan
from tritonlstm.core import files

from .limits import Limits, name_of, section_of

SECTIONS = {"numbers": 200, "timing": 40, "pytorch": 100, "launches": 40, "sanitizer": 100}
"""The files of tests in the order of importance, and the seconds that each may take, so that one run reaches all of
them. In one process on an H100 a check of the numbers took 0.7 s, one of PyTorch's features 1.4 s: what is left is for
--resume, or for several processes."""

PARALLEL = ("numbers", "pytorch")
"""The sections whose checks may run in several processes."""

SECONDS = 480.0
"""Of all together: the sum of the sections."""


class Report:
    """Runs the checks. As a pytest plugin it collects outcomes, with the figures that tests give by `record_property`,
    in a file that is saved after every test.

    sections: the seconds that the tests of each file may take in a process.
    seconds: of all together. What there is no time for is skipped.
    resume: go on with the file of an earlier run: what passed then is left out, all else stays in it until it is run
        again. Raises ValueError if that run was in another environment.
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
        self._start, self._checks = time.monotonic(), self._earlier() if resume and path.exists() else {}
        self._done = [name for name, check in self._checks.items() if check["outcome"] == "passed"]
        # Frozen: a process that takes the place of one that crashed must collect the same checks.
        self._limits = dict(sections), self._start + seconds, self._done

    def _earlier(self) -> dict[str, dict]:
        earlier = json.loads(files.read_text(self.path))
        if differs := differences(earlier, self._environment):
            raise ValueError(f"{self.path}: expected checks of the same environment, got {differs}")
        return earlier["checks"]

    def run(self, tests: Mapping[str, str], options: Sequence[str], processes: int = 0) -> int:
        """Say what will run and for how long, and run it. Returns pytest's exit status; that of failed tests also if
        some of the record failed in an earlier run.

        tests: the file of each section.
        processes: how many run those of `PARALLEL`, before the others, by pytest-xdist; with 0 all run in this one.
        """
        names = [name_of(nodeid) for nodeid in collected([*options, *tests.values()])]
        left = Counter(section_of(name) for name in names if name not in self._done)
        parallel = [name for name in left if processes and name in PARALLEL]
        alone = [name for name in left if name not in parallel]
        counts = {name: left[name] for name in (*parallel, *alone)}
        print(*plan(counts, self._sections, self._seconds, self.path), sep="\n", flush=True)
        status = pytest.ExitCode.OK if names else pytest.ExitCode.NO_TESTS_COLLECTED
        distribution = ["--numprocesses", str(processes), "--dist", "worksteal"]
        for sections, more in ((parallel, distribution), (alone, [])):
            if sections and status <= pytest.ExitCode.TESTS_FAILED:
                arguments = [*more, *options, *(tests[name] for name in sections)]
                status = max(status, pytest.main(arguments, plugins=[self, Limits(*self._limits)]))
        has_failed = any(check["outcome"] == "failed" for check in self._checks.values())
        return int(max(status, pytest.ExitCode.TESTS_FAILED) if has_failed else status)

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
        seconds = time.monotonic() - self._start
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
