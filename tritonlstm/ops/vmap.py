"""The operators under `torch.func.vmap`: one call for each sample, the results stacked.

A batch of inputs alone could be folded into B in one call; per-sample gradients and per-sample weights, the usual
reasons for vmap, could not.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def batching_rule(name: str) -> Callable:
    """The rule for `torch.library.register_vmap`, of an operator `tritonlstm::name` that returns several tensors."""

    def rule(info, in_dims: tuple, *args: object) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        def sample(index: int) -> list[object]:
            return [
                arg.select(dim, index) if isinstance(arg, Tensor) and dim is not None else arg
                for arg, dim in zip(args, in_dims)
            ]

        operator = getattr(torch.ops.tritonlstm, name)
        if info.batch_size == 0:
            return _no_results(operator, args, in_dims)
        calls = [operator(*sample(index)) for index in range(info.batch_size)]
        results = tuple(torch.stack(tensors) for tensors in zip(*calls))
        return results, (0,) * len(results)

    return rule


def _no_results(operator: Callable, args: tuple, in_dims: tuple) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The results for no samples, whose sizes and dtypes a sample of zeros tells."""
    sample = []
    for arg, dim in zip(args, in_dims):
        if isinstance(arg, Tensor) and dim is not None:
            sizes = list(arg.shape)
            del sizes[dim]
            arg = arg.new_zeros(sizes)
        sample.append(arg)
    results = tuple(result.new_empty((0, *result.shape)) for result in operator(*sample))
    return results, (0,) * len(results)
