"""What a layer must compute, move and launch, by formula; and how long that takes at given ceilings.

    python -m bench.roofline [case …] [--dtype bf16] [--tflops 798] [--terabytes 3.0] [--launch 2.0]

A model of the kernels' path on a GPU, one layer after another from a zero state, with the gradients of the parameters
and, between layers, of their inputs. Every tensor is read or written once for each launch; a launch takes the longer of
its two times, and the gap before the next. Symbols as in kernels/DERIVATION.md: M = B·H·W rows, N = 4C.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tritonlstm.core import output
from tritonlstm.core.layout import GPU_MULTIPLE
from tritonlstm.engines.chunks import chunk_length
from tritonlstm.engines.concat import RING_STEPS
from tritonlstm.engines.hoisted import part_length
from tritonlstm.tuning.cases import CASES, Case
from tritonlstm.tuning.launches import DTYPES

CELL_BYTES = 4  # c is float32


@dataclass(frozen=True)
class Mode:
    """How a layer runs."""

    training: bool = True
    hoisted: bool = False
    recompute: bool = False

    def __str__(self) -> str:
        schedule = "hoisted" if self.hoisted else "concat"
        if not self.training:
            return f"inference, {schedule}"
        return f"training, {schedule}, {'recompute' if self.recompute else 'save'}"


MODES = [
    Mode(training=False),
    Mode(training=False, hoisted=True),
    Mode(),
    Mode(recompute=True),
    Mode(hoisted=True),
    Mode(hoisted=True, recompute=True),
]


@dataclass(frozen=True)
class Kernel:
    """Launches of one kind over the whole sequence: how many, and for each its FLOPs and its bytes read and written."""

    name: str
    count: int
    flops: float
    nbytes: float


CONVOLUTIONS = ("convolution", "data_grad", "weight_grad")


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
    def padded(self) -> int:
        """Channels of a row [X | 0 | H | 0]."""
        return _round_up(self.padded_input + self.channels)

    @property
    def padded_input(self) -> int:
        return _round_up(self.in_channels)

    def step_bytes(self, channels: float) -> float:
        """Bytes of one step's rows with this many channels."""
        return self.rows * channels * self.itemsize

    @property
    def cell_bytes(self) -> int:
        """Bytes of one step's c."""
        return self.rows * self.channels * CELL_BYTES

    def saved_bytes(self, mode: Mode) -> float:
        """What training keeps beside input and output: c and the gates."""
        per_step = 0 if mode.recompute else 4 * self.channels
        return self.steps * self.step_bytes(per_step) + (self.steps + 1) * self.cell_bytes

    def chunk(self, mode: Mode) -> int:
        """Steps whose dA, and the rows packed for it, are kept at once."""
        held = self.saved_bytes(mode) + self.steps * self.step_bytes(self.channels)
        kept = 4 * self.channels + (self.padded_input if mode.hoisted else self.padded)
        return chunk_length(self.steps, held, self.step_bytes(kept))

    def convolution(self, count: int, steps: float, k: float, n: float, name: str = "convolution") -> Kernel:
        """`count` convolutions over the rows of `steps` steps each, from k to n channels."""
        weight = k * n * self.kernel**2
        nbytes = steps * self.step_bytes(k + n) + weight * self.itemsize
        return Kernel(name, count, 2 * steps * self.rows * weight, nbytes)

    def copy(self, count: int, steps: float, channels: int) -> Kernel:
        return Kernel("copy", count, 0, 2 * steps * self.step_bytes(channels))

    def fill(self, count: int, steps: float, channels: int) -> Iterator[Kernel]:
        """Zeros in the padding of rows, if they have any."""
        if channels:
            yield Kernel("fill", count, 0, steps * self.step_bytes(channels))


def _round_up(channels: int) -> int:
    return -(-channels // GPU_MULTIPLE) * GPU_MULTIPLE


def layers(case: Case, dtype: torch.dtype) -> list[Layer]:
    """The layers of a stack; the first one's input does not learn."""
    sizes = (case.steps, case.batch, case.height, case.width)
    return [
        Layer(*sizes, in_channels, channels, case.kernel, dtype.itemsize, input_learns=index > 0)
        for index, (in_channels, channels) in enumerate(case.layers)
    ]


def kernels(layer: Layer, mode: Mode) -> list[Kernel]:
    """All launches of a layer over a sequence, without those whose number and bytes are a weight's or one step's."""
    forward = [*_forward_convolutions(layer, mode), *_forward_gates(layer, mode)]
    return [*forward, *_backward(layer, mode)] if mode.training else forward


def _forward_convolutions(layer: Layer, mode: Mode) -> Iterator[Kernel]:
    steps, gates = layer.steps, 4 * layer.channels
    if not mode.hoisted:
        yield layer.convolution(steps, 1, layer.padded, gates)
        parts = math.ceil(steps / min(steps, RING_STEPS))
        yield layer.copy(parts, steps / parts, layer.in_channels)
        return
    parts = math.ceil(steps / part_length(steps))
    yield layer.convolution(parts, steps / parts, layer.padded_input, gates)
    yield layer.convolution(steps - 1, 1, layer.channels, gates)  # none of a zero state
    if layer.padded_input != layer.in_channels:
        yield layer.copy(parts, steps / parts, layer.in_channels)
        yield from layer.fill(parts, steps / parts, layer.padded_input - layer.in_channels)


def _forward_gates(layer: Layer, mode: Mode) -> Iterator[Kernel]:
    """Reads preact, addend, c_prev, bias and peepholes; writes c, h, h where the next step reads it, and gates."""
    channels, steps = layer.channels, layer.steps
    parameters = 7 * channels * layer.itemsize

    def gates(count: int, in_and_out: int, cells: int) -> Kernel:
        nbytes = layer.step_bytes(in_and_out * channels) + cells * layer.cell_bytes + parameters
        return Kernel("gates_forward", count, 0, nbytes)

    usual = 4 + (4 if mode.training and not mode.recompute else 0) + 1  # preact, gates, h
    h_next, addend = (0, 4) if mode.hoisted else (1, 0)
    if steps == 1:
        yield gates(1, usual + 1, 2)
        return
    yield gates(1, usual + h_next, 2)
    yield gates(steps - 2, usual + h_next + addend, 2)
    yield gates(1, usual + 1 + addend, 2)  # the last h is the final state too


def _backward(layer: Layer, mode: Mode) -> Iterator[Kernel]:
    channels, steps, gates, learns = layer.channels, layer.steps, 4 * layer.channels, layer.input_learns
    chunk = layer.chunk(mode)
    chunks = math.ceil(steps / chunk)
    together = steps / chunks
    behind_hidden = layer.padded - layer.padded_input - channels

    parameters = (3 + (4 if mode.recompute else 0)) * channels * layer.itemsize
    nbytes = layer.step_bytes(2 * gates + 2 * channels) + 3 * layer.cell_bytes + parameters
    yield Kernel("gates_backward", steps, 0, nbytes)
    # A zero state has no part in the first step, which may be a chunk of its own: (count, steps, channels).
    count = chunks - 1 if chunk == 1 else chunks
    of_hidden = [(count, (steps - 1) / count, channels)] if count else []
    of_input = (chunks, together, layer.in_channels)
    # What each chunk convolves, with the whole weight or with its two parts, and what it packs for that.
    behind_input = layer.padded_input - layer.in_channels
    if mode.hoisted:
        parts, paddings = [(chunks, together, layer.padded_input), *of_hidden], [behind_input]
        packed = [of_input] if behind_input else []
    else:
        parts, paddings = [(chunks, together, layer.padded)], [behind_input, behind_hidden]
        packed = [of_input, *of_hidden]
    times = 2 if mode.recompute and not mode.hoisted else 1  # for the gates and for the weight's gradient
    for count, length, width in packed:
        yield layer.copy(times * count, length, width)
    for padding in paddings:
        yield from layer.fill(times * chunks, together, padding)
    if mode.recompute:
        for part in parts:
            yield layer.convolution(*part, gates)
        for count, length, _ in parts[1:]:
            yield Kernel("add", count, 0, length * layer.step_bytes(3 * gates))

    if mode.hoisted:
        yield layer.convolution(steps - 1, 1, gates, channels, name="data_grad")
        if learns:
            yield layer.convolution(chunks, together, gates, layer.padded_input, name="data_grad")
            yield layer.copy(chunks, together, layer.in_channels)
    else:
        width = layer.padded if learns else channels + behind_hidden
        yield layer.convolution(steps if learns else steps - 1, 1, gates, width, name="data_grad")
        if learns:
            yield layer.copy(steps, 1, layer.in_channels)
    for part in parts:
        yield layer.convolution(*part, gates, name="weight_grad")
    yield Kernel("parameter_grads", chunks, 0, together * (layer.step_bytes(gates) + 2 * layer.cell_bytes))


@dataclass(frozen=True)
class Ceilings:
    flops: float = 798e12  # FLOP/s of the convolutions
    bandwidth: float = 3.0e12  # bytes/s of memory
    gap: float = 2e-6  # seconds between two kernels of a graph


@dataclass(frozen=True)
class Estimate:
    """Of a whole stack over one sequence."""

    flops: float
    nbytes: float
    launches_per_step: float  # of each layer, on average
    saved_bytes: float
    seconds: float
    conv_seconds: float


def estimate(case: Case, dtype: torch.dtype, mode: Mode, ceilings: Ceilings) -> Estimate:
    """The sum over all launches of all layers."""
    stack = layers(case, dtype)
    launches = [kernel for layer in stack for kernel in kernels(layer, mode)]

    def seconds(chosen: Sequence[Kernel]) -> float:
        works = (max(kernel.flops / ceilings.flops, kernel.nbytes / ceilings.bandwidth) for kernel in chosen)
        return sum(kernel.count * (work + ceilings.gap) for kernel, work in zip(chosen, works))

    return Estimate(
        flops=sum(kernel.count * kernel.flops for kernel in launches),
        nbytes=sum(kernel.count * kernel.nbytes for kernel in launches),
        launches_per_step=sum(kernel.count for kernel in launches) / (case.steps * len(stack)),
        saved_bytes=sum(layer.saved_bytes(mode) for layer in stack) if mode.training else 0,
        seconds=seconds(launches),
        conv_seconds=seconds([kernel for kernel in launches if kernel.name in CONVOLUTIONS]),
    )


def main() -> None:
    output.make_robust()
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", help=f"of {', '.join(CASES)}; all if none is named")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--tflops", type=float, default=798, help="of a large matrix product (%(default)s: H100, bf16)")
    parser.add_argument("--terabytes", type=float, default=3.0, help="a second, of a large copy (%(default)s: H100)")
    parser.add_argument("--launch", type=float, default=2.0, help="µs between two kernels of a graph (%(default)s)")
    options = parser.parse_args()
    unknown = [name for name in options.case if name not in CASES]
    if unknown:
        parser.error(f"case: expected some of {', '.join(CASES)}, got {', '.join(unknown)}")
    ceilings = Ceilings(options.tflops * 1e12, options.terabytes * 1e12, options.launch * 1e-6)

    print("a model, not a measurement")
    columns = f"{'GFLOP':>8} {'GB moved':>9} {'launches/step':>14} {'GB saved':>9} {'ms':>8} {'× conv':>7}"
    print(f"{'case':12} {'mode':32} {columns}")
    for name in options.case or CASES:
        for mode in MODES:
            result = estimate(CASES[name], DTYPES[options.dtype], mode, ceilings)
            print(
                f"{name:12} {mode!s:32} {result.flops / 1e9:8.0f} {result.nbytes / 1e9:9.2f}"
                f" {result.launches_per_step:14.2f} {result.saved_bytes / 1e9:9.3f} {1e3 * result.seconds:8.2f}"
                f" {result.seconds / result.conv_seconds:7.2f}"
            )


if __name__ == "__main__":
    main()
