"""The eager contenders under `torch.compile`: the strongest baselines that PyTorch has.

The compiler unrolls all steps of all layers, so compiling takes long. It makes no CUDA graphs of its own: the clock
captures its code as it does everybody's, so that none is timed with its launches and another without. It chooses the
memory format of convolutions itself, on a CPU always channels last: eager is compiled in one format alone.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from bench.cases import Parameters, Problem

from . import eager, fused_cell
from .eager import EAGER
from .fused_cell import FUSED_CELL
from .protocol import Built, Provider, Stack, State, of_function

SECONDS = 60.0
"""Of compiling one case, inference and training together."""


class _Module(nn.Module):
    def __init__(self, stack: Stack, layers: tuple[Parameters, ...]):
        super().__init__()
        self.stack = stack
        self.layers = nn.ModuleList()
        for parameters in layers:
            layer = nn.Module()
            for name, tensor in parameters._asdict().items():
                layer.register_parameter(name, None if tensor is None else nn.Parameter(tensor))
            self.layers.append(layer)

    def forward(self, input: Tensor) -> tuple[Tensor, list[State]]:
        return self.stack(input, tuple(Parameters(layer.weight, layer.bias, layer.peephole) for layer in self.layers))


def build(stack: Stack, mode: str | None, problem: Problem) -> Built:
    module = _Module(stack, problem.leaves())
    compiled = torch.compile(module, fullgraph=True, dynamic=False, mode=mode)
    return of_function(compiled, list(module.parameters()))


def _pair(of: Provider, stack: Stack, name: str) -> list[Provider]:
    """A contender under the compiler, in its default mode and tuned to the utmost."""
    return [
        replace(of, name=f"torch.compile{label}{name}", build=partial(build, stack, mode), seconds=SECONDS)
        for label, mode in (("", None), (" max-autotune", "max-autotune-no-cudagraphs"))
    ]


COMPILED, MAX_AUTOTUNE = _pair(EAGER, eager.stack, "")
COMPILED_FUSED_CELL, MAX_AUTOTUNE_FUSED_CELL = _pair(
    FUSED_CELL, partial(fused_cell.stack, torch.ops.aten._thnn_fused_lstm_cell), ", fused cell"
)
