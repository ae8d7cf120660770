"""Layers that run one step at a time, as for a stream or a policy: a loop in Python that carries the state.

A case of one pixel and a 1×1 kernel is one of vectors. Its layers compute with vectors and matrix products.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases import Parameters, Problem, flat, stored
from tritonlstm import PeepholeLSTM

from .protocol import Built, Results, State
from .torch_layers import eager_cell, eager_gates, our_layer, zeros

Step = Callable[[Tensor, Any], tuple[Tensor, Sequence[State]]]
"""A frame (B, Cin, H, W), or (B, Cin), and the state, None at first → output, and the state (h, c) of each layer."""

Outputs = tuple[list[Tensor], Sequence[State]]


def _vectors(parameters: Parameters) -> Parameters:
    """weight (4C, Cin + C), peephole (3, C)."""
    return {name: each.flatten(1) if each.dim() == 4 else each for name, each in parameters.items()}


def _loop(
    step: Step, leaves: Sequence[Tensor], problem: Problem, memory_format: torch.memory_format = torch.channels_last
) -> Built:
    vectors = problem.case.is_of_vectors

    def load(frames: Tensor) -> Tensor:
        return frames[..., 0, 0].contiguous() if vectors else stored(frames, memory_format)

    def run(frames: Tensor) -> Outputs:
        state, outputs = None, []
        for frame in frames.unbind():
            output, state = step(frame, state)
            outputs.append(output)
        return outputs, state

    def train(frames: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(run(frames)[0], leaves, cotangent.unbind())

    def results(value: Outputs) -> Results:
        def image(tensor: Tensor) -> Tensor:
            return tensor[..., None, None] if vectors else tensor

        outputs, states = value
        return Results(image(torch.stack(outputs)), [(image(h), image(c)) for h, c in states])

    def gradients(value: Sequence[Tensor]) -> list[Tensor]:
        return [grad.reshape(like.shape) for grad, like in zip(value, flat(problem.layers), strict=True)]

    return Built(
        torch.no_grad()(run), train, load=load, results=results, gradients=gradients, memory_format=memory_format
    )


def build_ours(problem: Problem) -> Built:
    if not problem.case.is_of_vectors:
        layer = our_layer(problem)
    else:
        case, options = problem.case, {"device": problem.input.device, "dtype": problem.input.dtype}
        peephole = "peephole" in problem.layers[0]
        layer = PeepholeLSTM(case.in_channels, list(case.channels), peephole=peephole, **options)
        for cell, parameters in zip(layer.layers, problem.layers, strict=True):
            cell.load_state_dict(_vectors(parameters))
    return _loop(layer.step, list(layer.parameters()), problem)


def build_eager(problem: Problem, memory_format: torch.memory_format = torch.channels_last) -> Built:
    """Functions of the parameters: nothing but the equations."""
    layers, of_zeros = problem.leaves(memory_format), memory_format
    if problem.case.is_of_vectors:
        plain, of_zeros = map(_vectors, problem.layers), torch.contiguous_format
        layers = tuple({name: each.clone().requires_grad_() for name, each in layer.items()} for layer in plain)

    def step(frame: Tensor, state: list[State] | None) -> tuple[Tensor, list[State]]:
        output, states = frame, []
        for index, parameters in enumerate(layers):
            h, c = [zeros(output, parameters["weight"], of_zeros)] * 2 if state is None else state[index]
            states.append(eager_cell(output, h, c, **parameters))
            output = states[-1][0]
        return output, states

    return _loop(step, flat(layers), problem, memory_format)


class EagerCell(nn.Module):
    """A cell as projects have one: a module with a convolution, which is called as cell(x, (h, c))."""

    def __init__(self, weight: Tensor, bias: Tensor, peephole: Tensor):
        super().__init__()
        out, width, *kernel = weight.shape
        options = {"device": weight.device, "dtype": weight.dtype}
        if kernel:
            self.convolution = nn.Conv2d(width, out, kernel, padding=kernel[0] // 2, **options)
        else:
            self.convolution = nn.Linear(width, out, **options)
        self.convolution.load_state_dict({"weight": weight, "bias": bias})
        self.peephole = nn.Parameter(peephole.clone())

    def forward(self, x: Tensor, state: State) -> State:
        h, c = state
        return eager_gates(self.convolution(torch.cat([x, h], 1)), c, self.peephole)


class EagerCells(nn.Module):
    """The layers of a stack, one time step at a time."""

    def __init__(self, cells: Sequence[EagerCell], memory_format: torch.memory_format):
        super().__init__()
        self.cells, self.memory_format = nn.ModuleList(cells), memory_format

    def forward(self, frame: Tensor, states: list[State] | None = None) -> tuple[Tensor, list[State]]:
        output, new = frame, []
        for index, cell in enumerate(self.cells):
            state = states and states[index]
            if state is None:
                state = (zeros(output, cell.convolution.weight, self.memory_format),) * 2
            new.append(cell(output, state))
            output = new[-1][0]
        return output, new


def build_eager_cells(problem: Problem, memory_format: torch.memory_format = torch.channels_last) -> Built:
    vectors = problem.case.is_of_vectors
    layers = map(_vectors, problem.layers) if vectors else problem.layers
    of_zeros = torch.contiguous_format if vectors else memory_format
    stack = EagerCells([EagerCell(**parameters) for parameters in layers], of_zeros)
    for cell in stack.cells if not vectors else ():
        cell.convolution.to(memory_format=memory_format)
    leaves = [(cell.convolution.weight, cell.convolution.bias, cell.peephole) for cell in stack.cells]
    return _loop(stack, [each for own in leaves for each in own], problem, memory_format)


def build_lstm_cell(problem: Problem) -> Built:
    """One layer of vectors by `nn.LSTMCell`, which has no peepholes, and a second bias: zeros here."""
    case, options = problem.case, {"device": problem.input.device, "dtype": problem.input.dtype}
    (parameters,) = map(_vectors, problem.layers)
    cell = nn.LSTMCell(case.in_channels, *case.channels, **options)
    of_input, of_hidden = parameters["weight"].split([case.in_channels, *case.channels], 1)
    cell.load_state_dict(
        {
            "weight_ih": of_input,
            "weight_hh": of_hidden,
            "bias_ih": parameters["bias"],
            "bias_hh": torch.zeros_like(parameters["bias"]),
        }
    )

    def step(frame: Tensor, state: list[State] | None) -> tuple[Tensor, list[State]]:
        h, c = cell(frame, None if state is None else state[0])
        return h, [(h, c)]

    built = _loop(step, list(cell.parameters()), problem)

    def gradients(value: Sequence[Tensor]) -> list[Tensor]:
        of_input, of_hidden, bias, _ = value
        return built.gradients([torch.cat([of_input, of_hidden], 1), bias])

    return replace(built, gradients=gradients)
