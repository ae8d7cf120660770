"""The floating-point operations of the operators, for `torch.utils.flop_counter.FlopCounterMode`.

As PyTorch's formulas, they count the convolutions (for vectors, the matrix products) alone, each multiplication and
each addition as one: what the equations need, whatever algorithm computes it and however rows are padded.
"""

import math
import sys
from types import ModuleType

import torch

from ..core.arguments import Arguments
from ..core.spec import Spec
from .sequence import split_backward

_COUNTER = "torch.utils.flop_counter"


def forward_flops(*args: object, **_: object) -> int:
    """Of the operators for inference and training, with marks or without, from the shapes in place of the tensors."""
    *shapes, steps, _spec = args
    arguments = Arguments(*shapes)
    of_input, of_hidden = _per_step(arguments)
    return steps * (of_input + of_hidden)


def backward_flops(*args: object, **_: object) -> int:
    """Of the backward operators: the gradients that are needed and, with memory="recompute", the forward pass.

    dH_{t-1} is needed at every step but the first, whose hidden state is h0 or that of the reset state.
    """
    _grads, arguments, _saved, steps, spec, needs = split_backward(args)
    needs = Arguments(*needs)
    of_input, of_hidden = _per_step(arguments)
    flops = of_hidden * (steps - 1 + bool(needs.h0 or needs.reset_h))
    if needs.input:
        flops += of_input * steps
    if arguments.input_weight is None:
        flops += (of_input + of_hidden) * steps * needs.weight
    else:
        flops += of_input * steps * needs.input_weight + of_hidden * steps * needs.weight
    if Spec.decode(spec).recomputes:
        flops += (of_input + of_hidden) * steps
    return flops


def _per_step(arguments: Arguments) -> tuple[int, int]:
    """The operations of one step over the input and over the hidden state, from the shapes of the arguments."""
    weight, input_weight = arguments.weight, arguments.input_weight
    batch, _, *spatial = arguments.h0 or arguments.input[1:]
    gates, columns, *kernel = weight
    channels = gates // 4
    of_input = gates * (columns - channels) * math.prod(kernel) if input_weight is None else math.prod(input_weight)
    pixels = batch * math.prod(spatial)
    return 2 * pixels * of_input, 2 * pixels * gates * channels * math.prod(kernel)


def gates_flops(*args: object, **_: object) -> int:
    """Of the operators of a step's gates: pointwise, which PyTorch's counter does not count."""
    return 0


FORMULAS = {
    "inference": forward_flops,
    "training": forward_flops,
    "backward": backward_flops,
    "marked_inference": forward_flops,
    "marked_training": forward_flops,
    "marked_backward": backward_flops,
    "gates_inference": gates_flops,
    "gates_training": gates_flops,
    "gates_backward": gates_flops,
}


def register_when_counted() -> None:
    """Register the formulas now if PyTorch's counter is imported, else as soon as it is: its import loads Triton."""
    if _COUNTER in sys.modules:
        _register(sys.modules[_COUNTER])
    else:
        sys.meta_path.insert(0, _AfterImport())


def _register(counter: ModuleType) -> None:
    for name, formula in FORMULAS.items():
        operator = getattr(torch.ops.tritonlstm, name)
        counter.flop_registry.pop(operator, None)  # of an earlier import of this package
        counter.register_flop_formula(operator)(formula)


class _AfterImport:
    """A finder of `sys.meta_path` that registers the formulas once the counter's own loader has run."""

    def find_spec(self, name: str, path: object = None, target: object = None):
        if name != _COUNTER:
            return None
        # Those behind it, among which may be one of an earlier import of this package.
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _register(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)

        spec.loader.exec_module = exec_module
        return spec
