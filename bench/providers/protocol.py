"""What a contender is."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.cases import Parameters, Problem, stored

State = tuple[Tensor, Tensor]
Stack = Callable[[Tensor, tuple[Parameters, ...]], tuple[Tensor, list[State]]]
"""A stack of layers over a sequence: input (T, B, Cin, H, W) and parameters to output (T, B, C, H, W) and, for each
layer, its last (h, c)."""


@dataclass(frozen=True)
class Results:
    """What a contender computed, as torch tensors: the last layer's output, each layer's last state."""

    output: Tensor
    states: Sequence[State]


def _never(device: torch.device) -> None:
    return None


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Built:
    """A contender with one problem's parameters, ready to be timed.

    `infer` and `train` take and return what the contender's framework likes best; `load_input` and `load_cotangent`
    make that of torch's tensors, outside the time. `results` and `gradients` turn what they return into torch tensors:
    the gradients of the parameters, layer by layer, in the order weight, bias, peephole. Both are None where there is
    nothing to check.
    """

    infer: Callable[[Any], Any]
    train: Callable[[Any, Any], Any]
    load_input: Callable[[Tensor], Any] = _same
    load_cotangent: Callable[[Tensor], Any] = _same
    results: Callable[[Any], Results] | None = _same
    gradients: Callable[[Any], list[Tensor]] | None = _same
    wait: Callable[[Any], Any] | None = None
    """Returns when what a call returned has been computed, where the framework has a queue of its own."""
    memory_formats: Collection[torch.memory_format] = (torch.channels_last,)
    """Those of its layers: what PyTorch itself errs in them is its budget."""
    peak: Callable[[str], int] | None = None
    """Bytes at the peak of an "inference" or "training" step, where torch's allocator does not see them."""


@dataclass(frozen=True)
class Provider:
    """`build` makes a contender of a problem. `why_absent` says why it cannot run on a device, or None."""

    name: str
    build: Callable[[Problem], Built]
    why_absent: Callable[[torch.device], str | None] = _never
    peephole: bool = True
    """Whether it has peepholes. One without is checked against an oracle without."""
    slack: float = 4.0
    """It may be so many times as far from the oracle as the budget says. A baseline is checked for computing the same
    function, not for how it rounds: a mistake would be hundreds of times above."""
    capturable: bool = True
    """Whether a CUDA graph can be made of its calls: not where it runs on no stream of torch's."""
    seconds: float = math.inf
    """What it may take until it can be timed: a compiler may take all there is."""


def of_function(function: Callable[[Tensor], tuple[Tensor, Sequence[State]]], leaves: Sequence[Tensor]) -> Built:
    """A contender that maps an input to (output, states), and whose training is autograd's."""

    @torch.no_grad
    def infer(input: Tensor) -> Results:
        return Results(*function(input))

    def train(input: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(input)[0], leaves, cotangent)

    return Built(infer, train, gradients=list)


def of_stack(stack: Stack, problem: Problem, memory_format: torch.memory_format = torch.channels_last) -> Built:
    """A contender in eager PyTorch, whose images and weights are stored in that format."""
    layers = problem.leaves(memory_format)
    leaves = [tensor for layer in layers for tensor in layer.present()]
    load = partial(stored, memory_format=memory_format)
    return replace(
        of_function(lambda input: stack(input, layers), leaves),
        load_input=load,
        load_cotangent=load,
        memory_formats=[memory_format],
    )
