"""What a layer must compute, move and launch, by formula.

A model of the kernels' path on a GPU, one layer after another from a zero state, with the gradients of the parameters
and, between layers, of their inputs. Every tensor is read or written once for each launch. Symbols as in
kernels/DERIVATION.md: M = B·H·W rows, N = 4C.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from tritonlstm.core.layout import GPU_MULTIPLE
from tritonlstm.engines.chunks import chunk_length
from tritonlstm.engines.concat import RING_STEPS
from tritonlstm.engines.hoisted import part_length
from tritonlstm.tuning.cases import Case

CELL_BYTES = 4  # c is float32


class Mode(NamedTuple):
    """How a layer runs."""

    training: bool = True
    hoisted: bool = False
    recompute: bool = False

    def __str__(self) -> str:
        schedule = "hoisted" if self.hoisted else "concat"
        memory = ", recompute" if self.recompute else ", save"
        return f"training, {schedule}{memory}" if self.training else f"inference, {schedule}"


MODES = [
    Mode(training=False),
    Mode(training=False, hoisted=True),
    Mode(),
    Mode(recompute=True),
    Mode(hoisted=True),
    Mode(hoisted=True, recompute=True),
]


class Work(NamedTuple):
    """Launches of one kind over the whole sequence: how many, and together their FLOPs and bytes read and written."""

    name: str
    launches: int
    flops: float
    nbytes: float


@dataclass(frozen=True)
class Layer:
    """One layer's sizes."""

    steps: int
    batch: int
    height: int
    width: int
    in_channels: int
    channels: int
    kernel: int
    itemsize: int  # bytes of its dtype
    input_learns: bool  # whether dX is wanted

    @property
    def rows(self) -> int:
        """M."""
        return self.batch * self.height * self.width

    @property
    def padded_input(self) -> int:
        return _round_up(self.in_channels)

    @property
    def padded(self) -> int:
        """Channels of a row [X | 0 | H | 0]."""
        return _round_up(self.padded_input + self.channels)

    def step_bytes(self, channels: int) -> int:
        """Bytes of one step's rows with this many channels."""
        return self.rows * channels * self.itemsize

    @property
    def cell_bytes(self) -> int:
        """Bytes of one step's c."""
        return self.rows * self.channels * CELL_BYTES

    def saved_bytes(self, mode: Mode) -> int:
        """What training keeps beside input and output: c and the gates."""
        gates = 0 if mode.recompute else self.steps * self.step_bytes(4 * self.channels)
        return gates + (self.steps + 1) * self.cell_bytes

    def chunks(self, mode: Mode) -> tuple[int, int]:
        """The number of chunks, and of those with a hidden state.

        A zero state has no part in the first step, which may be a chunk of its own.
        """
        held = self.saved_bytes(mode) + self.steps * self.step_bytes(self.channels)
        packed = self.padded_input if mode.hoisted else self.padded
        kept = 4 * self.channels + packed  # of dA, and of the rows for the weight's gradient
        length = chunk_length(self.steps, held, self.step_bytes(kept))
        count = math.ceil(self.steps / length)
        return count, count - 1 if length == 1 else count

    def convolution(self, launches: int, steps: int, k: int, n: int, name: str = "convolution") -> Work:
        """Convolutions over the rows of `steps` steps in all, from k to n channels."""
        weight = k * n * self.kernel**2
        nbytes = steps * self.step_bytes(k + n) + launches * weight * self.itemsize
        return Work(name, launches, 2 * steps * self.rows * weight, nbytes)

    def copy(self, launches: int, steps: int, channels: int) -> Work:
        return Work("copy", launches, 0, 2 * steps * self.step_bytes(channels))

    def fill(self, launches: int, channels: int) -> Work:
        """Zeros in the padding of the rows of all steps; no launch where there is none."""
        return Work("fill", launches if channels else 0, 0, self.steps * self.step_bytes(channels))


def _round_up(channels: int) -> int:
    return -(-channels // GPU_MULTIPLE) * GPU_MULTIPLE


def layers(case: Case, dtype: torch.dtype) -> list[Layer]:
    """The layers of a stack; the first one's input does not learn."""
    sizes = (case.steps, case.batch, case.height, case.width)
    return [
        Layer(*sizes, in_channels, channels, case.kernel, dtype.itemsize, input_learns=index > 0)
        for index, (in_channels, channels) in enumerate(case.layers)
    ]


def works(layer: Layer, mode: Mode) -> list[Work]:
    """All launches of a layer over a sequence, without those whose number and bytes are a weight's or one step's."""
    found = [*_forward(layer, mode), *(_backward(layer, mode) if mode.training else ())]
    return [work for work in found if work.launches]


def _forward(layer: Layer, mode: Mode) -> Iterator[Work]:
    steps, channels, n = layer.steps, layer.channels, 4 * layer.channels
    if mode.hoisted:
        parts, padding = math.ceil(steps / part_length(steps)), layer.padded_input - layer.in_channels
        yield layer.convolution(parts, steps, layer.padded_input, n)
        yield layer.convolution(steps - 1, steps - 1, channels, n)  # none of a zero state
        yield layer.copy(parts if padding else 0, steps, layer.in_channels)
        yield layer.fill(parts, padding)
    else:
        yield layer.convolution(steps, steps, layer.padded, n)
        yield layer.copy(math.ceil(steps / min(steps, RING_STEPS)), steps, layer.in_channels)
    # Every step has preact and h, and its gates if they are saved; every step but the first the addend, every step but
    # the last h where the next one reads it. The last h is the final state too.
    every = 4 + 1 + (4 if mode.training and not mode.recompute else 0)
    numbers = steps * every + (steps - 1) * (4 if mode.hoisted else 1) + 1
    parameters = 7 * channels * layer.itemsize
    nbytes = layer.step_bytes(numbers * channels) + steps * (2 * layer.cell_bytes + parameters)
    yield Work("gates_forward", steps, 0, nbytes)


def _backward(layer: Layer, mode: Mode) -> Iterator[Work]:
    steps, channels, n, learns = layer.steps, layer.channels, 4 * layer.channels, layer.input_learns
    chunks, of_hidden = layer.chunks(mode)
    behind_input, behind_hidden = layer.padded_input - layer.in_channels, layer.padded - layer.padded_input - channels

    # Gates, two parts of dH, and dA; dC is read and written.
    parameters = (3 + (4 if mode.recompute else 0)) * channels * layer.itemsize
    nbytes = layer.step_bytes(2 * n + 2 * channels) + 3 * layer.cell_bytes + parameters
    yield Work("gates_backward", steps, 0, steps * nbytes)

    # What a chunk convolves, with the whole weight or with its two parts, and what it packs for that: for the gradient
    # of the weight and, unless the schedule is "hoisted", once more for the recomputed gates.
    hidden = of_hidden, steps - 1, channels
    if mode.hoisted:
        parts = [(chunks, steps, layer.padded_input), hidden]
        yield layer.copy(chunks if behind_input else 0, steps, layer.in_channels)
        yield layer.fill(chunks, behind_input)
    else:
        parts = [(chunks, steps, layer.padded)]
        for _ in range(2 if mode.recompute else 1):
            yield layer.copy(chunks, steps, layer.in_channels)
            yield layer.copy(*hidden)
            yield layer.fill(chunks, behind_input)
            yield layer.fill(chunks, behind_hidden)
    for part in parts:
        yield layer.convolution(*part, n, name="weight_grad")
        if mode.recompute:
            yield layer.convolution(*part, n)
    if mode.recompute and mode.hoisted:
        yield Work("add", of_hidden, 0, (steps - 1) * layer.step_bytes(3 * n))

    if mode.hoisted:
        yield layer.convolution(steps - 1, steps - 1, n, channels, name="data_grad")
        if learns:
            yield layer.convolution(chunks, steps, n, layer.padded_input, name="data_grad")
            yield layer.copy(chunks, steps, layer.in_channels)
    elif learns:
        yield layer.convolution(steps, steps, n, layer.padded, name="data_grad")
        yield layer.copy(steps, steps, layer.in_channels)
    else:
        yield layer.convolution(steps - 1, steps - 1, n, channels + behind_hidden, name="data_grad")
    yield Work("parameter_grads", chunks, 0, steps * (layer.step_bytes(n) + 2 * layer.cell_bytes))
