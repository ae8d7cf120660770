"""The linear map of a time step, its adjoint and its weight gradient, over dense rows.

Dense is what the layout calls so. A weight is dense (O, *kernel, K); without kernel dimensions the map is a matrix
product (the FC-LSTM), with them it is a convolution of stride 1 that keeps the image's size.
"""

import functools

import torch
from torch import Tensor

from . import _tap_rows
from ._layout import Layout, from_rows, to_rows


class Map:
    """rows ↦ W * rows + bias; weight (O, *kernel, K), dense, bias (O)."""

    def __init__(self, layout: Layout, weight: Tensor, bias: Tensor | None = None):
        self._layout, self._weight, self._bias = layout, weight, bias
        self._is_product = weight.dim() == 2
        if not self._is_product:
            self._kernel = from_rows(weight)
            self._ones, self._padding = _geometry(weight)
            self._zeros = [0] * len(self._ones)

    def __call__(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """rows (N, *spatial, K), dense → (N, *spatial, O), dense.

        The result lies in `out` where the backend can write there without a copy, else in a fresh tensor.
        """
        if self._is_product:
            out = out if rows.is_cuda else None  # a fresh tensor is aligned; see CPU_PRODUCT_BYTES in _layout
            product = torch.mm if self._bias is None else functools.partial(torch.addmm, self._bias)
            return product(rows, self._weight.t(), out=out)
        image = from_rows(rows)
        if out is not None and self._bias is None and _cudnn_writes_in_place(image):
            self._convolve_by_cudnn(image, from_rows(out))
            return out
        result = torch.convolution(
            image, self._kernel, self._bias, self._ones, self._padding, self._ones, False, self._zeros, 1
        )
        return self._layout.dense(to_rows(result))

    def _convolve_by_cudnn(self, image: Tensor, out: Tensor) -> None:
        torch.cudnn_convolution(
            image,
            self._kernel,
            self._padding,
            self._ones,
            self._ones,
            1,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            _allows_tf32(),
            out=out,
        )


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


def weight_grad(rows: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a map's weight, given the map's argument and the gradient of its result.

    rows (N, *spatial, K), grad (N, *spatial, O), both dense → (O, *kernel, K), with any strides. Of `weight` only the
    shape matters.
    """
    if weight.dim() == 2:
        return grad.t() @ rows
    if _tap_rows.is_faster(rows, weight):
        return _tap_rows.weight_grad(rows, grad, weight.shape[1:-1])
    ones, padding = _geometry(weight)
    result = torch.ops.aten.convolution_backward(
        from_rows(grad),
        from_rows(rows),
        from_rows(weight),
        None,
        ones,
        padding,
        ones,
        False,
        [0] * len(ones),
        1,
        [False, True, False],
    )
    return to_rows(result[1])


def _geometry(weight: Tensor) -> tuple[list[int], list[int]]:
    """Stride (and dilation) of one, and the padding that keeps an image's size under an odd kernel."""
    kernel = weight.shape[1:-1]
    return [1] * len(kernel), [size // 2 for size in kernel]


def _cudnn_writes_in_place(image: Tensor) -> bool:
    # aten::convolution.out computes and then copies; only cuDNN's own operator writes where it is told.
    cudnn = image.is_cuda and torch.version.hip is None
    cudnn = cudnn and torch.backends.cudnn.enabled and torch.backends.cudnn.is_available()
    return cudnn and image.dtype in (torch.float16, torch.bfloat16, torch.float32)


def _allows_tf32() -> bool:
    # Reading cudnn.allow_tf32 raises once a user has set the newer fp32_precision.
    return torch.backends.cudnn.conv.fp32_precision == "tf32"
