"""Train a stacked ConvLSTM and a peephole FC-LSTM to continue Moving MNIST, and compare their forecasts.

Both models read ten frames with two moving MNIST digits and forecast the next ten. Ctrl-C stops the training early; the
models are then evaluated as they are.
"""

import argparse
import sys
from pathlib import Path

import torch

from . import models, pictures, scores
from .task import load_digits, make_sequences
from .training import Candidate, train

ITERATIONS_A_SECOND = 8.0
"""Throughput of two CPU cores (Zen 5 with bfloat16), less a margin. It converts --seconds into a number of iterations,
so that a run depends on its options alone, not on the speed of the machine."""


def main() -> int:
    options = _parse()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options.out.mkdir(parents=True, exist_ok=True)
    digits = load_digits(options.seed)
    input, truth = make_sequences(digits.held_out, options.sequences, torch.Generator().manual_seed(options.seed + 1))

    iterations = max(1, round(options.seconds * ITERATIONS_A_SECOND))
    built = models.build(device, options.seed)
    parameters = {name: models.count_parameters(model) for name, model in built.items()}
    candidates = {
        name: Candidate.of(model, iterations, compiled=device.type == "cuda") for name, model in built.items()
    }
    print(f"training {' and '.join(candidates)} on {_describe(device)}, at most {options.seconds:g} s")
    ended = train(candidates, digits.training, iterations, options.seconds, options.seed + 2, device)
    print(f"{ended}; judging {options.sequences} sequences of held-out digits")

    forecasts = {name: each.forecast(input.to(device)) for name, each in candidates.items()}
    results = {name: scores.score(forecast, truth) for name, forecast in forecasts.items()}
    results["last frame"] = scores.score_last_frame(input, truth)
    print(scores.table(results, parameters))

    strip, movie = options.out / "forecast.png", options.out / "forecast.gif"
    pictures.filmstrip(strip, input, truth, forecasts)
    pictures.animation(movie, input, truth, forecasts)
    print(f"filmstrip: {strip.resolve()}\nanimation: {movie.resolve()}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.moving_mnist",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seconds", type=_positive(float), default=285.0, help="upper bound on the training time")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the digits, the sequences and the models")
    parser.add_argument("--device", help="cpu or cuda; a GPU if one is available")
    parser.add_argument("--sequences", type=_positive(int), default=500, help="held-out sequences for the evaluation")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="output folder for the pictures")
    return parser.parse_args()


def _positive(kind: type):
    def parse(text: str):
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads"


if __name__ == "__main__":
    sys.exit(main())
