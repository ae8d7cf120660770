"""Whether the kernels compute the right numbers: against the float64 oracle, within the table of tolerances."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .. import reference
from ..core.dtypes import cell_dtype
from ..functional import conv_lstm
from .launches import DTYPES
from .random_layers import normal, random_layer
from .tolerances import budget, largest_error

_ELEMENTS = 16384
"""Elements of a step at least: four of the largest tiles that are searched, the last of them not full."""

_DRAWS = 3
"""The budget is the largest of this many random problems: that of a single one depends on chance."""

_NAMES = ("output", "h_n", "c_n", *(f"grad of {name}" for name in ("input", "h0", "c0", "weight", "bias", "peephole")))


def disagreement(
    dtype: str, channels: int, device: str, *, in_channels: int = 8, kernel: int = 3, schedule: str = "concat"
) -> str:
    """The first result of a layer, forward or backward, that is outside its budget, and by how much; "" if none is.

    The kernels run with whatever configurations are in use.
    """
    with full_precision():
        oracle, budgets, problem = _expected(dtype, channels, in_channels, kernel, device)
        results = _solve(problem, device, lambda *leaves: _layer(*leaves, schedule=schedule))
    for name, got in zip(_NAMES, results, strict=True):
        error = largest_error(got, oracle[name])
        if not error <= budgets[name]:  # so that NaN fails
            return f"{name}: error {error:.1e}, at most {budgets[name]:.1e}"
    return ""


def _layer(input: Tensor, h0: Tensor, c0: Tensor, *parameters: Tensor, schedule: str) -> tuple[Tensor, Tensor, Tensor]:
    output, (h_n, c_n) = conv_lstm(input, (h0, c0), *parameters, backend="triton", schedule=schedule)
    return output, h_n, c_n


@functools.cache
def _expected(
    dtype: str, channels: int, in_channels: int, kernel: int, device: str
) -> tuple[dict[str, Tensor], dict[str, float], list[Tensor]]:
    """The oracle's results for a problem, their budgets, and the problem."""
    budgets = dict.fromkeys(_NAMES, 0.0)
    for seed in reversed(range(_DRAWS)):
        problem = _problem(DTYPES[dtype], channels, in_channels, kernel, seed)
        oracle = _solve([tensor.double() for tensor in problem], "cpu", reference.sequence)
        plain = _solve(problem, device, reference.sequence)
        for name, wanted, got in zip(_NAMES, oracle, plain, strict=True):
            budgets[name] = max(budgets[name], budget(got, wanted, DTYPES[dtype]))
    return dict(zip(_NAMES, oracle, strict=True)), budgets, problem


def _problem(dtype: torch.dtype, channels: int, in_channels: int, kernel: int, seed: int) -> list[Tensor]:
    """input, h0, c0, weight, bias and peephole, then cotangents of output, h_n and c_n."""
    generator = torch.Generator().manual_seed(seed)
    draw = functools.partial(normal, generator, dtype=dtype)
    steps, batch, side = 2, 2, 3
    while batch * side * (side + 2) * channels < _ELEMENTS:
        side += 2
    state, cell = (batch, channels, side, side + 2), cell_dtype(dtype)
    arguments = [
        draw(steps, batch, in_channels, *state[2:]),
        draw(*state, scale=0.5),
        draw(*state, dtype=cell),
    ]
    weight, _, bias, peephole = random_layer(generator, dtype, in_channels, channels, (kernel, kernel))
    return [*arguments, weight, bias, peephole, draw(steps, *state), draw(*state), draw(*state, dtype=cell)]


def _solve(problem: list[Tensor], device: str, run) -> list[Tensor]:
    """The three results of `run` and the gradients of its six arguments."""
    tensors = [tensor.to(device) for tensor in problem]
    leaves = [tensor.detach().requires_grad_() for tensor in tensors[:6]]
    results = run(*leaves)
    return [*(result.detach() for result in results), *torch.autograd.grad(results, leaves, tensors[6:])]


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 is float32: TF32, cuDNN's default, would hide a kernel's error in PyTorch's own."""
    settings = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        for setting, precision in zip(settings, before):
            setting.fp32_precision = precision
