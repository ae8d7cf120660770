"""The kernels against the float64 oracle, the same bits on every run, and tensors of more than 2³¹ elements."""

from functools import partial

import pytest
import torch

from tests.gpu.conftest import ON_CUDA
from tests.support.layouts import OF_IMAGES, OF_VECTORS
from tests.support.problems import (
    MODES,
    SHAPES,
    VECTORS,
    Problem,
    Shape,
    by_operator,
    by_reference,
    growing_budgets,
    in_channels_last,
    modes_of,
)
from tests.support.ptx import ON_PTX
from tests.support.tolerances import assert_all_within
from tritonlstm import ConvLSTM2d, Spec
from tritonlstm.cells import BackwardStep, ForwardStep
from tritonlstm.cells.aten import AtenCell
from tritonlstm.cells.triton import TritonCell
from tritonlstm.core.layout import GPU_MULTIPLE, Layout
from tritonlstm.tuning.tolerances import largest_error

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LARGER = {
    "paper": Shape(steps=3, batch=4, in_channels=64, channels=64, spatial=(16, 16), kernel=(5, 5)),
    "one grey channel": Shape(steps=3, batch=2, in_channels=1, channels=64, spatial=(32, 32), kernel=(3, 3)),
    "odd": Shape(steps=2, batch=2, in_channels=7, channels=33, spatial=(61, 47), kernel=(3, 3)),
    "many pixels, full peephole": Shape(steps=2, channels=8, spatial=(128, 96), kernel=(3, 3), peephole="full"),
}
CASES = {"base": SHAPES["base"], "vectors": SHAPES["vectors"]}
if ON_CUDA or ON_PTX:
    CASES = SHAPES
if ON_CUDA:
    CASES = SHAPES | LARGER


def check(draw, dtype: torch.dtype, device: str, record_property, **mode: str) -> None:
    """Every result and every gradient; records the largest error, as a part of what is allowed.

    On a GPU, cuDNN's sums in float32 over many pixels may err more in the layer's memory format and with its padded
    channels than over contiguous images. There PyTorch gets the same; what part of the other budget it takes is
    recorded too.
    """
    problem = draw(0)
    backend = "aten" if dtype == torch.float64 else "triton"
    got = problem.to(device).solve(by_operator(backend=backend, **mode))
    oracle = problem.to(torch.float64).solve(by_reference)
    got, plain = {name: result.cpu() for name, result in got.items()}, by_reference
    if ON_CUDA and dtype == torch.float32 and problem.shape in LARGER.values():
        plain = partial(in_channels_last, multiple=GPU_MULTIPLE)
        contiguous = next(growing_budgets(draw, dtype, device=device))
        parts = [largest_error(got[name], oracle[name]) / contiguous[name] for name in oracle]
        record_property("largest_part_of_contiguous_budget", round(max(parts), 3))
    part = assert_all_within(got, oracle, growing_budgets(draw, dtype, device=device, plain=plain))
    record_property("largest_part_of_budget", round(part, 3))


@pytest.mark.parametrize("shape", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
def test_kernels_agree_with_the_oracle(shape: Shape, dtype: torch.dtype, device: str, record_property):
    check(lambda seed: Problem.random(shape, dtype, seed), dtype, device, record_property)


@pytest.mark.parametrize("shape", CASES.values(), ids=CASES.keys())
def test_float64_agrees_with_the_oracle(shape: Shape, device: str, record_property):
    check(lambda seed: Problem.random(shape, torch.float64, seed), torch.float64, device, record_property)


@pytest.mark.parametrize("layout", OF_IMAGES[1:])
def test_any_strides_of_input_and_output_gradient(layout, device: str, record_property):
    def draw(seed: int) -> Problem:
        problem = Problem.random(Shape(), torch.float32, seed)
        problem.input = layout(problem.input)
        problem.cotangents["output"] = layout(problem.cotangents["output"])
        return problem

    check(draw, torch.float32, device, record_property)


@pytest.mark.parametrize("layout", OF_VECTORS[1:])
def test_any_strides_of_vectors(layout, device: str, record_property):
    def draw(seed: int) -> Problem:
        problem = Problem.random(VECTORS, torch.float32, seed)
        problem.cotangents["output"] = layout(problem.cotangents["output"])
        return problem

    check(draw, torch.float32, device, record_property)


@pytest.mark.cuda
@pytest.mark.parametrize("shape", ["base", "64 channels", "1×1 kernel", "vectors"])
def test_tf32_errs_no_more_than_pytorch_with_tf32(shape: str, device: str, record_property):
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "tf32"
    check(lambda seed: Problem.random(SHAPES[shape], torch.float32, seed), torch.float32, device, record_property)


@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("peephole", ["none", "channel", "full"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
def test_20_runs_give_the_same_bits(dtype: torch.dtype, peephole: str, device: str):
    size = {"batch": 4, "channels": 64, "spatial": (24, 24)} if ON_CUDA else {}
    problem = Problem.random(Shape(peephole=peephole, **size), dtype).to(device)
    first = problem.solve(by_operator(backend="triton"))
    for _ in range(20 if ON_CUDA else 2):
        for name, tensor in problem.solve(by_operator(backend="triton")).items():
            assert torch.equal(tensor, first[name]), name


def test_without_cudnns_determinism_all_but_the_weight_gradient_repeat(device: str):
    problem = Problem.random(Shape(peephole="full"), torch.bfloat16).to(device)
    first = problem.solve(by_operator(backend="triton"))
    again = problem.solve(by_operator(backend="triton"))
    for name in first:
        assert name == "grad of weight" or torch.equal(again[name], first[name]), name


def test_gate_kernels_reach_beyond_2_31_elements(device: str, record_property):
    """One step whose gates have 2.2·10⁹ elements: the first and the last rows, against ATen on those rows alone.

    Interpreted, a few rows.
    """
    channels, rows, few = 132, 2**22 if ON_CUDA else 2**6, 4096 if ON_CUDA else 2**4

    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(shape, device=device, dtype=dtype)

    def ends(tensor: torch.Tensor) -> list[torch.Tensor]:
        return [tensor[:few].clone(), tensor[-few:].clone()]

    generator = torch.Generator(device).manual_seed(0)
    preact = empty(rows, 1, 4 * channels).normal_(generator=generator)
    assert preact.numel() > 2**31 or not ON_CUDA
    c = empty(rows, 1, channels, dtype=torch.float32).normal_(generator=generator)
    peephole = torch.randn(3, 1, channels, device=device, generator=generator)  # rows
    preacts, cells = ends(preact), ends(c)
    triton_cell = TritonCell(Layout(1, rows, (1,), 0, channels, multiple=1), Spec(), preact, None, peephole)
    part = Layout(1, few, (1,), 0, channels, multiple=1)
    aten_cell = AtenCell(part, Spec(), preact, None, peephole)

    c_next, h, h_next = torch.empty_like(c), empty(rows, 1, channels), empty(rows, 1, channels)
    triton_cell.forward(ForwardStep(preact, addend=None, c_prev=c, gates=preact, c=c_next, h=h, h_next=h_next))
    expected = []
    for place, (a, c_prev) in enumerate(zip(preacts, cells)):
        h_part, h_next_part = torch.empty_like(a[..., :channels]), torch.empty_like(a[..., :channels])
        gates, c_part = AtenCell.new_gates(h_part, 1)[0], torch.empty_like(c_prev)
        aten_cell.forward(ForwardStep(a, None, c_prev, gates=gates, c=c_part, h=h_part, h_next=h_next_part))
        expected.append((gates, c_part))
        in_rows = torch.cat(gates.unbind(), -1)
        for got, wanted in ((preact, in_rows), (c_next, c_part), (h, h_part), (h_next, h_next_part)):
            torch.testing.assert_close(ends(got)[place], wanted, rtol=1e-2, atol=1e-2)

    def step(grad_output: torch.Tensor, grad_c: torch.Tensor, grad_preact: torch.Tensor) -> BackwardStep:
        return BackwardStep(preact, c, c_next, grad_output, grad_h=h_next, grad_c=grad_c, grad_preact=grad_preact)

    grad_c, grad_preact = torch.empty_like(c).normal_(generator=generator), empty(*preact.shape)
    grad_cs = ends(grad_c)
    triton_cell.backward(step(h, grad_c, grad_preact))
    for place, (gates, c_part) in enumerate(expected):
        wanted = torch.empty_like(preacts[place])
        aten_cell.backward(
            BackwardStep(gates, cells[place], c_part, ends(h)[place], ends(h_next)[place], grad_cs[place], wanted)
        )
        torch.testing.assert_close(ends(grad_preact)[place], wanted, rtol=2e-2, atol=2e-2)
        torch.testing.assert_close(ends(grad_c)[place], grad_cs[place], rtol=2e-2, atol=2e-2)

    # A gradient whose channels lie further apart than 32 bits count.
    apart = empty(channels, 2**24 if ON_CUDA else 2**7).normal_(generator=generator)[:, :rows].t().unsqueeze(1)
    results = []
    for gradient in (apart, apart.contiguous()):
        results.append((c.clone(), torch.empty_like(grad_preact)))
        triton_cell.backward(step(gradient, *results[-1]))
    for one, other in zip(*results):
        assert torch.equal(one, other)
    del apart, results

    sums = triton_cell.parameter_grads(c, bias=True, peephole=True)
    sums.add(grad_preact[None], c_prev=c[None], c=c_next[None])
    bias, _ = sums.result()
    expected = sum(piece.sum((0, 1), dtype=torch.float64) for piece in grad_preact.split(2**18))
    record_property("largest_bias_error", (bias - expected).abs().max().item() / expected.abs().max().item())
    torch.testing.assert_close(bias.double(), expected, rtol=1e-3, atol=1e-2 * rows**0.5)


@pytest.mark.cuda
@pytest.mark.usefixtures("repeatable")
def test_a_sequence_of_more_than_2_31_elements_equals_its_parts(device: str):
    layer = ConvLSTM2d(8, 64, 3, device=device, dtype=torch.bfloat16)
    input = torch.randn(9, 4, 8, 1024, 1024, device=device, dtype=torch.bfloat16)
    with torch.no_grad():
        output, state = layer(input)
        assert output.numel() > 2**31
        carried = None
        for first in range(0, 9, 3):
            part, carried = layer(input[first : first + 3], carried)
            assert torch.equal(output[first : first + 3], part), first
            del part
    for (h, c), (h_part, c_part) in zip(state, carried, strict=True):
        assert torch.equal(h, h_part)
        assert torch.equal(c, c_part)


def test_a_step_of_more_than_2_31_pre_activations_equals_those_of_its_samples(device: str):
    """cuDNN's own operator does not count so many, nor do all of its kernels; each sample alone has fewer. Interpreted,
    a small image."""
    channels, height, width = (64, 1024, 3072) if ON_CUDA else (4, 5, 6)
    layer = ConvLSTM2d(8, channels, 3, backend="triton", device=device, dtype=torch.bfloat16)
    input = torch.randn(1, 3, 8, height, width, device=device, dtype=torch.bfloat16)
    cotangent = torch.randn(1, 3, channels, height, width, device=device, dtype=torch.bfloat16)
    parameters = list(layer.parameters())
    output, _ = layer(input)
    assert 4 * output.numel() > 2**31 or not ON_CUDA
    grads = torch.autograd.grad(output, parameters, cotangent)
    expected = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
    for sample in range(3):
        part, _ = layer(input[:, sample : sample + 1])
        torch.testing.assert_close(output[:, sample : sample + 1], part, rtol=1e-2, atol=1e-2)
        for total, grad in zip(
            expected, torch.autograd.grad(part, parameters, cotangent[:, sample : sample + 1]), strict=True
        ):
            total += grad
        del part
    for grad, total in zip(grads, expected, strict=True):
        assert (grad - total).norm() <= 1e-2 * total.norm()


# Last: there are so many that a run in one process has no time for all.
OTHER_MODES = [
    (mode, name, dtype)
    for name, shape in CASES.items()
    for mode in modes_of(shape)
    if mode != "concat, save"
    for dtype in ("fp32", "bf16")
]
if ON_CUDA:  # where time is short: each mode of each shape, in the two dtypes by turns
    OTHER_MODES = [row for place, row in enumerate(OTHER_MODES) if place % 4 in (0, 3)]


@pytest.mark.parametrize(("mode", "name", "dtype"), OTHER_MODES)
def test_other_modes_agree_with_the_oracle(mode: str, name: str, dtype: str, device: str, record_property):
    shape, dtype = CASES[name], DTYPES[dtype]
    check(lambda seed: Problem.random(shape, dtype, seed), dtype, device, record_property, **MODES[mode])
