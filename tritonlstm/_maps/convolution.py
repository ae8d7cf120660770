"""A convolution and its weight gradient by PyTorch: oneDNN's, cuDNN's or MIOpen's.

On a CPU that has none in a half type they are computed in float32, step by step: by PyTorch they would be unrolled into
columns, which take kh·kw times the memory of an image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._dtypes import cell_dtype, convolution_dtype
from .._layout import Layout, from_rows, to_rows

CPU_STEPS = 2
"""oneDNN adds up what all pixels of all images give to a weight one after another, so that errors grow with their
number. Of five steps in one call they were 2.2 times as large as step by step, of two 1.4 times (root mean square, 3×3,
16→32 to 64→128 channels, one image of 2048 to 4096 pixels, two threads of an EPYC of AVX2). We want at most twice
PyTorch's, which goes step by step."""


class Map:
    """rows ↦ W * rows + bias; weight (O, *kernel, K), dense, bias (O)."""

    def __init__(self, layout: Layout, weight: Tensor, bias: Tensor | None = None, *, workspace: int = 0):
        self._layout, self._dtype = layout, convolution_dtype(weight)
        self._kernel = from_rows(weight.to(self._dtype))
        self._bias = None if bias is None else bias.to(self._dtype)
        self._ones, self._padding = _geometry(weight.shape[1:-1])
        self._zeros = [0] * len(self._ones)

    def __call__(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """rows (N, *spatial, K), dense → (N, *spatial, O), dense.

        The result lies in `out` where the backend can write there without a copy, else in a fresh tensor.
        """
        image = from_rows(rows)
        if out is not None and self._bias is None and _cudnn_writes_in_place(image):
            self._convolve_by_cudnn(image, from_rows(out))
            return out
        casts = rows.dtype != self._dtype  # to ask takes less than a cast that changes nothing
        result = torch.convolution(
            image.to(self._dtype) if casts else image,
            self._kernel,
            self._bias,
            self._ones,
            self._padding,
            self._ones,
            False,
            self._zeros,
            1,
        )
        result = to_rows(result.to(rows.dtype) if casts else result)
        return self._layout.dense(result)

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


class WeightGrad:
    """The gradient of a map's weight, of `shape` (O, *kernel, K), summed in float32, or float64 for that.

    Of `weight` only shape, dtype and device matter.
    """

    def __init__(self, layout: Layout, weight: Tensor, *, workspace: int = 0):
        self.shape, self._layout, self._dtype, self._sum = weight.shape, layout, convolution_dtype(weight), None
        self.gains_by_steps = self._dtype == weight.dtype  # else a copy in float32 is made of each

    def add(self, rows: Tensor, grad: Tensor) -> None:
        """The map's argument, rows (N, *spatial, K), and the gradient of its result (N, *spatial, O), both dense."""
        rows, grad = rows.to(self._dtype), grad.to(self._dtype)  # what was given may be freed
        images = CPU_STEPS * self._layout.batch if rows.device.type == "cpu" else len(rows)
        for some in zip(rows.split(images), grad.split(images)):
            part = self._grad(*some)
            self._sum = part.to(cell_dtype(part.dtype)) if self._sum is None else self._sum.add_(part)

    def result(self) -> Tensor | None:
        """The sum, with any strides; None if nothing was added."""
        return self._sum

    def _grad(self, rows: Tensor, grad: Tensor) -> Tensor:
        ones, padding = _geometry(self.shape[1:-1])
        result = torch.ops.aten.convolution_backward(
            from_rows(grad),
            from_rows(rows),
            from_rows(self._layout.new_weight(rows, self.shape)),  # of which only the shape matters
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


def _geometry(kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Stride (and dilation) of one, and the padding that keeps an image's size under an odd kernel."""
    return [1] * len(kernel), [size // 2 for size in kernel]


def _cudnn_writes_in_place(image: Tensor) -> bool:
    # aten::convolution.out computes and then copies; only cuDNN's own operator writes where it is told.
    cudnn = image.is_cuda and torch.version.hip is None
    cudnn = cudnn and torch.backends.cudnn.enabled and torch.backends.cudnn.is_available()
    return cudnn and image.dtype in (torch.float16, torch.bfloat16, torch.float32)


def _allows_tf32() -> bool:
    # Reading cudnn.allow_tf32 raises once a user has set the newer fp32_precision.
    return torch.backends.cudnn.conv.fp32_precision == "tf32"
