"""Whether the kernels compute the right numbers: against the float64 oracle, with PyTorch's own error as the budget.

A result may be at most FACTOR times as far from the oracle as plain PyTorch in that dtype, plus a floor of a few
roundings of the largest value.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .. import reference
from ..core.dtypes import cell_dtype
from ..functional import conv_lstm
from .launches import DTYPES

FACTOR = 2.0
FLOOR = {"fp32": 2.0**-20, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Relative to the largest value of the oracle: one rounding of a half type, 16 of float32."""

_ELEMENTS = 16384
"""Elements of a step at least: four of the largest tiles that are searched, the last of them not full."""

_DRAWS = 3
"""Problems whose largest error of PyTorch's makes the budget, which would else depend on chance."""

_NAMES = ("output", "h_n", "c_n", *(f"grad of {name}" for name in ("input", "h0", "c0", "weight", "bias", "peephole")))


def disagreement(
    dtype: str, channels: int, device: str, *, in_channels: int = 8, kernel: int = 3, schedule: str = "concat"
) -> str:
    """The first result of a layer, forward or backward, that is outside its budget, and by how much; "" if none is.

    The kernels run with whatever configurations are in use.
    """
    with _full_precision():
        oracle, budgets, problem = _expected(dtype, channels, in_channels, kernel, device)
        results = _solve(problem, device, lambda *leaves: _layer(*leaves, schedule=schedule))
    for name, got in zip(_NAMES, results, strict=True):
        error = (got.double().cpu() - oracle[name]).abs().max().item()
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
            error = FACTOR * (got.double().cpu() - wanted).abs().max() + FLOOR[dtype] * wanted.abs().max()
            budgets[name] = max(budgets[name], error.item())
    return dict(zip(_NAMES, oracle, strict=True)), budgets, problem


def _problem(dtype: torch.dtype, channels: int, in_channels: int, kernel: int, seed: int) -> list[Tensor]:
    """input, h0, c0, weight, bias and peephole, then cotangents of output, h_n and c_n."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, dtype: torch.dtype = dtype, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    steps, batch, side = 2, 2, 3
    while batch * side * (side + 2) * channels < _ELEMENTS:
        side += 2
    state, cell = (batch, channels, side, side + 2), cell_dtype(dtype)
    columns = in_channels + channels
    return [
        normal(steps, batch, in_channels, *state[2:]),
        normal(*state, scale=0.5),
        normal(*state, dtype=cell),
        normal(4 * channels, columns, kernel, kernel, scale=(columns * kernel**2) ** -0.5),
        normal(4 * channels, scale=0.5),
        normal(3, channels, 1, 1, scale=0.5),
        normal(steps, *state),
        normal(*state),
        normal(*state, dtype=cell),
    ]


def _solve(problem: list[Tensor], device: str, run) -> list[Tensor]:
    """The three results of `run` and the gradients of its six arguments."""
    tensors = [tensor.to(device) for tensor in problem]
    leaves = [tensor.detach().requires_grad_() for tensor in tensors[:6]]
    results = run(*leaves)
    return [*(result.detach() for result in results), *torch.autograd.grad(results, leaves, tensors[6:])]


@contextmanager
def _full_precision() -> Iterator[None]:
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
