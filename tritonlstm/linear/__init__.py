"""The convolution of a time step, or its matrix product for vectors, behind one interface.

Everything is over dense rows (N, *spatial, channels). Weights are in the public order (O, K, *kernel); without kernel
dimensions the linear map is a matrix product, with them a convolution of stride 1 that keeps the image's size, dilated
and padded as `Spec` says.
"""

from typing import Protocol

from torch import Tensor

from ..core.geometry import Geometry
from ..core.layout import Layout
from ..core.spec import Spec
from .convolution import Convolution
from .padded import Padded
from .product import Product
from .winograd import Winograd, is_faster

DEFAULT = Spec()


class WeightGrad(Protocol):
    """A sum of weight gradients."""

    def add(self, rows: Tensor, grad: Tensor) -> None:
        """Add that of arguments (N, *spatial, K), whose results have the gradient (N, *spatial, O)."""

    def result(self) -> Tensor:
        """The sum (O, K, *kernel) in float32, or float64 for that, with any strides; zeros if nothing was added."""


class LinearMap(Protocol):
    """y = W * x + b."""

    def forward(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """rows (N, *spatial, K) → (N, *spatial, O), dense: in `out` where the library can write there, else fresh."""

    def input_grad(self, grad: Tensor, first: int = 0) -> Tensor:
        """The gradient of a result (N, *spatial, O) → that of its argument from channel `first` on, dense and fresh."""

    def weight_grad(self) -> WeightGrad:
        """An accumulator of the weight's gradient."""


def linear_map(layout: Layout, weight: Tensor, bias: Tensor | None = None, spec: Spec = DEFAULT) -> LinearMap:
    """The fastest implementation for a step's rows, weight (O, K, *kernel) and bias (O).

    The choice does not depend on the number of steps. With schedule "concat", one step per call, a sequence has the
    same bits as its parts; on a GPU if a step's pre-activations are a multiple of 32 bytes, since cuDNN may choose by
    the alignment of where a step begins. The weight is used where it lies, or copied when it is first needed in another
    dtype or memory format.
    """
    if weight.dim() == 2:
        return Product(weight, bias)
    geometry = Geometry.of(weight, spec)
    convolution = Convolution(layout, weight, bias, geometry)
    if geometry.filled:
        return Padded(convolution, geometry.filled)
    if geometry.is_plain and is_faster(layout, weight):
        return Winograd(layout, weight, bias, convolution)
    return convolution


__all__ = ["LinearMap", "WeightGrad", "linear_map"]
