"""The layers of `tritonlstm.tuning.cases` with random parameters, inputs and cotangents.

Zeros would run faster on a GPU, and peepholes at their initial value of zero would hide an error in them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tritonlstm.tuning.cases import Case
from tritonlstm.tuning.random_layers import normal, random_layer


class Parameters(NamedTuple):
    """One layer's."""

    weight: Tensor  # (4C, Cin + C, k, k)
    bias: Tensor  # (4C)
    peephole: Tensor | None  # (3, C, 1, 1)

    def present(self) -> list[Tensor]:
        return [tensor for tensor in self if tensor is not None]


@dataclass(frozen=True)
class Problem:
    """A case with its numbers. Images are stored channels last."""

    case: Case
    layers: tuple[Parameters, ...]
    input: Tensor  # (T, B, Cin, H, W)
    cotangent: Tensor  # (T, B, C, H, W)

    def double(self) -> "Problem":
        layers = [Parameters(*(None if each is None else each.double() for each in layer)) for layer in self.layers]
        return Problem(self.case, tuple(layers), self.input.double(), self.cotangent.double())

    def image(self, index: int) -> "Problem":
        """The same problem with one image of the batch."""
        one = slice(index, index + 1)
        return Problem(self.case.but(batch=1), self.layers, self.input[:, one], self.cotangent[:, one])

    def leaves(self, memory_format: torch.memory_format) -> tuple[Parameters, ...]:
        """Copies of the parameters that require gradients, the weights stored in that format."""

        def leaf(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            own_format = memory_format if tensor.dim() == 4 else torch.contiguous_format
            return tensor.clone(memory_format=own_format).requires_grad_()

        return tuple(Parameters(*map(leaf, layer)) for layer in self.layers)


def sequence(generator: torch.Generator, case: Case, channels: int, dtype: torch.dtype) -> Tensor:
    """Random images (T, B, channels, H, W), stored channels last."""
    return normal(generator, case.steps, case.batch, case.height, case.width, channels, dtype=dtype).movedim(-1, 2)


def stored(images: Tensor, memory_format: torch.memory_format) -> Tensor:
    """The images (T, B, C, H, W), each stored in that format; copied only if they are not."""
    return images.flatten(0, 1).contiguous(memory_format=memory_format).unflatten(0, images.shape[:2])


def problem(
    case: Case, dtype: torch.dtype, device: torch.device | str = "cpu", *, peephole: bool = True, seed: int = 0
) -> Problem:
    generator = torch.Generator(device).manual_seed(seed)
    kernel, size = (case.kernel, case.kernel), (1, 1) if peephole else None
    layers = [random_layer(generator, dtype, *channels, kernel, peephole=size) for channels in case.layers]
    return Problem(
        case,
        tuple(Parameters(each.weight, each.bias, each.peephole) for each in layers),
        input=sequence(generator, case, case.in_channels, dtype),
        cotangent=sequence(generator, case, case.channels[-1], dtype),
    )
