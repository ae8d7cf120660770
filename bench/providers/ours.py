"""This package's layer, with each of its backends, schedules and memory modes."""

import inspect
from functools import partial

import torch

from bench.cases import Problem
from tritonlstm import ConvLSTM2d

from .protocol import Built, Provider, of_function


def build(options: dict[str, str], problem: Problem) -> Built:
    case = problem.case
    layer = ConvLSTM2d(
        case.in_channels,
        list(case.channels),
        case.kernel,
        peephole="none" if problem.layers[0].peephole is None else "channel",
        device=problem.input.device,
        dtype=problem.input.dtype,
        **options,
    )
    for cell, parameters in zip(layer.layers, problem.leaves(), strict=True):
        for name, tensor in parameters._asdict().items():
            if tensor is not None:
                setattr(cell, name, torch.nn.Parameter(tensor.detach()))
    return of_function(layer, list(layer.parameters()))


def _why_absent(options: dict[str, str], device: torch.device) -> str | None:
    unknown = options.keys() - inspect.signature(ConvLSTM2d).parameters
    return f"ConvLSTM2d has no argument {', '.join(sorted(unknown))}" if unknown else None


def variant(name: str, *, peephole: bool = True, **options: str) -> Provider:
    return Provider(name, partial(build, options), partial(_why_absent, options), peephole)


OURS = variant("tritonlstm")
OURS_WITHOUT_PEEPHOLE = variant("tritonlstm, no peephole", peephole=False)
VARIANTS = [
    variant("tritonlstm, recompute", memory="recompute"),
    variant("tritonlstm, concat", schedule="concat"),
    variant("tritonlstm, hoisted", schedule="hoisted"),
    variant("tritonlstm, torch backend", backend="torch"),
]
"""backend="triton" is what "auto" takes on a GPU; elsewhere Triton interprets, which is no speed to tell."""
