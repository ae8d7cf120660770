"""Layers that torch runs: this package's, eager ones, around ATen's fused LSTM cell too, and both compiled.

An eager layer stores everything in one memory format; which of the two is faster depends on the machine and the size
of the kernel.

The compiler unrolls all steps of all layers: compiling takes long, and starts again for another number of steps. It
makes no CUDA graphs of its own: all providers are captured in the same way. On a CPU it chooses channels last itself.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import Parameters, Problem, flat, stored
from tritonlstm import ConvLSTM2d

from .protocol import Built, State, of_function

Frames = Tensor | list[Tensor]
"""T images (B, C, H, W)."""

Layer = Callable[[Frames, Parameters], tuple[Frames, State]]
"""Images and parameters → images and the last (h, c)."""

Stack = Callable[[Tensor, tuple[Parameters, ...]], tuple[Tensor, list[State]]]
"""Input (T, B, Cin, H, W) and parameters → output (T, B, C, H, W) and the last (h, c) of each layer."""

Cell = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def our_layer(problem: Problem, **options: str) -> ConvLSTM2d:
    case = problem.case
    layer = ConvLSTM2d(
        case.in_channels,
        list(case.channels),
        case.kernel,
        peephole="channel" if "peephole" in problem.layers[0] else "none",
        device=problem.input.device,
        dtype=problem.input.dtype,
        **options,
    )
    for cell, parameters in zip(layer.layers, problem.layers, strict=True):
        cell.load_state_dict(parameters)
    return layer.to(memory_format=torch.channels_last)


def build_ours(
    problem: Problem,
    *,
    compiled: bool = False,
    memory_format: torch.memory_format = torch.channels_last,
    **options: str,
) -> Built:
    """Our layer, which computes in channels last. Its input and output gradient come in `memory_format`."""
    layer = our_layer(problem, **options)
    if compiled:
        disable_compiler_caches()
    built = of_function(torch.compile(layer, fullgraph=True) if compiled else layer, list(layer.parameters()))
    return replace(built, load=partial(stored, memory_format=memory_format))


def build(stack: Stack, problem: Problem, memory_format: torch.memory_format = torch.channels_last) -> Built:
    layers = problem.leaves(memory_format)
    return of_function(lambda input: stack(input, layers), flat(layers), memory_format)


def disable_compiler_caches() -> None:
    """Code cached on the disk by an earlier run would hide the time to compile."""
    from torch._inductor import config  # takes a second

    config.force_disable_caches = True


def build_compiled(stack: Stack, mode: str | None, problem: Problem) -> Built:
    disable_compiler_caches()
    return build(torch.compile(stack, fullgraph=True, dynamic=False, mode=mode), problem)


def stack_of(layer: Layer, input: Tensor, layers: tuple[Parameters, ...]) -> tuple[Tensor, list[State]]:
    """Layers one after another. Between them the steps may stay a list."""
    output, states = input, []
    for parameters in layers:
        output, state = layer(output, parameters)
        states.append(state)
    return output if isinstance(output, Tensor) else torch.stack(output), states


def zeros(frame: Tensor, weight: Tensor, memory_format: torch.memory_format) -> Tensor:
    """The state (B, C, *spatial) before the first frame."""
    shape = frame.shape[0], weight.shape[0] // 4, *frame.shape[2:]
    return torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=memory_format).zero_()


def eager_gates(preact: Tensor, c: Tensor, peephole: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The gates of a step as one writes them well: (h, c), of images or of vectors."""
    a_i, a_f, a_g, a_o = preact.chunk(4, 1)
    if peephole is not None:
        w_ci, w_cf, w_co = peephole.unbind()
        a_i, a_f = torch.addcmul(a_i, w_ci, c), torch.addcmul(a_f, w_cf, c)
    c = torch.addcmul(torch.sigmoid(a_f) * c, torch.sigmoid(a_i), torch.tanh(a_g))
    if peephole is not None:
        a_o = torch.addcmul(a_o, w_co, c)
    return torch.sigmoid(a_o) * torch.tanh(c), c


def eager_cell(
    x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor, peephole: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One step: (h, c) of images, or of vectors, whose weight is (4C, Cin + C)."""
    both = torch.cat([x, h], 1)
    preact = (
        F.linear(both, weight, bias) if x.dim() == 2 else F.conv2d(both, weight, bias, padding=weight.shape[2] // 2)
    )
    return eager_gates(preact, c, peephole)


def eager_layer(
    frames: Frames, parameters: Parameters, memory_format: torch.memory_format = torch.channels_last
) -> tuple[list[Tensor], State]:
    """A ConvLSTM in plain operations, with all images in that format."""
    h = zeros(frames[0], parameters["weight"], memory_format)
    c, output = torch.zeros_like(h), []
    for x in frames.unbind() if isinstance(frames, Tensor) else frames:  # the gradient of `unbind` is one stack
        h, c = eager_cell(x, h, c, **parameters)
        output.append(h)
    return output, (h, c)


def fused_layer(cell: Cell, input: Tensor, parameters: Parameters) -> tuple[Tensor, State]:
    """The cell adds two pre-activations, so that the input's convolution runs for all steps at once."""
    weight, bias = parameters["weight"], parameters["bias"]
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


def _rows(image: Tensor) -> Tensor:
    """(B, C, H, W), stored channels last, as (B·H·W, C)."""
    return image.movedim(1, -1).flatten(0, 2)


eager = partial(stack_of, eager_layer)
eager_contiguous = partial(stack_of, partial(eager_layer, memory_format=torch.contiguous_format))
fused = partial(stack_of, partial(fused_layer, torch.ops.aten._thnn_fused_lstm_cell))


def why_no_fused_cell(device: torch.device) -> str | None:
    return None if device.type == "cuda" else "ATen's fused LSTM cell needs CUDA"
