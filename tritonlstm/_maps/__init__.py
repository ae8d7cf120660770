"""The linear map of a time step, its adjoint and its weight gradient, over dense rows, in three ways.

Dense is what the layout calls so. A weight is dense (O, *kernel, K); without kernel dimensions the map is a matrix
product (the FC-LSTM), with them a convolution of stride 1 that keeps the image's size, PyTorch's own or, on a CPU where
that is faster, minimal filtering. Each way has a `Map` and a `WeightGrad` with the same methods; `gains_by_steps` says
whether the gradient of many steps at once is faster than step by step.
"""

from types import ModuleType

from torch import Tensor

from .._layout import Layout
from . import convolution, product, winograd

FORWARD_WORKSPACE, BACKWARD_WORKSPACE, RECOMPUTING_WORKSPACE = 12 * 2**20, 4 * 2**20, 3 * 2**20
"""Bytes that a way of computing may spend on speed beyond what it cannot do without. A layer holds most at the start of
its backward pass, and what making the gates again saves is to be seen there: with these, ten steps or more of the twins
of the named cases took 0.83 to 0.96 of the eager ConvLSTM's memory, and 0.41 to 0.54 with gates made again."""

SPEEDUP = 2
"""Minimal filtering over all channels takes about as long as PyTorch's convolution over so many times fewer channels:
in 5×5 maps of 64×32 and 8·16×16 pixels it was 1.7 to 2.4 times as fast, in weight gradients 1.9 to 2.6 times, in 3×3
maps of many channels 1.1 to 1.4 times (two threads of an EPYC of AVX2)."""


def linear_map(layout: Layout, weight: Tensor, bias: Tensor | None = None, *, workspace: int, once: bool = False):
    """rows ↦ W * rows + bias; weight (O, *kernel, K), bias (O). `once`: it is not worth much preparation."""
    return _way(layout, weight, winograd.MAP, once=once).Map(layout, weight, bias, workspace=workspace)


def map_pays_in_part(layout: Layout, weight: Tensor, part: int, whole: int) -> bool:
    """Whether a map of `part` of `whole` channels, made for one step, is faster than that of this weight.

    The other steps of a sequence have this weight's. Where there is no other it must be prepared for one step alone,
    and gains less; yet the choice may not depend on the number of steps, or a sequence had other bits than its parts.
    Of `weight` only shape, dtype and device matter.
    """
    return _pays_in_part(layout, weight, winograd.MAP, part, whole)


def weight_grad_pays_in_part(layout: Layout, weight: Tensor, part: int, whole: int) -> bool:
    """The same of a weight's gradient."""
    return _pays_in_part(layout, weight, winograd.WEIGHT_GRAD, part, whole)


def _pays_in_part(layout: Layout, weight: Tensor, least: dict[int, winograd.Least], part: int, whole: int) -> bool:
    return _way(layout, weight, least) is not winograd or SPEEDUP * part < whole


def prepared_bytes(layout: Layout, weight: Tensor, *, workspace: int) -> int:
    """Bytes of what this weight's `linear_map` prepares beyond a copy. Only shape, dtype and device matter."""
    way = _way(layout, weight, winograd.MAP)
    return winograd.prepared_bytes(layout, weight, workspace) if way is winograd else 0


def weight_grad(layout: Layout, weight: Tensor, *, workspace: int, once: bool = False):
    """The sum of a map's weight gradients. Of `weight` only shape, dtype and device matter."""
    return _way(layout, weight, winograd.WEIGHT_GRAD, once=once).WeightGrad(layout, weight, workspace=workspace)


def _way(layout: Layout, weight: Tensor, least: dict[int, winograd.Least], *, once: bool = False) -> ModuleType:
    if weight.dim() == 2:
        return product
    return winograd if not once and winograd.is_faster(layout, weight, least) else convolution


def adjoint_weight(layout: Layout, weight: Tensor, channels: slice) -> Tensor:
    """The weight whose map is the transpose of `weight`'s, restricted to some of its input channels.

    weight (O, *kernel, K) → (K', *kernel, O). The transpose of a "same" convolution with an odd kernel is one with the
    kernel turned around, so one routine serves both directions. On CPU it was as fast as the backward-data primitive or
    up to 8% faster (Zen 5, oneDNN); cuDNN's two were not compared yet.
    """
    columns = weight[..., channels]
    if weight.dim() > 2:
        columns = columns.flip(tuple(range(1, weight.dim() - 1)))
    return layout.dense(columns.transpose(0, -1))


__all__ = [
    "BACKWARD_WORKSPACE",
    "FORWARD_WORKSPACE",
    "RECOMPUTING_WORKSPACE",
    "adjoint_weight",
    "linear_map",
    "map_pays_in_part",
    "prepared_bytes",
    "weight_grad",
    "weight_grad_pays_in_part",
]
