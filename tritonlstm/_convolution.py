"""The linear map of a time step, its adjoint and its weight gradient, over channels-last rows.

A weight is dense (4C, *kernel, width); without kernel dimensions the map is a matrix product (the FC-LSTM), with them
it is a convolution of stride 1 that keeps the image's size.
"""

import functools

import torch
from torch import Tensor

from ._layout import from_rows, to_rows


def apply(rows: Tensor, weight: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """W * rows + bias.

    rows (N, *spatial, K), dense; weight (O, *kernel, K), dense; bias (O) → (N, *spatial, O), dense.
    The result lies in `out` where the backend can write there without a copy, else in a fresh tensor.
    """
    if weight.dim() == 2:
        out = out if rows.is_cuda else None  # a fresh tensor is aligned; see CPU_PRODUCT_BYTES in _layout
        product = torch.mm if bias is None else functools.partial(torch.addmm, bias)
        return product(rows, weight.t(), out=out)

    image, kernel = from_rows(rows), from_rows(weight)
    ones, padding = _geometry(weight)
    if out is not None and bias is None and _cudnn_writes_in_place(image):
        torch.cudnn_convolution(
            image,
            kernel,
            padding,
            ones,
            ones,
            1,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            _allows_tf32(),
            out=from_rows(out),
        )
        return out
    result = torch.convolution(image, kernel, bias, ones, padding, ones, False, [0] * len(ones), 1)
    return to_rows(result).contiguous()


def adjoint_weight(weight: Tensor, channels: slice) -> Tensor:
    """The weight whose `apply` is the transpose of `weight`'s, restricted to some of its input channels.

    weight (O, *kernel, K) → (K', *kernel, O). The transpose of a "same" convolution with an odd kernel is one with the
    kernel turned around, so one routine serves both directions. On CPU it was as fast as the backward-data primitive or
    up to 8% faster (Zen 5, oneDNN); cuDNN's two were not compared yet.
    """
    columns = weight[..., channels]
    if weight.dim() > 2:
        columns = columns.flip(tuple(range(1, weight.dim() - 1)))
    return columns.transpose(0, -1).contiguous()


def weight_grad(rows: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `weight` in apply(rows, weight), given that of the result.

    rows (N, *spatial, K), grad (N, *spatial, O), both dense → (O, *kernel, K).
    """
    if weight.dim() == 2:
        return grad.t() @ rows
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
    cudnn = torch.version.hip is None and torch.backends.cudnn.enabled and torch.backends.cudnn.is_available()
    return cudnn and image.is_cuda and image.dtype in (torch.float16, torch.bfloat16, torch.float32)


def _allows_tf32() -> bool:
    # Reading cudnn.allow_tf32 raises once a user has set the newer fp32_precision.
    return torch.backends.cudnn.conv.fp32_precision == "tf32"
