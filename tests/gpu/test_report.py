"""The record of the GPU check, with checks of its own in the place of those on a GPU."""

import json
import sys
from pathlib import Path

import pytest

from bench.rows import TIME_OVER
from tests.gpu.report import SECONDS, SECTIONS, Report

ENVIRONMENT = {"device": "a test", "commit": "0123456789ab", "command": "first"}

CONFTEST = """
from tests.gpu.limits import register

def pytest_configure(config):
    register(config)
"""

CHECKS = {
    "test_numbers.py": """
import os

def test_passes(record_property):
    record_property("largest", 0.5)

def test_fails():
    assert os.path.exists(__file__ + ".mended")
""",
    "test_timing.py": """
import time

def test_hangs():
    time.sleep(60)

def test_is_behind_it():
    pass
""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of checks: of the first one fails, of the second one hangs."""
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name, content in CHECKS.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def run(
    folder: Path,
    *,
    timing: float = 0.5,
    seconds: float = 60.0,
    command: str = "first",
    resume: bool = False,
    processes: int = 0,
    options: tuple[str, ...] = (),
) -> Report:
    environment, sections = ENVIRONMENT | {"command": command}, {"numbers": 30.0, "timing": timing}
    report = Report(folder / "results" / "check.json", environment, sections, seconds, resume=resume)
    fixed = ["-c", str(folder / "pytest.ini"), "-p", "no:cacheprovider", "--import-mode=importlib", "-q"]
    for name in CHECKS:  # or those of another run in this process would be run again
        sys.modules.pop(name.removesuffix(".py"), None)
    tests = {name: str(folder / f"test_{name}.py") for name in sections}
    status = report.run(tests, [*fixed, *options], processes)
    expected = pytest.ExitCode.TESTS_FAILED if "failed" in report.summary() else pytest.ExitCode.OK
    assert status == (expected if report.path.exists() else pytest.ExitCode.NO_TESTS_COLLECTED)
    return report


def outcomes(folder: Path) -> dict[str, str]:
    checks = json.loads((folder / "results" / "check.json").read_text())["checks"]
    return {name.split("::")[-1]: check["outcome"] for name, check in checks.items()}


def test_sections_are_files_of_tests():
    """All but this one."""
    here = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert here == {*SECTIONS, "report"}
    assert all(0 < seconds < SECONDS for seconds in SECTIONS.values())


def test_the_plan_comes_first_and_every_check_is_written_down(folder: Path, capfd: pytest.CaptureFixture):
    report = run(folder)
    printed = capfd.readouterr().out
    assert printed.startswith("Sections, in this order:\n  numbers                      2, at most 30 s\n  timing")
    assert f"All: at most 60 s. Each result is saved at once, to {report.path}" in printed
    assert outcomes(folder) == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_hangs": "skipped",
        "test_is_behind_it": "skipped",
    }
    content = json.loads(report.path.read_text())
    assert content["commit"] == ENVIRONMENT["commit"] and content["summary"].startswith("1 failed, 1 passed, 2 skipped")
    checks = {name.split("::")[-1]: check for name, check in content["checks"].items()}
    assert checks["test_passes"]["largest"] == 0.5 and "assert" in checks["test_fails"]["error"]
    assert checks["test_hangs"]["reason"] == checks["test_is_behind_it"]["reason"] == TIME_OVER
    assert report.left() == 2


CRASHES = """
def test_ends_its_process():
    os._exit(3)
"""


def test_other_processes_have_the_same_limits_and_checks_and_may_crash(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.gpu.report.PARALLEL", ("numbers", "timing"))
    path = folder / "results" / "check.json"
    path.parent.mkdir()
    earlier = {"checks": {"test_numbers.py::test_passes": {"outcome": "passed", "largest": 0.25}}}
    path.write_text(json.dumps(ENVIRONMENT | earlier))
    with open(folder / "test_numbers.py", "a") as file:
        file.write(CRASHES)
    assert run(folder, resume=True, processes=1).left() == 2
    assert outcomes(folder) == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_ends_its_process": "failed",
        "test_hangs": "skipped",
        "test_is_behind_it": "skipped",
    }
    checks = json.loads(path.read_text())["checks"]
    assert next(iter(checks.values()))["largest"] == 0.25, "it was not run again"


def test_a_selection_is_resumed_by_name(folder: Path):
    run(folder, options=("-k", "passes"))
    assert list(outcomes(folder)) == ["test_passes"]
    run(folder, resume=True, options=("-k", "fails"))
    assert outcomes(folder) == {"test_passes": "passed", "test_fails": "failed"}


def test_what_failed_or_was_left_stays_in_the_record_until_it_is_run_again(folder: Path):
    """And until then the whole counts as failed, whatever else passes."""
    run(folder)
    first = outcomes(folder)
    report = run(folder, resume=True, options=("-k", "behind"), timing=30.0)
    assert outcomes(folder) == first | {"test_is_behind_it": "passed"}
    assert report.left() == 1
    (folder / "test_numbers.py.mended").touch()
    run(folder, resume=True, options=("-k", "fails"))
    assert outcomes(folder)["test_fails"] == "passed"


def test_a_selection_of_nothing_is_no_success(folder: Path):
    assert not run(folder, options=("-k", "nonsense")).path.exists()


def test_each_check_is_saved_when_it_is_done(folder: Path, monkeypatch: pytest.MonkeyPatch):
    seen, save = [], Report._save

    def seeing(report: Report) -> None:
        save(report)
        seen.append(len(outcomes(folder)))

    monkeypatch.setattr(Report, "_save", seeing)
    run(folder)
    assert seen == [1, 2, 3, 4]


def test_a_run_that_is_resumed_leaves_out_what_passed(folder: Path):
    run(folder)
    (folder / "test_numbers.py.mended").touch()
    report = run(folder, command="second", resume=True)
    assert outcomes(folder) == {
        "test_passes": "passed",
        "test_fails": "passed",
        "test_hangs": "skipped",
        "test_is_behind_it": "skipped",
    }
    checks = json.loads(report.path.read_text())["checks"]
    assert next(iter(checks.values()))["largest"] == 0.5, "as it was written by the first run"


def test_the_whole_has_a_limit_too(folder: Path):
    assert run(folder, timing=30.0, seconds=3.0).left() == 2


def test_a_run_of_another_commit_is_not_resumed(folder: Path):
    run(folder)
    path = folder / "results" / "check.json"
    with pytest.raises(ValueError, match="expected checks of the same environment, got commit '0123456789ab', not 'b'"):
        Report(path, ENVIRONMENT | {"commit": "b"}, {}, 1.0, resume=True)
