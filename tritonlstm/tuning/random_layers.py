"""Random numbers for one layer, drawn in the same way by the tests, the check of a tuning candidate and the benchmarks.

They are drawn in float64 and rounded, so that one seed gives the same problem in every dtype.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Parameters(NamedTuple):
    """One layer's. Without an input weight, `weight` has the columns of input and hidden state; `bias` and `peephole`
    may be None."""

    weight: Tensor  # (4C, Cin + C, *kernel), or (4C, C, *kernel) beside an input weight
    input_weight: Tensor | None  # (4C, Cin, *input_kernel)
    bias: Tensor | None  # (4C)
    peephole: Tensor | None  # (3, C, *peephole)


def normal(generator: torch.Generator, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """Normally distributed numbers on the generator's device."""
    values = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
    return (scale * values).to(dtype)


def random_layer(
    generator: torch.Generator,
    dtype: torch.dtype,
    in_channels: int,
    channels: int,
    kernel: tuple[int, ...],
    *,
    input_kernel: tuple[int, ...] | None = None,
    bias: bool = True,
    peephole: tuple[int, ...] | None = (1, 1),
) -> Parameters:
    """Parameters of a layer. The variance of the weights is 1/fan_in, so that the gates are as far from saturation as
    in a new layer; peepholes, which are zero in a new layer, are random so that an error in them shows."""
    fan_in = in_channels * math.prod(input_kernel or kernel) + channels * math.prod(kernel)
    scale, gates = fan_in**-0.5, 4 * channels
    columns = channels if input_kernel else in_channels + channels
    weight = normal(generator, gates, columns, *kernel, dtype=dtype, scale=scale)
    input_weight = bias_values = peephole_values = None
    if input_kernel:
        input_weight = normal(generator, gates, in_channels, *input_kernel, dtype=dtype, scale=scale)
    if bias:
        bias_values = normal(generator, gates, dtype=dtype, scale=0.5)
    if peephole is not None:
        peephole_values = normal(generator, 3, channels, *peephole, dtype=dtype, scale=0.5)
    return Parameters(weight, input_weight, bias_values, peephole_values)
