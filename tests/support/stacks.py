"""Stacks with any options, and the oracle of a stack: its equations in any dtype, by `reference` layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.covering import Row
from tests.support.layers import with_peepholes
from tritonlstm import ConvLSTM2d, PeepholeLSTM, reference
from tritonlstm.core.dtypes import cell_dtype
from tritonlstm.core.marks import make_marks

T, B, CIN, CHANNELS, SPATIAL = 4, 2, 3, (3, 2), (3, 4)

DIRECTIONS = {"forward": {}, "reverse": {"reverse": True}, "both": {"bidirectional": True}}
RETURNS = {
    "sequence": {},
    "last": {"returns": "last"},
    "layers": {"returns": "layers"},
    "cells": {"return_cells": True},
    "layers, cells": {"returns": "layers", "return_cells": True},
}
GATES = {"default": {}, "linear candidate": {"activation": "identity", "output_activation": "tanh"}}
MASKS = {
    "no masks": {},
    "lengths": {"lengths": torch.tensor([2, 4])},
    "hold and reset": {
        "hold": torch.tensor([[0, 1], [0, 0], [1, 1], [0, 0]]).bool(),
        "reset": torch.tensor([[0, 0], [1, 0], [0, 1], [0, 0]]).bool(),
    },
}
"""For T steps of B samples; there is no reset in both directions."""


def make(row: Row, dtype: torch.dtype, **options: object) -> nn.Module:
    """Two layers of images or vectors, with the peephole and the direction of a row; every parameter is random."""
    options |= DIRECTIONS[row["direction"]] | GATES[row.get("gates", "default")]
    if row["kind"] == "images":
        size = SPATIAL if row["peephole"] == "full" else None
        layer = ConvLSTM2d(
            CIN, CHANNELS, [3, (1, 3)], peephole=row["peephole"], spatial_size=size, dtype=dtype, **options
        )
    else:
        layer = PeepholeLSTM(CIN, CHANNELS, peephole=row["peephole"] != "none", dtype=dtype, **options)
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.5)
    return with_peepholes(layer)


def spatial_of(layer: nn.Module) -> tuple[int, ...]:
    return SPATIAL if isinstance(layer, ConvLSTM2d) else ()


def masks_of(row: Row) -> dict[str, Tensor]:
    """The masks of a row, (T, B), for a call."""
    masks = MASKS[row["masks"]]
    return {name: mask for name, mask in masks.items() if (name, row["direction"]) != ("reset", "both")}


def random_input(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """(T, B, Cin, *spatial)."""
    return torch.randn(T, B, CIN, *spatial_of(layer), dtype=dtype)


def random_state(layer: nn.Module, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """One pair for each layer and direction."""
    sizes = [[(B, each, *spatial_of(layer)) for each in cell.state_channels] for cell in cells_of(layer)]
    return [(0.5 * torch.randn(of_h, dtype=dtype), torch.randn(of_c, dtype=cell_dtype(dtype))) for of_h, of_c in sizes]


def cells_of(layer: nn.Module) -> list[nn.Module]:
    """In the order of their states."""
    if layer.reverse_layers is None:
        return list(layer.layers)
    return [cell for pair in zip(layer.layers, layer.reverse_layers, strict=True) for cell in pair]


@dataclass
class Expected:
    """What a stack returns, by the oracle: h and c of every layer at every step, and the states."""

    outputs: list[Tensor]
    cells: list[Tensor]
    states: list[tuple[Tensor, Tensor]]

    def select(self, returns: str, layer: nn.Module) -> list[Tensor]:
        """The results that a call with `RETURNS[returns]` has, in its order."""
        states = [each for pair in self.states for each in pair]
        directions = 2 if layer.bidirectional else 1
        if returns == "last":
            return [torch.cat([h for h, _ in self.states[-directions:]], 1), *states]
        outputs = self.outputs if "layers" in returns else self.outputs[-1:]
        cells = self.cells if "layers" in returns else self.cells[-1:]
        return [*outputs, *states, *(cells if "cells" in returns else [])]


def by_reference(
    layer: nn.Module,
    input: Tensor,
    state: Sequence[tuple[Tensor, Tensor]] | None,
    masks: dict[str, Tensor],
) -> Expected:
    """The stack by `reference.sequence`, in the dtype of its parameters. Its time axis comes first."""
    expected, sequence = Expected([], [], []), input
    of_call = {"lengths": None, "reset": None, "hold": None} | masks
    marks = make_marks(**of_call, steps=T, batch=B, device=input.device)
    directions = [layer.layers] if layer.reverse_layers is None else [layer.layers, layer.reverse_layers]
    for index in range(layer.num_layers):
        outputs, every_c = [], []
        for direction, cells in enumerate(directions):
            cell = cells[index]
            # The oracle is told the direction here, and reads the sequence forward.
            backward = layer.reverse or direction == 1
            frames = sequence.flip(0) if backward else sequence
            if state is None:
                size = (sequence.shape[1], cell.hidden_channels, *sequence.shape[3:])
                h, c = (cell.weight.new_zeros(size, dtype=each) for each in (input.dtype, cell_dtype(input.dtype)))
            else:
                h, c = state[len(expected.states)]
            spec = replace(cell.spec, reverse=False, returns="cells")
            marking = {}
            if marks is not None:
                marking["marks"] = marks.bits.flip(0) if backward else marks.bits
                if marks.resets:
                    marking |= {"reset_h": torch.zeros_like(h), "reset_c": torch.zeros_like(c)}
            output, h, of_c = reference.sequence(
                frames, h, c, cell.weight, cell.bias, cell.peephole, spec=spec, **marking
            )
            expected.states.append((h, of_c[-1]))
            outputs.append(output.flip(0) if backward else output)
            every_c.append(of_c.flip(0) if backward else of_c)
        sequence = torch.cat(outputs, 2)
        expected.outputs.append(sequence)
        expected.cells.append(torch.cat(every_c, 2))
    return expected


def solve(results: Sequence[Tensor], cotangents: Sequence[Tensor], leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Results and the gradients of the leaves, by name."""
    grads = torch.autograd.grad(
        results, list(leaves.values()), [each.to(result.dtype) for each, result in zip(cotangents, results)]
    )
    named: dict[str, Any] = {f"result {index}": each for index, each in enumerate(results)}
    named |= {f"grad of {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {name: tensor.detach() for name, tensor in named.items()}


def leaves_of(layer: nn.Module, input: Tensor, state: Sequence | None) -> dict[str, Tensor]:
    """Everything that learns, by name."""
    named = {"input": input, **dict(layer.named_parameters())}
    for index, pair in enumerate(state or ()):
        named |= {f"h{index}": pair[0], f"c{index}": pair[1]}
    return named
