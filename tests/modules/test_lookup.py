"""Looking up parameters and children finds what an attribute gives, whatever has taken a parameter's place."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from tritonlstm import ConvLSTM2d, ConvLSTM2dCell
from tritonlstm.modules.lookup import children, parameters

NAMES = ("weight", "input_weight", "bias", "peephole")


def with_frozen_weight(cell: nn.Module) -> None:
    weight = cell.weight.detach()
    del cell.weight
    cell.register_buffer("weight", weight)


def with_plain_weight(cell: nn.Module) -> None:
    """As a sharding wrapper or DataParallel sets it: a tensor, no parameter."""
    weight = cell.weight.detach()
    del cell.weight
    cell.weight = weight


class Doubled(nn.Module):
    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return 2 * tensor


class Masked(ConvLSTM2dCell):
    @property
    def weight(self) -> torch.Tensor:
        return 0 * self._parameters["weight"]


def with_a_property(cell: nn.Module) -> None:
    cell.__class__ = Masked


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "nothing": lambda cell: None,
    "parametrized": lambda cell: parametrize.register_parametrization(cell, "weight", Doubled()),
    "normalised": lambda cell: parametrizations.weight_norm(cell),
    "pruned": lambda cell: prune.random_unstructured(cell, "weight", 0.5),
    "a buffer": with_frozen_weight,
    "a plain tensor": with_plain_weight,
    "a property": with_a_property,
    "an attribute of the instance": lambda cell: cell.__dict__.update(weight=torch.zeros_like(cell.weight)),
    "none": lambda cell: setattr(cell, "bias", None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_finds_what_has_taken_a_parameters_place(change: Callable[[nn.Module], object]):
    layer = ConvLSTM2d(2, 3, 3)
    cell = layer.layers[0]
    change(cell)
    for found, name in zip(parameters(cell, NAMES), NAMES, strict=True):
        expected = getattr(cell, name)
        assert (found is None) == (expected is None)
        assert found is None or torch.equal(found, expected)


def test_finds_what_functional_call_passes():
    layer, frame = ConvLSTM2d(2, 3, 3), torch.randn(1, 2, 4, 4)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in layer.layers[0].named_parameters()}
    h, _ = torch.func.functional_call(layer.layers[0], zeros, (frame,))
    assert not h.any()


CONTAINERS = {"ModuleList": nn.ModuleList, "Sequential": lambda cells: nn.Sequential(*cells), "tuple": tuple}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_finds_the_children_of_any_container(container: Callable[[list[nn.Module]], object]):
    layer, frame = ConvLSTM2d(2, [3, 3], 3), torch.randn(1, 2, 4, 4)
    cells, before = list(layer.layers), layer.step(frame)[0]
    del layer.layers
    layer.layers = container(cells)
    assert all(found is cell for found, cell in zip(children(layer, "layers"), cells, strict=True))
    assert torch.equal(layer.step(frame)[0], before)
