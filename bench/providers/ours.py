"""This package's layer, with its backends, schedules and memory modes."""

from dataclasses import replace
from functools import partial

import torch

from bench.cases import Problem
from tritonlstm import ConvLSTM2d

from .eager import disable_compiler_caches
from .protocol import Built, Provider, of_function


def build(options: dict[str, str], problem: Problem, *, compiled: bool = False) -> Built:
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
    for cell, parameters in zip(layer.layers, problem.leaves(torch.channels_last), strict=True):
        for name, tensor in parameters._asdict().items():
            if tensor is not None:
                setattr(cell, name, torch.nn.Parameter(tensor.detach()))
    if compiled:
        disable_compiler_caches()
    return of_function(torch.compile(layer, fullgraph=True) if compiled else layer, list(layer.parameters()))


def variant(name: str, *, peephole: bool = True, **options: str) -> Provider:
    return Provider(name, partial(build, options), peephole=peephole, slack=1.0)


OURS = variant("tritonlstm")
OURS_COMPILED = replace(OURS, name="tritonlstm, torch.compile", build=partial(build, {}, compiled=True), compiles=True)
OURS_WITHOUT_PEEPHOLE = variant("tritonlstm, no peephole", peephole=False)
RECOMPUTE = variant("tritonlstm, recompute", memory="recompute")
HOISTED = variant("tritonlstm, hoisted", schedule="hoisted")
CONCAT = variant("tritonlstm, concat", schedule="concat")
TORCH_BACKEND = variant("tritonlstm, torch backend", backend="torch")
VARIANTS = [RECOMPUTE, CONCAT, HOISTED, TORCH_BACKEND]
"""backend="triton" is what "auto" chooses on a GPU. Elsewhere Triton's interpreter runs, whose speed means nothing."""
