"""What a provider is: an implementation of a stack of ConvLSTM layers that can be checked and timed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.cases import Problem, stored

State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Results:
    """As torch tensors: the last layer's output, each layer's last state."""

    output: Tensor
    states: Sequence[State]


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Built:
    """A provider with one problem's parameters, ready to be timed.

    `infer` and `train` take and return their framework's own arrays. `load` turns a torch tensor into one, outside of
    the measured time; `results` and `gradients` turn what `infer` and `train` return into torch tensors, the gradients
    of the parameters layer by layer in the order weight, bias, peephole. They are None if there is nothing to check.
    """

    infer: Callable[[Any], Any]
    train: Callable[[Any, Any], Any]
    load: Callable[[Tensor], Any] = _same
    results: Callable[[Any], Results] | None = _same
    gradients: Callable[[Any], list[Tensor]] | None = list
    wait: Callable[[Any], Any] | None = None
    """Blocks until the result of a call is computed, for a framework with a queue of its own."""
    memory_format: torch.memory_format = torch.channels_last
    """The budget of its errors is PyTorch's error in this format."""
    peak: Callable[[str], int] | None = None
    """Bytes at the peak of an "inference" or "training" call, where torch's allocator does not see them."""


@dataclass(frozen=True)
class Provider:
    name: str
    build: Callable[[Problem], Built]
    why_absent: Callable[[torch.device], str | None] = lambda device: None
    """Why it cannot run on a device, or None."""
    peephole: bool = True
    """One without peepholes is checked against an oracle without, and compared with our layer without."""
    slack: float = 4.0
    """The multiple of the budget that its errors may reach. A baseline is checked for computing the same function, not
    for its rounding: a mistake would be hundreds of times above."""
    capturable: bool = True
    """Whether its calls can be captured as a CUDA graph, which needs torch's streams."""
    compiles: bool = False
    """Whether the first call of each mode compiles: its time is reported, and may be limited."""


def of_function(
    function: Callable[[Tensor], tuple[Tensor, Sequence[State]]],
    leaves: Sequence[Tensor],
    memory_format: torch.memory_format = torch.channels_last,
) -> Built:
    """A function from an input, stored in that format, to (output, states), trained by autograd."""

    @torch.no_grad
    def infer(input: Tensor) -> Results:
        return Results(*function(input))

    def train(input: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(input)[0], leaves, cotangent)

    return Built(infer, train, load=partial(stored, memory_format=memory_format), memory_format=memory_format)
