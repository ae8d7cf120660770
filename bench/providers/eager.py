"""A ConvLSTM as one writes it well in eager PyTorch, around ATen's fused LSTM cell too, and both under `torch.compile`.

Everything is stored in one memory format; which of the two is faster depends on the machine and the size of the kernel.

The compiler unrolls all steps of all layers: compiling takes long, and starts again for another number of steps. It
makes no CUDA graphs of its own: all providers are captured in the same way. On a CPU it chooses channels last itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import Parameters, Problem

from .protocol import Built, Provider, Stack, State, of_stack

Cell = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def layer(
    frames: Sequence[Tensor], parameters: Parameters, memory_format: torch.memory_format
) -> tuple[list[Tensor], State]:
    """T images (B, Cin, H, W), stored in that format → T of (B, C, H, W) and the last (h, c), stored likewise."""
    weight, bias, peephole = parameters
    batch, _, height, width = frames[0].shape
    padding = tuple(size // 2 for size in weight.shape[2:])
    shape = batch, weight.shape[0] // 4, height, width
    h = torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=memory_format).zero_()
    c = torch.zeros_like(h)
    output = []
    for x in frames:
        a_i, a_f, a_g, a_o = F.conv2d(torch.cat([x, h], 1), weight, bias, padding=padding).chunk(4, 1)
        if peephole is not None:
            w_ci, w_cf, w_co = peephole.unbind()
            a_i, a_f = torch.addcmul(a_i, w_ci, c), torch.addcmul(a_f, w_cf, c)
        c = torch.addcmul(torch.sigmoid(a_f) * c, torch.sigmoid(a_i), torch.tanh(a_g))
        if peephole is not None:
            a_o = torch.addcmul(a_o, w_co, c)
        h = torch.sigmoid(a_o) * torch.tanh(c)
        output.append(h)
    return output, (h, c)


def stack(
    input: Tensor, layers: tuple[Parameters, ...], memory_format: torch.memory_format = torch.channels_last
) -> tuple[Tensor, list[State]]:
    """The gradient of `unbind` is one stack, and between layers the steps stay a list."""
    frames, states = input.unbind(), []
    for parameters in layers:
        frames, state = layer(frames, parameters, memory_format)
        states.append(state)
    return torch.stack(list(frames)), states


def _rows(image: Tensor) -> Tensor:
    """(B, C, H, W), stored channels last, as (B·H·W, C)."""
    return image.movedim(1, -1).flatten(0, 2)


def _fused_layer(cell: Cell, input: Tensor, parameters: Parameters) -> tuple[Tensor, State]:
    """The cell adds two pre-activations, so that the input's convolution runs for all steps at once."""
    weight, bias, _ = parameters
    steps, batch, in_channels, height, width = input.shape
    channels = weight.shape[0] // 4
    padding = tuple(size // 2 for size in weight.shape[2:])
    of_input, of_hidden = (
        part.contiguous(memory_format=torch.channels_last) for part in weight.split([in_channels, channels], 1)
    )
    preact = F.conv2d(input.flatten(0, 1), of_input, padding=padding).unflatten(0, (steps, batch))
    h = weight.new_zeros(batch, height, width, channels).movedim(-1, 1)
    c, no_bias, output = _rows(torch.zeros_like(h)), torch.zeros_like(bias), []
    for from_input in preact.unbind():
        h, c, *_ = cell(_rows(from_input), _rows(F.conv2d(h, of_hidden, padding=padding)), c, bias, no_bias)
        h = h.unflatten(0, (batch, height, width)).movedim(-1, 1)
        output.append(h)
    return torch.stack(output), (h, c.unflatten(0, (batch, height, width)).movedim(-1, 1))


def fused_stack(cell: Cell, input: Tensor, layers: tuple[Parameters, ...]) -> tuple[Tensor, list[State]]:
    output, states = input, []
    for parameters in layers:
        output, state = _fused_layer(cell, output, parameters)
        states.append(state)
    return output, states


def build(memory_format: torch.memory_format, problem: Problem) -> Built:
    return of_stack(partial(stack, memory_format=memory_format), problem, memory_format)


def build_fused(problem: Problem, cell: Cell = torch.ops.aten._thnn_fused_lstm_cell) -> Built:
    return of_stack(partial(fused_stack, cell), problem)


def disable_compiler_caches() -> None:
    """Code cached on the disk by an earlier run would hide the time to compile."""
    from torch._inductor import config  # takes a second

    config.force_disable_caches = True


def build_compiled(stack: Stack, mode: str | None, problem: Problem) -> Built:
    disable_compiler_caches()
    return of_stack(torch.compile(stack, fullgraph=True, dynamic=False, mode=mode), problem)


def _why_no_fused_cell(device: torch.device) -> str | None:
    return None if device.type == "cuda" else "ATen's fused LSTM cell needs CUDA"


def _compiled(provider: Provider, stack: Stack, name: str) -> list[Provider]:
    """A provider under the compiler, in its default mode and with autotuning."""
    modes = ("", None), (" max-autotune", "max-autotune-no-cudagraphs")
    return [
        replace(provider, name=f"torch.compile{label}{name}", build=partial(build_compiled, stack, mode), compiles=True)
        for label, mode in modes
    ]


EAGER = Provider("eager", partial(build, torch.channels_last))
EAGER_CONTIGUOUS = Provider("eager, contiguous", partial(build, torch.contiguous_format))
FUSED_CELL = Provider("eager, fused cell", build_fused, _why_no_fused_cell, peephole=False)
COMPILED, MAX_AUTOTUNE = _compiled(EAGER, stack, "")
COMPILED_FUSED_CELL, MAX_AUTOTUNE_FUSED_CELL = _compiled(
    FUSED_CELL, partial(fused_stack, torch.ops.aten._thnn_fused_lstm_cell), ", fused cell"
)
