"""What is timed: the layers of `tritonlstm.tuning.cases` with parameters, inputs and cotangents.

Everything is random. Zeros run faster on a GPU, and peepholes, which start at zero, would hide an error in them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tritonlstm.tuning.cases import Case


class Parameters(NamedTuple):
    """One layer's: weight (4C, Cin + C, k, k), bias (4C), peephole (3, C, 1, 1) or None."""

    weight: Tensor
    bias: Tensor
    peephole: Tensor | None

    def present(self) -> list[Tensor]:
        return [tensor for tensor in self if tensor is not None]

    def leaves(self, memory_format: torch.memory_format) -> "Parameters":
        """Copies that want gradients, the weight stored in that format."""

        def leaf(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            own_format = memory_format if tensor.dim() == 4 else torch.contiguous_format
            return tensor.detach().clone(memory_format=own_format).requires_grad_()

        return Parameters(*map(leaf, self))


@dataclass(frozen=True)
class Problem:
    """A case with its numbers. input (T, B, Cin, H, W) and cotangent (T, B, C, H, W) are stored channels last."""

    case: Case
    layers: tuple[Parameters, ...]
    input: Tensor
    cotangent: Tensor

    def to(self, dtype: torch.dtype) -> "Problem":
        """The same numbers in another dtype."""

        def cast(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(dtype)

        layers = tuple(Parameters(*map(cast, layer)) for layer in self.layers)
        return Problem(self.case, layers, cast(self.input), cast(self.cotangent))

    def image(self, index: int) -> "Problem":
        """The same with one image of the batch."""
        own = slice(index, index + 1)
        return Problem(self.case.but(batch=1), self.layers, self.input[:, own], self.cotangent[:, own])

    def leaves(self, memory_format: torch.memory_format = torch.channels_last) -> tuple[Parameters, ...]:
        """The layers' parameters, copied and wanting gradients, the weights stored in that format."""
        return tuple(layer.leaves(memory_format) for layer in self.layers)


def sequence(case: Case, channels: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Random images (T, B, channels, H, W), stored channels last."""
    shape = (case.steps, case.batch, case.height, case.width, channels)
    return torch.randn(shape, generator=generator, device=generator.device).to(dtype).movedim(-1, 2)


def stored(images: Tensor, memory_format: torch.memory_format) -> Tensor:
    """images (T, B, C, H, W), each stored in that format; copied only where it is not."""
    return images.flatten(0, 1).contiguous(memory_format=memory_format).unflatten(0, images.shape[:2])


def problem(
    case: Case, dtype: torch.dtype, device: torch.device | str = "cpu", *, peephole: bool = True, seed: int = 0
) -> Problem:
    """A case's problem. Weights vary by 1/fan_in, so that the gates see what they would at a layer's start."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int, std: float) -> Tensor:
        return (std * torch.randn(shape, generator=generator, device=device)).to(dtype)

    layers = []
    for in_channels, channels in case.layers:
        fan_in = (in_channels + channels) * case.kernel**2
        weight = normal(4 * channels, in_channels + channels, case.kernel, case.kernel, std=fan_in**-0.5)
        bias = normal(4 * channels, std=0.5)
        layers.append(Parameters(weight, bias, normal(3, channels, 1, 1, std=0.5) if peephole else None))
    return Problem(
        case,
        tuple(layers),
        input=sequence(case, case.in_channels, dtype, generator),
        cotangent=sequence(case, case.channels[-1], dtype, generator),
    )
