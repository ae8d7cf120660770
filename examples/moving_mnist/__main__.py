"""Train a stacked ConvLSTM and a peephole FC-LSTM to continue Moving MNIST, and show what they learned.

Ten frames of two moving MNIST digits go in, the next ten are to be forecast. Ctrl-C ends the training early and shows
what there is.
"""

import argparse
import sys
from pathlib import Path

import torch

from . import models, pictures, scores
from .task import load_digits, make_sequences
from .training import Contender, train

ITERATIONS_A_SECOND = 8.0
"""What two CPU cores manage, less a margin (Zen 5 with bfloat16): it turns --seconds into a number of iterations, so
that a run depends on its options alone, however fast the machine is."""


def main() -> int:
    options = _parse()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options.out.mkdir(parents=True, exist_ok=True)
    digits = load_digits(options.seed)
    input, truth = make_sequences(digits.held_out, options.sequences, torch.Generator().manual_seed(options.seed + 1))

    iterations = max(1, round(options.seconds * ITERATIONS_A_SECOND))
    built = models.build(device, options.seed)
    parameters = {name: models.count_parameters(model) for name, model in built.items()}
    contenders = {
        name: Contender.of(model, iterations, compiled=device.type == "cuda") for name, model in built.items()
    }
    print(f"training {' and '.join(contenders)} on {_describe(device)}, at most {options.seconds:g} s")
    ended = train(contenders, digits.training, iterations, options.seconds, options.seed + 2, device)
    print(f"{ended}; judging {options.sequences} sequences of held-out digits")

    forecasts = {name: each.forecast(input.to(device)) for name, each in contenders.items()}
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
    parser.add_argument("--seconds", type=_positive(float), default=285.0, help="bound on the training time")
    parser.add_argument("--seed", type=int, default=0, help="of the digits, the sequences and the models")
    parser.add_argument("--device", help="cpu or cuda; the GPU if there is one")
    parser.add_argument("--sequences", type=_positive(int), default=500, help="held-out sequences to judge")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the pictures")
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
