"""The layers of `tritonlstm.tuning.cases` with random parameters, inputs and cotangents.

Zeros would run faster on a GPU, and peepholes at their initial value of zero would hide an error in them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tritonlstm.tuning.cases import Case
from tritonlstm.tuning.random_layers import normal, random_layer

Parameters = dict[str, Tensor]
"""One layer's: weight (4C, Cin + C, k, k), bias (4C) and, if it has peepholes, peephole (3, C, 1, 1)."""


@dataclass(frozen=True)
class Problem:
    """A case with its numbers. Images are stored channels last."""

    case: Case
    layers: tuple[Parameters, ...]
    input: Tensor  # (T, B, Cin, H, W)
    cotangent: Tensor  # (T, B, C, H, W)

    def image(self, index: int) -> "Problem":
        """The same problem in float64 with one image of the batch."""
        layers = tuple({name: tensor.double() for name, tensor in layer.items()} for layer in self.layers)
        input, cotangent = (each[:, index : index + 1].double() for each in (self.input, self.cotangent))
        return Problem(self.case.but(batch=1), layers, input, cotangent)

    def leaves(self, memory_format: torch.memory_format) -> tuple[Parameters, ...]:
        """Copies of the parameters that require gradients, the weights stored in that format."""

        def leaf(tensor: Tensor) -> Tensor:
            own_format = memory_format if tensor.dim() == 4 else torch.contiguous_format
            return tensor.clone(memory_format=own_format).requires_grad_()

        return tuple({name: leaf(tensor) for name, tensor in layer.items()} for layer in self.layers)


def flat(layers: tuple[Parameters, ...]) -> list[Tensor]:
    """All parameters, layer by layer."""
    return [tensor for layer in layers for tensor in layer.values()]


def sequence(generator: torch.Generator, case: Case, channels: int, dtype: torch.dtype) -> Tensor:
    """Random images (T, B, channels, H, W), stored channels last."""
    return normal(generator, case.steps, case.batch, case.height, case.width, channels, dtype=dtype).movedim(-1, 2)


def stored(images: Tensor, memory_format: torch.memory_format) -> Tensor:
    """The images (T, B, C, H, W), each stored in that format; copied only if they are not."""
    return images.flatten(0, 1).contiguous(memory_format=memory_format).unflatten(0, images.shape[:2])


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def problem(
    case: Case, dtype: torch.dtype, device: torch.device | str = "cpu", *, peephole: bool = True, seed: int = 0
) -> Problem:
    generator = torch.Generator(device).manual_seed(seed)
    kernel, size = (case.kernel, case.kernel), (1, 1) if peephole else None
    drawn = [random_layer(generator, dtype, *channels, kernel, peephole=size) for channels in case.layers]
    return Problem(
        case,
        tuple({name: tensor for name, tensor in each._asdict().items() if tensor is not None} for each in drawn),
        input=sequence(generator, case, case.in_channels, dtype),
        cotangent=sequence(generator, case, case.channels[-1], dtype),
    )
