"""The eager ConvLSTM under `torch.compile`: the strongest baseline that PyTorch has.

The compiler unrolls all steps of all layers, so compiling takes long. With mode="max-autotune" it makes its own CUDA
graphs, into whose memory it copies the input; not the parameters, since they are a module's.
"""

from functools import partial

import torch
from torch import Tensor, nn

from bench.cases import Parameters, Problem

from .eager import stack
from .protocol import Built, Provider, State, of_function


class _Module(nn.Module):
    def __init__(self, layers: tuple[Parameters, ...]):
        super().__init__()
        self.layers = nn.ModuleList()
        for parameters in layers:
            layer = nn.Module()
            for name, tensor in parameters._asdict().items():
                layer.register_parameter(name, None if tensor is None else nn.Parameter(tensor))
            self.layers.append(layer)

    def forward(self, input: Tensor) -> tuple[Tensor, list[State]]:
        return stack(input, tuple(Parameters(layer.weight, layer.bias, layer.peephole) for layer in self.layers))


def build(mode: str | None, problem: Problem) -> Built:
    module = _Module(problem.leaves())
    compiled = torch.compile(module, fullgraph=True, dynamic=False, mode=mode)

    def run(input: Tensor) -> tuple[Tensor, list[State]]:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(input)

    return of_function(run if mode else compiled, list(module.parameters()))


COMPILED = Provider("torch.compile", partial(build, None))
MAX_AUTOTUNE = Provider("torch.compile max-autotune", partial(build, "max-autotune"), capturable=False)
