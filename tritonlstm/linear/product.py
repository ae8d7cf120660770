"""A linear map without a kernel: a matrix product, by PyTorch."""

import torch
from torch import Tensor

from ..core.dtypes import cell_dtype


class Product:
    """x ↦ x · Wᵀ + b; weight (O, K), bias (O).

    As nn.Linear, it follows PyTorch's settings for the precision of float32 matrix products.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self._weight, self._bias = weight, bias

    def forward(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        transposed = self._weight.t()
        if self._bias is None:
            return torch.mm(rows, transposed, out=out)
        return torch.addmm(self._bias, rows, transposed, out=out)

    def input_grad(self, grad: Tensor, first: int = 0) -> Tensor:
        return grad @ self._weight[:, first:]

    def weight_grad(self) -> "ProductWeightGrad":
        return ProductWeightGrad(self._weight)


class ProductWeightGrad:
    def __init__(self, weight: Tensor):
        self._sum = torch.zeros_like(weight, dtype=cell_dtype(weight.dtype))

    def add(self, rows: Tensor, grad: Tensor) -> None:
        self._sum += grad.t() @ rows

    def result(self) -> Tensor:
        return self._sum
