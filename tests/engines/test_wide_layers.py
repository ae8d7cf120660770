"""Errors of layers of 32 channels and more, beside plain PyTorch in either memory format.

On a CPU, oneDNN's convolutions over contiguous images may sum in shorter chains than those over channels-last ones,
which these layers use. The errors are root mean squares: over so many numbers, those hardly depend on chance.
"""

from functools import cache

import pytest
import torch
from torch import Tensor

from tests.support.problems import MODES, Problem, Shape, by_operator, by_reference, in_channels_last
from tritonlstm.tuning.tolerances import FACTOR

CONTIGUOUS_FACTOR = 4.0
"""What README.md says of contiguous images. Measured: up to 3.4 (AVX-512), 1.6 (AVX2) and 1.0 (SSE4.1)."""

LAYERS = {
    "64→64 3×3": Shape(in_channels=64, channels=64, kernel=(3, 3)),
    "128→64 5×5": Shape(in_channels=128, channels=64, kernel=(5, 5)),
    "256→128 5×5": Shape(in_channels=256, channels=128, kernel=(5, 5), batch=1),
    "32→32 7×7": Shape(in_channels=32, channels=32, kernel=(7, 7)),
    "64→64 1×1": Shape(in_channels=64, channels=64, kernel=(1, 1)),
    "64→64 5×5, enough pixels for minimal filtering": Shape(in_channels=64, channels=64, kernel=(5, 5), batch=4),
}
SIZES = {name: (16, 16) if "pixels" in name else (8, 8) for name in LAYERS}


FORMATS = {"channels last": (in_channels_last, FACTOR), "contiguous": (by_reference, CONTIGUOUS_FACTOR)}


@cache
def solved(name: str) -> tuple[Problem, dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The problem, the oracle's results, and plain PyTorch's by memory format."""
    problem = Problem.random(LAYERS[name].but(steps=2, spatial=SIZES[name]), torch.float32)
    plain = {memory_format: problem.solve(run) for memory_format, (run, _) in FORMATS.items()}
    return problem, problem.to(torch.float64).solve(by_reference), plain


def error(got: Tensor, oracle: Tensor) -> float:
    return (got.double() - oracle).square().mean().sqrt().item()


@pytest.mark.parametrize("mode", ["concat, save", "hoisted, save"])
@pytest.mark.parametrize("name", LAYERS)
def test_errors_are_a_small_multiple_of_pytorchs_in_either_memory_format(name: str, mode: str):
    """At most twice those in channels last, and four times those of contiguous images: no floor of roundings."""
    problem, oracle, plain = solved(name)
    for result, got in problem.solve(by_operator(**MODES[mode])).items():
        for memory_format, (_, factor) in FORMATS.items():
            allowed = factor * error(plain[memory_format][result], oracle[result])
            assert error(got, oracle[result]) <= allowed, f"{result}, {memory_format}"
