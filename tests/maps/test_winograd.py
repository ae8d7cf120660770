"""Minimal filtering against the convolutions and the numbers that it stands for."""

import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.counting import Mode, backward, forward
from tests.problems import MODES, Problem, Shape, budgets, by_operator, by_reference
from tests.tolerances import assert_within, budget
from tritonlstm import _devices, _gates_aten, _maps, _sequence
from tritonlstm._layout import Layout
from tritonlstm._maps import (
    convolution,
    linear_map,
    map_pays_in_part,
    weight_grad,
    weight_grad_pays_in_part,
    winograd,
)
from tritonlstm._schedules import Needs

# (images, height, width), channels in and out, kernel
CASES = {
    "whole tiles": ((3, 16, 8), 3, 8, (3, 3)),
    "parts of tiles": ((2, 13, 19), 3, 5, (5, 5)),
    "tall kernel": ((2, 9, 6), 2, 4, (7, 3)),
    "wide kernel": ((3, 5, 10), 2, 4, (3, 5)),
    "kernel larger than the image": ((2, 2, 3), 3, 4, (5, 7)),
    "one column": ((2, 17, 1), 2, 4, (3, 5)),
    "one row": ((2, 1, 17), 2, 4, (3, 5)),
}
each_case = pytest.mark.parametrize(("sizes", "in_channels", "out_channels", "kernel"), CASES.values(), ids=CASES)


def layout_of(sizes: tuple[int, int, int], in_channels: int, out_channels: int) -> Layout:
    images, *spatial = sizes
    return Layout(1, images, tuple(spatial), in_channels, out_channels // 4, multiple=1)


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype)


WORKSPACE = 2**22


@pytest.fixture(
    params=[(4, WORKSPACE), (8, WORKSPACE), (4, 1), (8, 3000)], ids=["4", "8", "4, little memory", "8, some"]
)
def workspace(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """For tiles of either size, all of them at once or few."""
    tile, workspace = request.param
    monkeypatch.setattr(winograd, "_tile", lambda *_: tile)
    if workspace < WORKSPACE:
        monkeypatch.setattr(winograd, "BLOCK_TILES", 1)
    return workspace


@pytest.mark.parametrize("with_bias", [False, True])
@each_case
def test_a_map_is_the_convolution(workspace: int, sizes, in_channels, out_channels, kernel, with_bias: bool):
    layout = layout_of(sizes, in_channels, out_channels)
    weight, bias = normal(out_channels, *kernel, in_channels), normal(out_channels) if with_bias else None
    rows = normal(*sizes, in_channels)
    got = winograd.Map(layout, weight, bias, workspace=workspace)(rows)
    assert got.is_contiguous()
    torch.testing.assert_close(got, convolution.Map(layout, weight, bias)(rows), rtol=0, atol=1e-12)


@each_case
def test_a_weight_gradient_is_the_convolutions_summed(workspace: int, sizes, in_channels, out_channels, kernel):
    layout = layout_of(sizes, in_channels, out_channels)
    weight = torch.empty(out_channels, *kernel, in_channels, dtype=torch.float64)
    sums = winograd.WeightGrad(layout, weight, workspace=workspace), convolution.WeightGrad(layout, weight)
    assert [sum.result() for sum in sums] == [None, None]
    for images in (sizes[0], 1):
        rows, grad = (normal(images, *sizes[1:], channels) for channels in (in_channels, out_channels))
        for sum in sums:
            sum.add(rows, grad)
    got, expected = (sum.result() for sum in sums)
    assert got.shape == weight.shape == sums[0].shape
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("tile", [4, 8])
def test_errors_are_within_the_budget_whatever_pytorchs_are(monkeypatch: pytest.MonkeyPatch, kernel: int, tile: int):
    """How well oneDNN sums a weight's gradient differs between CPUs: only the budget holds on all of them."""
    monkeypatch.setattr(winograd, "_tile", lambda *_: tile)
    layout = layout_of((2, 24, 24), 64, 64)
    weight, rows, grad = normal(64, kernel, kernel, 64), normal(2, 24, 24, 64), normal(2, 24, 24, 64)

    def results(way, dtype: torch.dtype) -> dict[str, Tensor]:
        sum = way.WeightGrad(layout, weight.to(dtype), workspace=WORKSPACE)
        sum.add(rows.to(dtype), grad.to(dtype))
        result = way.Map(layout, weight.to(dtype), workspace=WORKSPACE)(rows.to(dtype))
        return {"result": result, "gradient of the weight": sum.result()}

    oracle, plain = results(convolution, torch.float64), results(convolution, torch.float32)
    for name, got in results(winograd, torch.float32).items():
        assert_within(name, got, oracle[name], budget(plain[name], oracle[name], torch.float32))


def test_a_nan_stays_in_its_tiles_neighbourhood(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(winograd, "_tile", lambda *_: 4)
    rows = torch.zeros(2, 16, 16, 3)
    rows[0, 5, 5, 0] = torch.nan
    found = winograd.Map(layout_of((2, 16, 16), 3, 4), normal(4, 3, 3, 3, dtype=torch.float32), workspace=WORKSPACE)(
        rows
    ).isnan()
    assert found[0, 4:8, 4:8].all()
    assert not found[0, 8:].any() and not found[0, :, 8:].any() and not found[1].any()


def is_faster(
    batch: int = 2,
    kernel: tuple[int, ...] = (3, 3),
    in_channels: int = 160,
    dtype: torch.dtype = torch.float32,
    planar: bool = False,
    least: dict = winograd.MAP,
    out_channels: int = 128,
) -> bool:
    layout = Layout(10, batch, (32, 32), in_channels // 2, in_channels // 2, multiple=1, planar=planar)
    weight = torch.empty((), dtype=dtype).expand(out_channels, *kernel, in_channels)
    return winograd.is_faster(layout, weight, least)


def test_it_is_taken_where_it_was_measured_to_be_faster(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_devices, "CPU_CAPABILITY", "AVX2")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert is_faster()
    assert not is_faster(in_channels=64)
    assert is_faster(in_channels=64, least=winograd.WEIGHT_GRAD)
    assert is_faster(in_channels=64, kernel=(5, 7))
    assert not is_faster(in_channels=64, kernel=(5, 3))
    assert is_faster(in_channels=16, kernel=(5, 5))
    assert not is_faster(in_channels=14, kernel=(5, 5))
    assert is_faster(in_channels=14, kernel=(5, 5), out_channels=168)
    assert not is_faster(in_channels=12, kernel=(5, 5), out_channels=10**6), "too few, whatever the number of others"
    assert not is_faster(in_channels=0, kernel=(5, 5))
    assert not is_faster(batch=1)
    assert is_faster(batch=1, kernel=(5, 5))
    assert not is_faster(batch=0, kernel=(5, 5))
    assert not is_faster(kernel=(1, 5))
    assert not is_faster(kernel=(9, 9))
    assert not is_faster(dtype=torch.float64)
    assert not is_faster(dtype=torch.bfloat16)
    assert not is_faster(planar=True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert not is_faster()
    assert is_faster(kernel=(5, 5))
    monkeypatch.setattr(_devices, "CPU_CAPABILITY", "AVX512")
    assert not is_faster()


def test_tiles_are_large_where_their_products_fit():
    def tile(workspace: int, images: int = 1, kernel: tuple[int, int] = (5, 5), out_channels: int = 64) -> int:
        layout = layout_of((images, 64, 64), 64, out_channels)
        return winograd._tile(layout, torch.empty(out_channels, *kernel, 64), workspace)

    needed = 256 * 64 * 64 * 4  # bytes, of 16 × 16 products
    assert tile(needed) == 8
    assert tile(needed - 1) == 4
    assert tile(needed - 1, images=8) == 8, "a step's result takes as much"
    assert tile(2**20, images=64, out_channels=256) == 4, "more than is ever taken"
    assert tile(2**30, kernel=(3, 5)) == 4


def test_the_choice_is_made_by_the_layer_and_its_sizes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_devices, "CPU_CAPABILITY", "AVX2")
    layout, weight = layout_of((1, 64, 32), 64, 128), torch.empty(128, 5, 5, 64)
    assert isinstance(linear_map(layout, weight, workspace=WORKSPACE), winograd.Map)
    assert isinstance(weight_grad(layout, weight, workspace=WORKSPACE), winograd.WeightGrad)
    small = replace(layout, batch=1, spatial=(16, 16))
    assert isinstance(linear_map(small, weight, workspace=WORKSPACE), convolution.Map)
    assert isinstance(weight_grad(small, weight, workspace=WORKSPACE), convolution.WeightGrad)


def test_a_part_alone_pays_where_pytorch_convolves_or_it_is_small(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_devices, "CPU_CAPABILITY", "AVX2")
    layout, weight = layout_of((1, 64, 32), 32, 128), torch.empty(128, 5, 5, 64)
    for pays in (map_pays_in_part, weight_grad_pays_in_part):
        assert pays(layout, weight, 31, 64)
        assert not pays(layout, weight, 32, 64)
        assert pays(replace(layout, spatial=(16, 16)), weight, 32, 64)


def test_what_a_map_prepares_is_foretold(workspace: int):
    layout, weight = layout_of((2, 9, 6), 3, 8), normal(8, 5, 5, 3)
    held = winograd.Map(layout, weight, workspace=workspace)._weight
    assert winograd.prepared_bytes(layout, weight, workspace) == held.nbytes


@pytest.mark.parametrize("mode", ["concat, save", "concat, recompute"])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("grad_pays", [True, False])
@pytest.mark.parametrize("map_pays", [True, False])
def test_a_first_step_without_a_state_is_of_the_input_alone_or_whole(
    monkeypatch: pytest.MonkeyPatch, map_pays: bool, grad_pays: bool, steps: int, mode: str
):
    """The map, made again too, with its adjoint by itself, and the gradient by itself."""
    monkeypatch.setattr(_maps, "map_pays_in_part", lambda *_: map_pays)
    monkeypatch.setattr(_maps, "weight_grad_pays_in_part", lambda *_: grad_pays)
    shape = Shape(steps=steps, state=False)
    problem = Problem.random(shape, torch.float64)
    got = problem.solve(by_operator(False, **MODES[mode]))
    allowed = budgets(lambda seed: Problem.random(shape, torch.float64, seed=seed), torch.float64)
    for name, expected in problem.solve(by_reference).items():
        assert_within(name, got[name], expected, allowed[name])


SHAPES = {
    "state": Shape(steps=5, spatial=(9, 6)),
    "no state, wide kernel": Shape(steps=4, state=False, kernel=(3, 5), peephole="full"),
    "no input": Shape(in_channels=0),
    "input kernel": Shape(input_kernel=(5, 3)),
}


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Minimal filtering for every convolution; how many maps were made."""
    made, make = [0], winograd.Map.__init__

    def count(*args, **options) -> None:
        made[0] += 1
        make(*args, **options)

    monkeypatch.setattr(winograd.Map, "__init__", count)
    monkeypatch.setattr(winograd, "is_faster", lambda layout, *_: True)
    return lambda: made[0]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_computes_what_the_oracle_does(
    everywhere, monkeypatch: pytest.MonkeyPatch, mode: str, shape: Shape, dtype: torch.dtype
):
    if "recompute" in mode:
        monkeypatch.setattr(_sequence, "chunk_length", lambda *_: 2)
    problem = Problem.random(shape, torch.float64)
    got = problem.to(dtype).solve(by_operator(False, **MODES[mode]))
    assert everywhere() > 0
    allowed = budgets(lambda seed: Problem.random(shape, torch.float64, seed=seed), dtype)
    for name, expected in problem.solve(by_reference).items():
        assert_within(name, got[name], expected, allowed[name])


@pytest.mark.parametrize("mode", [Mode(), Mode(recompute=True)], ids=str)
def test_no_map_is_kept_beside_another_where_gates_are_made_again(everywhere, monkeypatch, mode: Mode):
    """The backward pass: what lives while a weight's gradient, and while a map, is computed."""
    alive, at_add, at_call = weakref.WeakSet(), [], []

    def spy(owner: type, name: str, note: Callable[[object], None]) -> None:
        method = getattr(owner, name)

        def noted(self, *args, **options):
            note(self)
            return method(self, *args, **options)

        monkeypatch.setattr(owner, name, noted)

    problem = Problem.random(Shape(steps=6, spatial=(9, 6)), torch.float64)
    saved = forward(problem, save=True, pointwise=_gates_aten, mode=mode)
    spy(winograd.Map, "__init__", alive.add)
    spy(winograd.Map, "__call__", lambda _: at_call.append(len(alive)))
    spy(winograd.WeightGrad, "add", lambda _: at_add.append(len(alive)))
    monkeypatch.setattr(_sequence, "CHUNK_BYTES", 0)
    needs = Needs(*[True] * 7)._replace(input_weight=False)
    backward(problem, saved, needs, pointwise=_gates_aten, mode=mode)
    assert len(at_add) > 1
    assert set(at_add) == {0 if mode.recompute else 1}
    assert set(at_call) == {1}
