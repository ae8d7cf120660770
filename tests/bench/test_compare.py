"""Two versions in one run: an identical pair passes, a planted slowdown is caught."""

import math
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from bench import compare
from bench.compare import LEAST_ROUNDS, Interval
from tritonlstm.tuning.cases import SMALL

CASE = SMALL["odd"].but(steps=1, height=24, width=24)
POINT = ("odd", {"case": asdict(CASE), "device": "cpu", "mode": "training"})


def noise(median: float, rounds: int, seed: int) -> list[float]:
    """Ratios with a few percent of noise, a tenth of them disturbed by a lot, in either direction."""
    draw = random.Random(seed)
    return [
        median * draw.lognormvariate(0, 0.02) * (draw.choice([0.5, 2.0]) if draw.random() < 0.1 else 1)
        for _ in range(rounds)
    ]


def test_synthetic_slowdowns():
    def caught(median: float) -> int:
        return sum(Interval.of(noise(median, 25, seed)).is_slower(0.05) for seed in range(200))

    assert caught(1.0) == 0
    assert caught(1.05) <= 4
    assert caught(1.10) >= 198
    assert caught(0.9) == 0


def test_known_bounds():
    """Of 12 ratios the second smallest: P(Binomial(12, ½) < 2) = 13 / 4096, and 79 / 4096 for the third."""
    interval = Interval.of([1.0 + each / 100 for each in range(12)])
    assert (interval.lower, interval.upper) == (1.01, 1.1)
    assert interval.ratio == pytest.approx(1.055)
    assert interval.is_slower(0.005) and not interval.is_slower(0.01)


def test_too_few_rounds_give_no_bounds():
    assert LEAST_ROUNDS == 7
    assert Interval.of([1.0] * 7)[:3] == (1.0, 1.0, 1.0)
    interval = Interval.of([2.0] * 6)
    assert math.isnan(interval.lower) and not interval.is_slower(0.05)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return compare.tree_of(None, tmp_path_factory.mktemp("tree"))


def test_a_tree_is_laid_out_as_installed(tree: Path):
    assert (tree / "tritonlstm/kernels/gates_forward.py").is_file()
    assert not (tree / "kernels").exists()


@pytest.mark.serial
@pytest.mark.parametrize("planted", [0.0, 0.2])
def test_real_processes(tree: Path, planted: float):
    """Two processes of one code may differ for as long as they live, by 4% and once by 12%: by where their memory lies.
    So the plant is far from the threshold, and a pair that contradicts it may be followed by two others."""
    for _ in range(3):
        (found,) = compare.compare(tree, tree, [POINT], seconds=3, slowdown=planted).values()
        assert found.rounds >= 20
        if found.is_slower(compare.THRESHOLD) == (planted > 0):
            return
    pytest.fail(f"{found}, three times")


@pytest.mark.parametrize("ratio", [1.0, 1.2])
def test_the_command_fails_where_head_is_slower(ratio: float, monkeypatch, capsys):
    interval = Interval.of([ratio] * 20)
    monkeypatch.setattr(compare, "compare", lambda *arguments, **options: {"odd": interval})
    assert compare.main(["HEAD"]) == (ratio > 1)
    assert ("SLOWER" in capsys.readouterr().out) == (ratio > 1)


def test_an_unknown_commit(tmp_path: Path, capsys):
    with pytest.raises(ValueError, match="no-such-ref"):
        compare.tree_of("no-such-ref", tmp_path)
    with pytest.raises(SystemExit) as stopped:
        compare.main(["no-such-ref"])
    assert stopped.value.code == 2
    assert "error: no-such-ref: " in capsys.readouterr().err


@pytest.mark.parametrize("ref", ["--output={}/written", "--help", "--", "", "HEAD:README.md"])
def test_what_is_no_commit_reaches_no_command_of_git(ref: str, tmp_path: Path, capsys):
    ref = ref.format(tmp_path)
    with pytest.raises(ValueError, match="Needed a single revision"):
        compare.tree_of(ref, tmp_path)
    with pytest.raises(SystemExit) as stopped:
        compare.main(["--", ref])
    assert stopped.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_package_from_elsewhere_is_refused(tmp_path: Path):
    """Without the kernels in its tree, a version would be timed with those of another."""
    half = compare.tree_of(None, tmp_path)
    (half / "tritonlstm/kernels").rename(half / "elsewhere")
    with pytest.raises(RuntimeError, match="the process of a version ended with 1"):
        compare.compare(half, half, [POINT], seconds=0)


def test_a_version_that_ended_is_reported(tmp_path: Path):
    with compare.Worker(compare.tree_of(None, tmp_path)) as worker:
        worker.terminate()
        worker.wait()
        with pytest.raises(RuntimeError, match="the process of a version ended with -15"):
            worker.ask([POINT])
