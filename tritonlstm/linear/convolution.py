"""A convolution by PyTorch: oneDNN's, cuDNN's or MIOpen's. It follows PyTorch's settings for convolutions.

Where the library has none in a half type it is computed in float32: PyTorch would unroll images into columns, which
take kh·kw times the memory of an image (`core.dtypes.convolution_dtype`).
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from ..core import devices
from ..core.dtypes import cell_dtype, convolution_dtype
from ..core.geometry import Geometry
from ..core.layout import Layout, from_rows, to_rows
from ..core.spec import Spec

CPU_STEPS = 2
"""Steps whose weight gradient is computed in one call on a CPU. oneDNN's errors grow with the number of images that it
sums over; with more, they exceeded twice those of PyTorch step by step (bench/NOTES.md). On a GPU all steps are, but
one at a time in float32 without TF32, whose rounding would hide such errors."""


CONTIGUOUS_OUTPUTS, CONTIGUOUS_KERNEL = 128, 5
"""Output channels and size of a kernel from which on, with AVX2, oneDNN convolves contiguous images so much faster than
rows that it pays to reorder the argument and the result (bench/NOTES.md)."""


CUDNN_ELEMENTS = 2**31
"""Fewer elements than this cuDNN's operator counts; PyTorch's own convolution splits larger tensors, or does without
cuDNN."""


class _Switches(NamedTuple):
    """PyTorch's switches for cuDNN, in the order in which its operator takes them. To read them takes host time that a
    small step notices."""

    benchmark: bool
    deterministic: bool
    allows_tf32: bool

    @classmethod
    def read(cls) -> "_Switches":
        cudnn = torch.backends.cudnn
        return cls(
            cudnn.benchmark,
            cudnn.deterministic or torch.are_deterministic_algorithms_enabled(),
            cudnn.conv.fp32_precision == "tf32",  # reading allow_tf32 raises once a user has set fp32_precision
        )


def _is_faster_contiguous(weight: Tensor) -> bool:
    outputs, _, *kernel = weight.shape
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or devices.CPU_CAPABILITY != "AVX2":
        return False
    return len(kernel) == 2 and min(kernel) >= CONTIGUOUS_KERNEL and outputs >= CONTIGUOUS_OUTPUTS


class Convolution:
    """x ↦ W * x + b; weight (O, K, *kernel), bias (O).

    Rows come with the margins that the geometry does not fill with zeros. It serves one call of a layer, and follows
    PyTorch's switches as they are at its first convolution.
    """

    def __init__(self, layout: Layout, weight: Tensor, bias: Tensor | None, geometry: Geometry | None = None):
        self._public, self._dtype, self._batch = weight, convolution_dtype(weight, weight.dtype), layout.batch
        self._bias = None if bias is None else bias.to(self._dtype)
        geometry = geometry or Geometry.of(weight, Spec())
        self._margins = geometry.margins
        dims = weight.dim() - 2
        # Stride, padding with zeros, dilation; not transposed, its padding, groups.
        self._geometry = [1] * dims, geometry.zeros, geometry.dilation, False, [0] * dims, 1
        self._packed = {}
        self._is_faster_contiguous = _is_faster_contiguous(weight)

    def _weight(self, first: int = 0) -> Tensor:
        """The weight's columns from `first` on, in the convolution's dtype and channels last; no copy if already so."""
        if first not in self._packed:
            columns = self._public[:, first:].to(self._dtype)
            self._packed[first] = from_rows(to_rows(columns).contiguous())
        return self._packed[first]

    @functools.cached_property
    def _contiguous_weight(self) -> Tensor:
        return self._public.contiguous()

    @functools.cached_property
    def _switches(self) -> _Switches:
        return _Switches.read()

    @functools.cached_property
    def _has_cudnn(self) -> bool:
        """Whether cuDNN's own operator may be called, which writes where it is told; aten::convolution.out computes and
        then copies."""
        weight, cudnn = self._public, torch.backends.cudnn
        if not devices.is_nvidia(weight.device) or weight.dim() < 4:  # PyTorch makes images of signals
            return False
        is_there = cudnn.enabled and cudnn.is_available()
        return is_there and weight.dtype == self._dtype != torch.float64 and self._bias is None

    @functools.cached_property
    def _images_at_once(self) -> int | None:
        """Images whose weight gradient is computed in one call, as many as whole steps have; None: all."""
        device = self._public.device
        if device.type == "cpu":
            return CPU_STEPS * self._batch
        has_tf32 = devices.is_nvidia(device) and self._switches.allows_tf32
        return self._batch if self._public.dtype == torch.float32 and not has_tf32 else None

    def forward(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        images = from_rows(rows)
        if out is not None and self._has_cudnn and max(rows.numel(), out.numel()) < CUDNN_ELEMENTS:
            self._convolve_by_cudnn(images, from_rows(out))
            return out
        stride, padding, dilation, _, _, groups = self._geometry
        if self._is_faster_contiguous:
            images, weight = images.contiguous(), self._contiguous_weight
        else:
            images, weight = _cast(images, self._dtype), self._weight()
        # Not torch.convolution: PyTorch's profiler counts the operations of conv2d alone.
        convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[len(padding) - 1]
        result = convolve(images, weight, self._bias, stride, padding, dilation, groups)
        return to_rows(_cast(result, rows.dtype)).contiguous()

    def _convolve_by_cudnn(self, images: Tensor, out: Tensor) -> None:
        stride, padding, dilation, _, _, groups = self._geometry
        torch.cudnn_convolution(images, self._weight(), padding, stride, dilation, groups, *self._switches, out=out)

    def _backward(self, grad: Tensor, rows: Tensor, weight: Tensor, *, of_input: bool) -> Tensor:
        """The gradient of the argument or of the weight, of which in the other case only the shape matters."""
        mask = [of_input, not of_input, False]
        images, grad = from_rows(rows), from_rows(grad)
        results = torch.ops.aten.convolution_backward(grad, images, weight, None, *self._geometry, mask)
        return results[0 if of_input else 1]

    def input_grad(self, grad: Tensor, first: int = 0) -> Tensor:
        weight = self._weight(first)
        # Only its shape is read, but it must be dense: PyTorch would copy an expanded tensor.
        images, *spatial, _ = grad.shape
        spatial = [size + 2 * margin for size, margin in zip(spatial, self._margins)]
        rows = grad.new_empty(images, *spatial, weight.shape[1], dtype=self._dtype)
        result = self._backward(_cast(grad, self._dtype), rows, weight, of_input=True)
        return to_rows(_cast(result, grad.dtype)).contiguous()

    def weight_grad(self) -> "ConvolutionWeightGrad":
        return ConvolutionWeightGrad(self)


class ConvolutionWeightGrad:
    def __init__(self, convolution: Convolution):
        self._convolution = convolution
        self._sum = None

    def add(self, rows: Tensor, grad: Tensor) -> None:
        convolution = self._convolution
        images = convolution._images_at_once or len(rows)
        for some_rows, some_grads in zip(rows.split(images), grad.split(images)):
            some = (_cast(each, convolution._dtype) for each in (some_grads, some_rows))
            part = convolution._backward(*some, convolution._weight(), of_input=False)
            self._sum = part.to(cell_dtype(part.dtype)) if self._sum is None else self._sum.add_(part)

    def result(self) -> Tensor:
        if self._sum is None:
            weight = self._convolution._public
            return torch.zeros_like(weight, dtype=cell_dtype(weight.dtype))
        return self._sum


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Comparing takes less time than a cast that changes nothing.
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
