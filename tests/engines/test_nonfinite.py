"""A NaN or an infinity in a parameter goes where plain PyTorch sends it: 0 · NaN is NaN, in a zero state too."""

from functools import partial

import pytest
import torch
from torch import nn

from tests.support.covering import Row, describe, pairwise
from tests.support.nonfinite import PLACES, assert_same_everywhere, by_documented_equations, spoiled
from tests.support.problems import MODES, PATHS, VECTORS, Problem, Shape, by_operator, modes_of
from tritonlstm import ConvLSTM2d, PeepholeLSTM, functional

SHAPES = {
    "no state, one step": Shape(steps=1, state=False),
    "no state": Shape(steps=3, state=False),
    "state, one step": Shape(steps=1),
    "no state, one step, full peephole": Shape(steps=1, state=False, peephole="full"),
    "no state, one step, 1×1 kernel": Shape(steps=1, state=False, kernel=(1, 1)),
    "no state, one step, input kernel": Shape(steps=1, state=False, input_kernel=(1, 3)),
    "no state, input kernel": Shape(steps=2, state=False, input_kernel=(1, 3)),
    "vectors, no state, one step": VECTORS.but(steps=1, state=False),
    "vectors, no state": VECTORS.but(steps=2, state=False),
}


def fits(row: Row) -> bool:
    return not {"shape", "mode"} <= row.keys() or row["mode"] in modes_of_input(SHAPES[row["shape"]])


def modes_of_input(shape: Shape) -> list[str]:
    """A layer with an input kernel is always hoisted."""
    return modes_of(shape) if shape.input_kernel is None else [mode for mode in MODES if mode.startswith("hoisted")]


def check(shape: Shape, place: str, value: float, mode: str, path: str) -> None:
    problem = spoiled(Problem.random(shape, torch.float32), place, value)
    expected = problem.solve(partial(by_documented_equations, mode=mode))
    assert_same_everywhere(problem.solve(by_operator(**PATHS[path], **MODES[mode])), expected)


ROWS = pairwise({"place": PLACES, "value": ("nan", "inf"), "shape": SHAPES, "mode": MODES, "path": PATHS}, fits)


@pytest.mark.parametrize("row", ROWS, ids=describe)
def test_what_is_not_finite_in_a_parameter_goes_where_pytorch_sends_it(row: Row):
    check(SHAPES[row["shape"]], row["place"], float(row["value"]), row["mode"], row["path"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", ["concat, save", "hoisted, save"])
@pytest.mark.parametrize("place", PLACES)
def test_a_nan_in_a_parameter_is_seen_in_a_first_step_without_a_state(place: str, mode: str, path: str):
    check(Shape(steps=1, state=False), place, float("nan"), mode, path)


@pytest.mark.parametrize("name", ["weight", "bias", "peephole"])
@pytest.mark.parametrize("kind", [ConvLSTM2d, PeepholeLSTM])
def test_a_module_and_a_function_show_a_nan_as_plain_pytorch_does(kind: type[nn.Module], name: str):
    """In the last number of each: the weight's hidden part, the output gate's bias, the peephole w_co."""
    is_image = kind is ConvLSTM2d
    sizes, pixels = ((2, 3, 3), (4, 5)) if is_image else ((2, 3), ())
    layer, plain = kind(*sizes), kind(*sizes, backend="torch")
    with torch.no_grad():
        getattr(layer.layers[0], name).view(-1)[-1] = float("nan")
    plain.load_state_dict(layer.state_dict())
    input, results = torch.randn(1, 2, 2, *pixels), []
    for each in (layer, plain):
        output, ((h, c),) = each(input)
        gradients = torch.autograd.grad(output.sum(), list(each.parameters()))
        results.append([output, h, c, *gradients])
    assert results[1][0].isnan().any()
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got.isnan(), expected.isnan())
    function = functional.conv_lstm if is_image else functional.peephole_lstm
    cell = layer.layers[0]
    output, (h, c) = function(input, None, cell.weight, cell.bias, cell.peephole)
    for got, expected in zip((output, h, c), results[1]):
        assert torch.equal(got.isnan(), expected.isnan())
