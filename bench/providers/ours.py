"""This package's layer, with each of its backends, schedules and memory modes.

Weights, input and cotangent are stored as their layers compute: channels last, or contiguous where planes are faster.
"""

from dataclasses import replace
from functools import partial

import torch

from bench.cases import Parameters, Problem, stored
from tritonlstm import ConvLSTM2d
from tritonlstm._maps.planes import is_faster_in_planes
from tritonlstm.tuning.cases import Case

from .protocol import Built, Provider, of_function


def _memory_format(parameters: Parameters, case: Case) -> torch.memory_format:
    """The one in which a layer computes."""
    planar = is_faster_in_planes(parameters.weight, pixels=case.batch * case.height * case.width)
    return torch.contiguous_format if planar else torch.channels_last


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
    formats = [_memory_format(parameters, case) for parameters in problem.layers]
    for cell, parameters, memory_format in zip(layer.layers, problem.layers, formats, strict=True):
        for name, tensor in parameters.leaves(memory_format)._asdict().items():
            if tensor is not None:
                setattr(cell, name, torch.nn.Parameter(tensor.detach()))
    return replace(
        of_function(layer, list(layer.parameters())),
        load_input=partial(stored, memory_format=formats[0]),
        load_cotangent=partial(stored, memory_format=formats[-1]),
        memory_formats=set(formats),
    )


def variant(name: str, *, peephole: bool = True, **options: str) -> Provider:
    return Provider(name, partial(build, options), peephole=peephole, slack=1.0)


OURS = variant("tritonlstm")
OURS_WITHOUT_PEEPHOLE = variant("tritonlstm, no peephole", peephole=False)
RECOMPUTE = variant("tritonlstm, recompute", memory="recompute")
HOISTED = variant("tritonlstm, hoisted", schedule="hoisted")
VARIANTS = [
    RECOMPUTE,
    variant("tritonlstm, concat", schedule="concat"),
    HOISTED,
    variant("tritonlstm, torch backend", backend="torch"),
]
"""backend="triton" is what "auto" takes on a GPU; elsewhere Triton interprets, which is no speed to tell."""
