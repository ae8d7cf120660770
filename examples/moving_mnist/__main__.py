"""Train a stacked ConvLSTM and a peephole FC-LSTM to continue Moving MNIST, and compare their forecasts.

Both models read ten frames with two moving MNIST digits and forecast the next ten. Ctrl-C or SIGTERM stops the training
early; the models are then evaluated as they are. A second one ends the program.
"""

import argparse
import math
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tritonlstm.core import files, output

from . import models, pictures, scores
from .interruption import Interruption
from .task import load_digits, make_sequences
from .training import Candidate, train

ITERATIONS_A_SECOND = 8.0
"""Throughput of two CPU cores (Zen 5 with bfloat16), less a margin. It converts --seconds into a number of iterations,
so that a run depends on its options alone, not on the speed of the machine."""

STRIP, MOVIE = "forecast.png", "forecast.gif"


def main(arguments: Sequence[str] | None = None) -> int:
    output.make_robust()
    options = parse(arguments)
    interrupted = Interruption()
    device = options.device
    digits = load_digits(options.seed)
    input, truth = make_sequences(digits.held_out, options.sequences, torch.Generator().manual_seed(options.seed + 1))

    iterations = max(1, round(options.seconds * ITERATIONS_A_SECOND))
    built = models.build(device, options.seed)
    parameters = {name: models.count_parameters(model) for name, model in built.items()}
    candidates = {
        name: Candidate.of(model, iterations, compiled=device.type == "cuda") for name, model in built.items()
    }
    print(f"training {' and '.join(candidates)} on {_describe(device)}, at most {options.seconds:g} s")
    ended = train(candidates, digits.training, iterations, options.seconds, options.seed + 2, device, interrupted)
    noun = "sequence" if options.sequences == 1 else "sequences"
    print(f"{ended}; judging {options.sequences} {noun} of held-out digits")

    forecasts = {name: each.forecast(input.to(device)) for name, each in candidates.items()}
    results = {name: scores.score(forecast, truth) for name, forecast in forecasts.items()}
    results["last frame"] = scores.score_last_frame(input, truth)
    print(scores.table(results, parameters))

    strip, movie = options.out / STRIP, options.out / MOVIE
    pictures.filmstrip(strip, input, truth, forecasts)
    pictures.animation(movie, input, truth, forecasts)
    print(f"filmstrip: {strip.resolve()}\nanimation: {movie.resolve()}")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with all that would fail after the training tried before it."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.moving_mnist",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument(
        "--seconds", type=_number(float, 0.001, 1_000_000), default=285.0, help="upper bound on the training time"
    )
    parser.add_argument(
        "--seed",
        type=_number(int, 0, 2**32),
        default=0,
        help="random seed of the digits, the sequences and the models",
    )
    parser.add_argument("--device", type=_device, default=default, help="cpu or cuda; a GPU if one is available")
    parser.add_argument(
        "--sequences", type=_number(int, 1, 10_000), default=500, help="held-out sequences for the evaluation"
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="output folder for the pictures")
    options = parser.parse_args(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for name in (STRIP, MOVIE):
            files.check_target(options.out / name)
        with tempfile.TemporaryFile(dir=options.out):
            pass
    except (OSError, ValueError) as error:
        parser.error(f"argument --out: {options.out} cannot be written to: {error}")
    return options


def _number(kind: type, least: float, most: float) -> Callable[[str], float]:
    """Parses a number of this type, least <= number <= most."""
    wanted = f"{'an integer' if kind is int else 'a number'} from {least} to {most}"

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:  # nan is not either
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
        return value

    return parse


def _device(text: str) -> torch.device:
    if not re.fullmatch("cpu|cuda(:[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:N, got {text!r}")
    try:
        return torch.zeros(1, device=text).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch is built without CUDA
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"{text} cannot be used here ({reason})") from None


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads"


if __name__ == "__main__":
    sys.exit(main())
