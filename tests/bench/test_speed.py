"""`pytest bench` as a user runs it, with a tiny case in the place of those that are measured."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import report
from bench.rows import ROOT
from tests.support.processes import run_module

PLUGIN = """
from dataclasses import replace
from functools import partial

import torch

from bench import plans
from bench.flow import Point
from bench.providers import EAGER, OURS
from bench.providers.torch_layers import build, eager
from tests.bench.tiny import TINY


built = []


def build_once(problem):
    assert not built, "it is built again for another mode"
    built.append(problem)
    return OURS.build(problem)


def off_by_a_little(input, layers):
    output, states = eager(input, layers)
    return 1.01 * output, states


def on_cpu(cases, steps, **options):
    wrong = replace(OURS, build=partial(build, off_by_a_little))
    ours = {"latency": replace(OURS, build=build_once), "odd": wrong}
    points = [Point("baselines", name, TINY, torch.float32, [ours[name], EAGER]) for name in cases]
    return [plans.Section("baselines", points[:1], 60), plans.Section("others", points[1:])]


plans.on_cpu = on_cpu
"""

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `pytest bench` in a process of its own, in which all cases are tiny, and "odd" is computed wrongly."""
    (tmp_path / "tiny_plans.py").write_text(PLUGIN)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run(*options: str) -> subprocess.CompletedProcess:
        # Without Hypothesis, which nothing here needs and which takes time to import.
        plugins = [f"-p{name}" for name in ("tiny_plans", "no:cacheprovider", "no:hypothesispytest")]
        arguments = [*plugins, "bench", "--out", str(tmp_path / "results")]
        # The profiler, which measures memory, imports the compiler.
        imported = ["torch._inductor", "matplotlib.pyplot"]
        return run_module("pytest", *arguments, *options, folder=ROOT, environment=environment, imported=imported)

    return run


def test_our_samples_are_in_pytest_benchmarks_table_and_file(run: Run, tmp_path: Path):
    file = tmp_path / "times.json"
    result = run("--case", "latency", "--rounds", "3", f"--benchmark-json={file}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "benchmark: 2 tests" in result.stdout and "latency: B2 T3" in result.stdout
    rows = report.read(tmp_path / "results" / "speed.csv")
    ours = rows[rows.provider == "tritonlstm"].set_index("mode")
    assert set(rows.command.str.contains("pytest .* bench --out .* --case latency --rounds 3")) == {True}
    written = {each["name"]: each["stats"] for each in json.loads(file.read_text())["benchmarks"]}
    assert set(written) == {f"test_speed[baselines-latency-T3-float32-{mode}]" for mode in ours.index}
    for name, stats in written.items():
        (row,) = (ours.loc[mode] for mode in ours.index if f"-{mode}]" in name)
        assert stats["rounds"] == row.samples == 3
        assert stats["median"] == pytest.approx(row.median_ms / 1e3)


def test_benchmarks_that_are_disabled_run_one_round(run: Run, tmp_path: Path):
    result = run("--case", "latency", "--benchmark-disable", "-k", "training")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = report.read(tmp_path / "results" / "speed.csv")
    assert set(rows.samples) == {1} and set(rows["mode"]) == {"training"}


def test_without_pytest_benchmark_and_pandas_it_runs(run: Run, tmp_path: Path):
    """As with a GPU's own torch, where there may be neither."""
    (tmp_path / "pandas.py").write_text("raise ImportError('no pandas here')\n")
    result = run("--case", "latency", "-p", "no:benchmark", "-k", "inference", "--rounds", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no tables and plots: no pandas here" in result.stdout and "1 passed" in result.stdout
    assert "tritonlstm" in (tmp_path / "results" / "speed.csv").read_text()


def test_a_run_says_what_it_will_do_and_goes_on_where_another_ended(run: Run, tmp_path: Path):
    def rows() -> list[tuple[str, str, str]]:
        found = report.read(tmp_path / "results" / "speed.csv")
        return list(zip(found.case, found["mode"], found.provider))

    result = run("--case", "latency", "--rounds", "1", "-k", "inference")
    assert "  baselines                    1, at most 60 s\nAll: no limit. Each result is saved" in result.stdout
    first = rows()
    assert first == [("latency", "inference", "tritonlstm"), ("latency", "inference", "eager")]
    result = run("--case", "latency", "--rounds", "1", "--resume", "--section", "baselines")
    assert result.returncode == 0 and "1 passed, 1 deselected" in result.stdout, result.stdout
    assert rows() == [*first, ("latency", "training", "tritonlstm"), ("latency", "training", "eager")]


def test_a_wrong_result_of_ours_fails_the_run(run: Run):
    result = run("--case", "odd", "--rounds", "1")
    assert result.returncode == 1
    assert "2 failed" in result.stdout and "tritonlstm, odd, training: wrong: output: error" in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "cuda"], "this machine has no CUDA device that torch can use"),
        (["--rounds", "0"], "argument --rounds: expected at least 1, got 0"),
        (["--case", "late"], "argument --case: invalid choice: 'late'"),
        (["--case", "odd", "--section", "gates"], "section: expected some of baselines, others, got gates"),
    ],
)
def test_wrong_options_are_refused_at_once(run: Run, options: list[str], words: str):
    result = run(*options)
    assert result.returncode == 4, result.stdout
    assert words in result.stderr
