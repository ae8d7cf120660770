"""Two versions in one run: an identical pair passes, a planted slowdown is caught."""

import random
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.compare import __main__ as command
from bench.compare.interval import LEAST_ROUNDS, of_ratios
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


@pytest.mark.parametrize("rounds", [7, 14, 25])
def test_each_bound_holds_with_its_confidence(rounds: int):
    """A bound of 99% errs in at most 1% of 4000 draws: in 60 of them only once in 1000 times."""
    intervals = [of_ratios(noise(1.0, rounds, seed)) for seed in range(4000)]
    assert sum(each.lower > 1.0 for each in intervals) <= 60
    assert sum(each.upper < 1.0 for each in intervals) <= 60


def test_synthetic_slowdowns():
    def caught(median: float) -> int:
        return sum(of_ratios(noise(median, 25, seed)).is_slower(0.05) for seed in range(1000))

    assert caught(1.0) == 0
    assert caught(1.05) <= 20
    assert caught(1.10) >= 990
    assert caught(0.9) == 0


def test_known_bounds():
    """Of 12 ratios the second smallest: P(Binomial(12, ½) < 2) = 13 / 4096, and 79 / 4096 for the third."""
    interval = of_ratios([1.0 + each / 100 for each in range(12)])
    assert (interval.lower, interval.upper) == (1.01, 1.1)
    assert interval.ratio == pytest.approx(1.055)
    assert interval.is_slower(0.005) and not interval.is_slower(0.01)


def test_too_few_rounds_give_no_interval():
    assert LEAST_ROUNDS == 7
    with pytest.raises(ValueError, match="at least 7"):
        of_ratios([1.0] * 6)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return command.tree_of(None, tmp_path_factory.mktemp("tree"))


def test_a_tree_is_laid_out_as_installed(tree: Path):
    assert (tree / "tritonlstm/kernels/gates_forward.py").is_file()
    assert not (tree / "kernels").exists()


@pytest.mark.serial
@pytest.mark.parametrize("planted", [0.0, 0.1])
def test_real_processes(tree: Path, planted: float):
    (found,) = command.compare(tree, tree, [POINT], seconds=10, slowdown=planted).values()
    assert found.is_slower(command.THRESHOLD) == (planted > 0), found
    assert found.rounds >= 20


@pytest.mark.parametrize("ratio", [1.0, 1.2])
def test_the_command_fails_where_head_is_slower(ratio: float, monkeypatch, capsys):
    interval = of_ratios([ratio] * 20)
    monkeypatch.setattr(command, "compare", lambda *arguments, **options: {"odd": interval})
    assert command.main(["HEAD"]) == (ratio > 1)
    assert ("SLOWER" in capsys.readouterr().out) == (ratio > 1)


def test_an_unknown_commit(tmp_path: Path, capsys):
    with pytest.raises(ValueError, match="no-such-ref"):
        command.tree_of("no-such-ref", tmp_path)
    with pytest.raises(SystemExit) as stopped:
        command.main(["no-such-ref"])
    assert stopped.value.code == 2
    assert "error: no-such-ref: " in capsys.readouterr().err


@pytest.mark.parametrize("ref", ["--output={}/written", "--help", "--", "", "HEAD:README.md"])
def test_what_is_no_commit_reaches_no_command_of_git(ref: str, tmp_path: Path, capsys):
    ref = ref.format(tmp_path)
    with pytest.raises(ValueError, match="Needed a single revision"):
        command.tree_of(ref, tmp_path)
    with pytest.raises(SystemExit) as stopped:
        command.main(["--", ref])
    assert stopped.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_package_from_elsewhere_is_refused(tmp_path: Path):
    """Without the kernels in its tree, a version would be timed with those of another."""
    half = command.tree_of(None, tmp_path)
    (half / "tritonlstm/kernels").rename(half / "elsewhere")
    with pytest.raises(RuntimeError, match="the process of a version ended with 1"):
        command.compare(half, half, [POINT], seconds=0)


def test_a_version_that_ended_is_reported(tmp_path: Path):
    with command.Worker(command.tree_of(None, tmp_path), 0.0) as worker:
        worker._process.terminate()
        worker._process.wait()
        with pytest.raises(RuntimeError, match="the process of a version ended with -15"):
            worker.send([POINT])
