"""What a cell does beside its equations: dropout of what its convolution reads, zoneout, and normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core import checks
from ..core.arguments import Arguments
from ..functional.dropout import Zoneout

Norm = Callable[[int], nn.Module]
"""Makes the normalisation of so many channels."""


class Regularisation(NamedTuple):
    """The probabilities as a cell checked them."""

    input_dropout: float
    recurrent_dropout: float
    zoneout: Zoneout | None

    @classmethod
    def checked(cls, input_dropout: object, recurrent_dropout: object, zoneout: object) -> Regularisation:
        """From a constructor's arguments. `zoneout` is one number, of h, or a pair, of h and c."""
        pair = tuple(zoneout) if isinstance(zoneout, Sequence) and not isinstance(zoneout, str) else (zoneout, 0.0)
        if len(pair) != 2:
            raise TypeError(f"zoneout: expected a number, or a pair for h and c, got {checks.show(zoneout)}")
        of_h, of_c = (checks.check_probability("zoneout", each) for each in pair)
        return cls(
            checks.check_probability("input_dropout", input_dropout),
            checks.check_probability("recurrent_dropout", recurrent_dropout),
            Zoneout(of_h, of_c) if of_h or of_c else None,
        )

    def __str__(self) -> str:
        """The arguments that are not zero, for a module's repr."""
        named = {"input_dropout": self.input_dropout, "recurrent_dropout": self.recurrent_dropout}
        if self.zoneout is not None:
            named["zoneout"] = (self.zoneout.h, self.zoneout.c)
        return ", ".join(f"{name}={value}" for name, value in named.items() if value)


def make_norm(norm: object, channels: int, device: object, dtype: torch.dtype | None) -> nn.Module | None:
    """The normalisation of 4C channels that a factory makes."""
    if norm is None:
        return None
    if isinstance(norm, nn.Module) or not callable(norm):
        raise TypeError(
            "norm: expected a function of the channels that makes a module, such as lambda channels:"
            f" nn.GroupNorm(4, channels), got {checks.show(norm)}"
        )
    module = norm(channels)
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"norm: expected a function that makes a torch.nn.Module, got {checks.describe(module)} from it"
        )
    return module.to(device=device, dtype=dtype)


def is_folded(norm: nn.Module) -> bool:
    """Whether a normalisation is the same affine map for every input: BatchNorm in evaluation."""
    is_batch_norm = isinstance(norm, nn.modules.batchnorm._BatchNorm)
    return is_batch_norm and not norm.training and norm.running_mean is not None


def fold(norm: nn.Module, arguments: Arguments) -> Arguments:
    """The weights and the bias with which a convolution gives what `norm` makes of its pre-activations."""
    weight, input_weight, bias = arguments.weight, arguments.input_weight, arguments.bias
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean if bias is None else bias - norm.running_mean
    shift = shift * scale if norm.bias is None else shift * scale + norm.bias

    def scaled(kernel: Tensor | None) -> Tensor | None:
        return None if kernel is None else kernel * scale.to(kernel.dtype).view(-1, *[1] * (kernel.dim() - 1))

    return arguments._replace(weight=scaled(weight), input_weight=scaled(input_weight), bias=shift.to(weight.dtype))
