"""Minimal filtering against the convolutions and the numbers that it stands for."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from tests.support.covering import Row, describe, pairwise
from tests.support.nonfinite import PLACES, assert_same_everywhere, by_documented_equations, spoiled
from tests.support.problems import MODES, Problem, Shape, by_operator, by_reference, growing_budgets
from tests.support.tolerances import assert_all_within, assert_within, budget
from tritonlstm.core import devices
from tritonlstm.core.layout import Layout
from tritonlstm.engines import chunks
from tritonlstm.linear import linear_map, tiles, winograd
from tritonlstm.linear.convolution import Convolution
from tritonlstm.linear.winograd import Winograd

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


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Minimal filtering for every part of every convolution, whatever its sizes, dtype and CPU; how many there were."""
    made, make = [0], Winograd.__init__

    def count(self, *args) -> None:
        made[0] += 1
        make(self, *args)

    monkeypatch.setattr(Winograd, "__init__", count)
    monkeypatch.setattr(winograd, "_parts", lambda *_: winograd.Parts(True, True, True))
    monkeypatch.setattr("tritonlstm.linear.is_faster", lambda *_: True)
    return lambda: made[0]


@pytest.fixture(params=[(4, False), (8, False), (4, True), (8, True)], ids=["4", "8", "4, blocks", "8, blocks"])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Tiles of either size, all of them at once or in many blocks."""
    tile, in_blocks = request.param
    monkeypatch.setattr(tiles, "_tile", lambda *_: tile)
    if in_blocks:
        monkeypatch.setattr(tiles, "BLOCK_BYTES", 1)
        monkeypatch.setattr(tiles, "BLOCK_TILES", 2)
    return tile


def pair(layout: Layout, weight: Tensor, bias: Tensor | None = None) -> tuple[Winograd, Convolution]:
    plain = Convolution(layout, weight, bias)
    return Winograd(layout, weight, bias, plain), plain


@pytest.mark.parametrize("with_bias", [False, True])
@each_case
def test_forward_is_the_convolution(always, tile: int, sizes, in_channels, out_channels, kernel, with_bias: bool):
    weight, bias = normal(out_channels, in_channels, *kernel), normal(out_channels) if with_bias else None
    filtered, plain = pair(layout_of(sizes, in_channels, out_channels), 0.1 * weight, bias)
    rows = normal(*sizes, in_channels)
    assert filtered.is_in_range(rows)
    got = filtered.forward(rows)
    assert got.is_contiguous()
    torch.testing.assert_close(got, plain.forward(rows), rtol=0, atol=1e-12)


@each_case
def test_the_gradients_are_those_of_the_convolution(always, tile: int, sizes, in_channels, out_channels, kernel):
    weight = 0.1 * normal(out_channels, in_channels, *kernel)
    maps = pair(layout_of(sizes, in_channels, out_channels), weight)
    sums = [each.weight_grad() for each in maps]
    for images in (sizes[0], 1):
        rows, grad = (normal(images, *sizes[1:], channels) for channels in (in_channels, out_channels))
        grad += grad.sign()  # even
        assert winograd.is_even(grad)
        got, expected = (each.input_grad(grad) for each in maps)
        assert got.is_contiguous()
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        for sum in sums:
            sum.add(rows, grad)
    assert sums[0]._sum is not None
    torch.testing.assert_close(sums[0].result(), sums[1].result(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_errors_are_within_the_budget_whatever_pytorchs_are(always, tile: int, kernel: int):
    """How well oneDNN sums a weight's gradient differs between CPUs: only the budget holds on all of them."""
    layout = layout_of((2, 24, 24), 64, 64)
    weight, rows, grad = normal(64, 64, kernel, kernel), normal(2, 24, 24, 64), normal(2, 24, 24, 64)
    weight *= (64 * kernel**2) ** -0.5

    def results(kind: int, dtype: torch.dtype) -> dict[str, Tensor]:
        map = pair(layout, weight.to(dtype))[kind]
        sum = map.weight_grad()
        sum.add(rows.to(dtype), grad.to(dtype))
        return {
            "result": map.forward(rows.to(dtype)),
            "gradient of the argument": map.input_grad(grad.to(dtype)),
            "gradient of the weight": sum.result(),
        }

    oracle, plain = results(1, torch.float64), results(1, torch.float32)
    for name, got in results(0, torch.float32).items():
        assert_within(name, got, oracle[name], budget(plain[name], oracle[name], torch.float32))


VALUES = ["-9999", "nan", "inf", "-inf"]
VALUES += [f"1e{exponent}" for exponent in (-30, -20, -8, -3, 0, 1, 2, 3, 4, 8, 20, 30)]


@pytest.mark.parametrize(
    "row", pairwise({"kernel": (3, 5, 7), "value": VALUES, "place": ("one pixel", "region")}), ids=describe
)
class TestNoPixelChangesThatCannotSeeTheCause:
    """One pixel, or 21 of the 48 image rows, has another value. Where a kernel does not reach it, everything stays
    within the budget: twice the error that PyTorch has there."""

    def spoil(self, tensor: Tensor, row: Row) -> tuple[Tensor, Tensor]:
        """The tensor with another value, and the pixels from which it cannot be seen, (1, H, W)."""
        place, kernel = torch.zeros(1, 48, 24), row["kernel"]
        place[(0, slice(0, 21)) if row["place"] == "region" else (0, 20, 9)] = 1
        reach = torch.nn.functional.max_pool2d(place, kernel, stride=1, padding=kernel // 2)
        return tensor.masked_fill(place.bool()[..., None], float(row["value"])), reach == 0

    def implementations(self, kernel: int) -> tuple[Winograd, Convolution, Convolution]:
        """Filtered and plain in float32, and plain in float64."""
        layout, weight = layout_of((1, 48, 24), 16, 32), normal(32, 16, kernel, kernel) * (16 * kernel**2) ** -0.5
        return *pair(layout, weight.float()), Convolution(layout, weight.float().double(), None)

    def test_forward(self, always, row: Row):
        filtered, plain, exact = self.implementations(row["kernel"])
        rows, far = self.spoil(normal(1, 48, 24, 16).float(), row)
        oracle = exact.forward(rows.double())[far]
        allowed = budget(plain.forward(rows)[far], oracle, torch.float32)
        assert_within("result", filtered.forward(rows)[far], oracle, allowed)

    def test_backward(self, always, row: Row):
        filtered, plain, exact = self.implementations(row["kernel"])
        grad, far = self.spoil(normal(1, 48, 24, 32).float(), row)
        oracle = exact.input_grad(grad.double())[far]
        allowed = budget(plain.input_grad(grad)[far], oracle, torch.float32)
        assert_within("gradient", filtered.input_grad(grad)[far], oracle, allowed)

    def test_the_weights_gradient_of_a_loss_over_far_pixels(self, always, row: Row):
        rows, far = self.spoil(normal(1, 48, 24, 16).float(), row)
        grad = normal(1, 48, 24, 32).float() * far[..., None]
        results = []
        for map, dtype in zip(self.implementations(row["kernel"]), (torch.float32, torch.float32, torch.float64)):
            sum = map.weight_grad()
            sum.add(rows.to(dtype), grad.to(dtype))
            results.append(sum.result())
        got, plain, oracle = results
        if not oracle.isfinite().all():  # 0 · NaN, in PyTorch too
            assert torch.equal(got.isfinite(), plain.isfinite())
            return
        assert_within("gradient of the weight", got, oracle, budget(plain, oracle, torch.float32))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-8, 1.0, 1e8, 1e20, 1e30])
def test_any_magnitude_of_the_whole(always, scale: float):
    layout, weight = layout_of((1, 48, 24), 16, 32), 0.05 * normal(32, 16, 5, 5)
    filtered, plain = pair(layout, weight.float())
    exact = Convolution(layout, weight.float().double(), None)
    rows, grad = scale * normal(1, 48, 24, 16).float(), scale * normal(1, 48, 24, 32).float()
    for name, method, given in (("forward", "forward", rows), ("backward", "input_grad", grad)):
        oracle = getattr(exact, method)(given.double())
        allowed = budget(getattr(plain, method)(given), oracle, torch.float32)
        assert_within(name, getattr(filtered, method)(given), oracle, allowed)


@pytest.mark.parametrize("value", [-9999.0, 1e20, float("nan"), float("inf")], ids=str)
def test_a_layer_keeps_a_fill_value_where_it_is(always, value: float):
    """A layer's state after two steps, beyond the reach of one pixel."""
    problem = Problem.random(
        Shape(steps=2, batch=1, in_channels=1, channels=8, spatial=(48, 24), kernel=(5, 5)), torch.float32
    )
    clean = by_operator()(problem)
    problem.input[0, 0, 0, 20, 9] = value
    seen = torch.zeros(48, 24, dtype=torch.bool)
    seen[16:25, 5:14] = True  # two steps of 5×5 pixels see it from 4 pixels away
    for result, without in zip(by_operator()(problem), clean, strict=True):
        # Elsewhere only the roundings of another algorithm differ.
        torch.testing.assert_close(result[..., ~seen], without[..., ~seen], rtol=0, atol=2e-6)


@pytest.mark.parametrize("mode", ["concat, save", "hoisted, recompute"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_a_layer_sends_what_is_not_finite_in_a_parameter_where_pytorch_does(
    always, place: str, value: float, mode: str
):
    shape = Shape(steps=2, batch=1, channels=4, spatial=(13, 9), kernel=(3, 5), state=False)
    problem = spoiled(Problem.random(shape, torch.float32), place, value)
    got = problem.solve(by_operator(**MODES[mode]))
    assert always() > 0
    assert_same_everywhere(got, problem.solve(partial(by_documented_equations, mode=mode)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
@each_case
def test_a_weight_that_is_not_finite_is_left_to_the_convolution(
    always, sizes, in_channels, out_channels, kernel, value: float
):
    """In every part: filtered, one number would spread over the kernel."""
    weight = normal(out_channels, in_channels, *kernel)
    weight[1, 1, 0, 0] = value
    filtered, plain = pair(layout_of(sizes, in_channels, out_channels), weight)
    rows, grad = (1 + normal(*sizes, channels).abs() for channels in (in_channels, out_channels))
    sums = filtered.weight_grad(), plain.weight_grad()
    for sum in sums:
        sum.add(rows, grad)
    for got, expected in (
        (filtered.forward(rows), plain.forward(rows)),
        (filtered.input_grad(grad), plain.input_grad(grad)),
        [sum.result() for sum in sums],
    ):
        assert torch.equal(got.isfinite(), expected.isfinite())
        torch.testing.assert_close(got, expected, equal_nan=True)


def parts(
    capability: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    batch: int = 2,
    size: int = 32,
    kernel: tuple[int, ...] = (5, 5),
    channels: tuple[int, int] = (64, 64),
    dtype: torch.dtype = torch.float32,
) -> str:
    """The parts that minimal filtering computes: "forward", "input", "weight"."""
    monkeypatch.setattr(devices, "CPU_CAPABILITY", capability)
    inputs, outputs = channels
    layout, weight = layout_of((batch, size, size), inputs, outputs), torch.empty(outputs, inputs, *kernel, dtype=dtype)
    map = linear_map(layout, weight)
    if not isinstance(map, Winograd):
        return ""
    return " ".join(name for name, part in zip(("forward", "input", "weight"), map._parts) if part)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_it_is_chosen_where_it_was_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, capability: str, threads: int
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    wide, everything = (capability, threads) == ("AVX512", 2), "forward input weight"

    def of(**sizes) -> str:
        return parts(capability, monkeypatch, **sizes)

    assert of() == of(kernel=(7, 5)) == ("" if wide else everything)
    few_pixels = everything if (capability, threads) == ("AVX2", 1) else ""
    assert of(batch=1, size=16) == of(batch=1, size=16, kernel=(7, 5)) == few_pixels
    assert of(batch=1, size=15) == ""
    assert of(channels=(256, 256)) == of(channels=(256, 256), kernel=(7, 5)) == everything
    assert of(channels=(128, 128), kernel=(7, 7)) == ("forward input" if wide else everything)
    assert of(channels=(16, 256)) == ("" if capability == "AVX512" else "forward weight")
    assert of(kernel=(3, 3)) == ("" if capability == "AVX512" else "weight")
    assert of(kernel=(3, 3), channels=(160, 128)) == ("" if capability == "AVX512" else everything)
    assert of(channels=(8, 10**4)) == "", "too few, whatever the number of others"
    for sizes in ({"batch": 0}, {"kernel": (1, 5)}, {"kernel": (9, 9)}, {"kernel": (5,)}):
        assert of(**sizes) == ""
    assert of(dtype=torch.float64) == of(dtype=torch.bfloat16) == ""


def test_it_is_not_chosen_on_other_cpus(monkeypatch: pytest.MonkeyPatch):
    assert parts("NEON", monkeypatch) == ""
    assert parts("AVX2", monkeypatch)


def test_tiles_are_large_where_their_products_fit(monkeypatch: pytest.MonkeyPatch):
    needed = 256 * 64 * 64 * 4  # bytes, of 16 × 16 products
    for limit, expected in ((needed, 8), (needed - 1, 4)):
        monkeypatch.setattr(tiles, "LARGE_TILE_BYTES", limit)
        assert tiles.Tiling((5, 5), (64, 64), torch.float32).tile == expected
    monkeypatch.setattr(tiles, "LARGE_TILE_BYTES", 2**30)
    assert tiles.Tiling((3, 5), (64, 64), torch.float32).tile == 4


SHAPES = {
    "state": Shape(steps=5, spatial=(9, 6)),
    "no state, wide kernel": Shape(steps=4, state=False, kernel=(3, 5), peephole="full"),
    "no input": Shape(in_channels=0),
    "input kernel": Shape(input_kernel=(5, 3)),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_computes_what_the_oracle_does(
    always, monkeypatch: pytest.MonkeyPatch, mode: str, shape: Shape, dtype: torch.dtype
):
    if "recompute" in mode:
        monkeypatch.setattr(chunks, "chunk_length", lambda *_: 2)
    problem = Problem.random(shape, torch.float64)
    got = problem.to(dtype).solve(by_operator(**MODES[mode]))
    assert always() > 0
    budgets = growing_budgets(lambda seed: Problem.random(shape, torch.float64, seed=seed), dtype)
    assert_all_within(got, problem.solve(by_reference), budgets)
