"""Steps one by one, composed of a convolution and the gates, against the float64 oracle."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from tests.support.covering import Row, describe, pairwise
from tests.support.layers import step_by_step
from tests.support.problems import SHAPES, Problem, Shape, arguments, by_reference, growing_budgets, spec_of
from tests.support.tolerances import assert_all_within, budget
from tritonlstm import ConvLSTM2d, ConvLSTM3d, Spec
from tritonlstm.core import once
from tritonlstm.core.arguments import Arguments, Results
from tritonlstm.core.checks import SPATIAL_DIMS
from tritonlstm.core.dtypes import cell_dtype
from tritonlstm.core.spec import CHOICES, PADDING_MODES
from tritonlstm.functional import gates
from tritonlstm.functional.step import step

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BACKENDS = tuple(name for name in CHOICES["backend"] if name != "inductor")  # compiles for seconds
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
POINTWISE = {name: CHOICES[name] for name in ("activation", "recurrent_activation", "output_activation")}
POINTWISE["cell_clip"] = (None, 0.75)


def in_format(tensor: Tensor | None, format: str) -> Tensor | None:
    """An image in this memory format."""
    return tensor.contiguous(memory_format=FORMATS[format]) if tensor is not None and tensor.dim() == 4 else tensor


def by_steps(backend: str, format: str = "contiguous"):
    """Solve by a loop over `step`, with input, state and weight in this memory format."""

    def run(problem: Problem) -> Results:
        shape, given = problem.shape, arguments(problem)
        h, c, weight = (in_format(tensor, format) for tensor in (given.h0, given.c0, given.weight))
        given, spec = given._replace(weight=weight), spec_of(problem, backend=backend)
        output = []
        for t in range(shape.steps):
            frame = None if given.input is None else in_format(given.input[t], format)
            h, c = step(Arguments(frame, h, c, *given[3:]), spec, SPATIAL_DIMS.get(len(shape.spatial), ()))
            output.append(h)
        return Results(torch.stack(output), h, c)

    return run


def cell_arguments(cell: ConvLSTM2d, frame: Tensor) -> Arguments:
    """Of a cell's first step."""
    return Arguments(frame, None, None, cell.weight, cell.input_weight, cell.bias, cell.peephole)


OF_A_STEP = [
    name
    for name, shape in SHAPES.items()
    if not (shape.preact or shape.masks or shape.spec.reverse) and shape.spec.returns == "sequence"
]
"""A step has no direction, no masks, and returns what it computes; pre-activations that are there are `lstm_gates`'
matter."""


def fits(row: Row) -> bool:
    """The kernels compute in float32, and only a bias keeps c far from its bound."""
    if row.get("cell_clip") is not None and not row.get("bias", True):
        return False
    return (row.get("backend"), row.get("dtype")) != ("triton", "fp64")


def check(problem: Problem, row: Row, budgets: Iterable[dict[str, float]]) -> None:
    dtype = DTYPES[row["dtype"]]
    got = problem.solve(by_steps(row["backend"], row["format"]))
    assert_all_within(got, problem.to(torch.float64).solve(by_reference), budgets)
    for name, tensor in got.items():
        assert tensor.dtype == (cell_dtype(dtype) if name in ("c_n", "grad of c0") else dtype), name


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    "row", pairwise({"shape": OF_A_STEP, "dtype": DTYPES, "backend": BACKENDS, "format": FORMATS}, fits), ids=describe
)
def test_shapes_agree_with_the_oracle(row: Row):
    """Every shape in every dtype, in both memory formats, on every backend."""
    dtype = DTYPES[row["dtype"]]
    problem = Problem.random(SHAPES[row["shape"]], dtype)
    oracle, reference = (problem.to(each).solve(by_reference) for each in (torch.float64, dtype))
    check(problem, row, [{name: budget(reference[name], oracle[name], dtype) for name in oracle}])


OPTIONS = {
    **POINTWISE,
    "peephole": ("none", "channel", "full"),
    "bias": (True, False),
    "input_kernel": (None, (5, 1)),
    "state": (True, False),
    "dtype": DTYPES,
    "backend": BACKENDS,
    "format": FORMATS,
    "dilation": (1, 2, (2, 1)),
    "padding_mode": (*PADDING_MODES, ("zeros", "circular")),
}


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("row", pairwise(OPTIONS, fits), ids=describe)
def test_options_agree_with_the_oracle(row: Row):
    dtype = DTYPES[row["dtype"]]
    shape = Shape(**{name: row[name] for name in ("peephole", "bias", "input_kernel", "state")})
    shape = shape.but(spec=Spec(**{name: row[name] for name in (*POINTWISE, "dilation", "padding_mode")}))
    budgets = growing_budgets(lambda seed: Problem.random(shape, dtype, seed), dtype)
    check(Problem.random(shape, dtype), row, budgets)


@pytest.mark.parametrize("format", FORMATS)
def test_the_compiled_gates_agree_with_the_oracle(format: str):
    problem = Problem.random(Shape(), torch.float32)
    oracle, reference = (problem.to(each).solve(by_reference) for each in (torch.float64, torch.float32))
    budgets = [{name: budget(reference[name], oracle[name], torch.float32) for name in oracle}]
    check(problem, {"dtype": "fp32", "backend": "inductor", "format": format}, budgets)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("few", [0, gates.FEW], ids=["operator", "plain operations"])
def test_a_loop_of_steps_keeps_its_memory_format(monkeypatch: pytest.MonkeyPatch, format: str, few: int):
    monkeypatch.setattr(gates, "FEW", few)
    monkeypatch.setattr(once, "_passed", {})  # plans were made with the other number
    layer = ConvLSTM2d(3, [4, 5], 3).to(memory_format=FORMATS[format])
    frames, state = torch.randn(3, 2, 3, 6, 7), None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for frame in frames:
            output, state = layer.step(in_format(frame, format), state)
            for tensor in (output, *(tensor for pair in state for tensor in pair)):
                assert tensor.is_contiguous(memory_format=FORMATS[format])
    assert any("tritonlstm::gates" in event.key for event in profile.key_averages()) is (few == 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_wider_bias_is_not_rounded_where_the_convolution_is_computed_in_float32(dtype: torch.dtype):
    """As that of volumes is on any CPU."""
    torch.manual_seed(0)
    cell, frame = ConvLSTM3d(2, 4, 3, dtype=dtype).layers[0], torch.randn(2, 2, 8, 8, 8).to(dtype)
    cell.bias = torch.nn.Parameter(torch.randn(16))
    step(cell_arguments(cell, frame), cell.spec, cell.spatial_dims).c.sum().backward()
    oracle = ConvLSTM3d(2, 4, 3, dtype=torch.float64).layers[0]
    oracle.load_state_dict(cell.state_dict())
    step(cell_arguments(oracle, frame.double()), oracle.spec, oracle.spatial_dims).c.sum().backward()
    error = (cell.bias.grad.double() - oracle.bias.grad).abs().max()
    assert error < 2**-10 * oracle.bias.grad.abs().max(), error
    assert not torch.equal(cell.bias.grad, cell.bias.grad.to(dtype).float())


def test_no_step_packs_or_copies_a_weight():
    layer, frame = ConvLSTM2d(4, [4, 4], 3), torch.randn(2, 4, 6, 7)
    with torch.no_grad():
        _, state = layer.step(frame)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            layer.step(frame, state)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::convolution"] == calls["aten::cat"] == 2
    assert not {"aten::copy_", "aten::clone", "aten::contiguous"} & calls.keys()


def test_a_compiled_loop_of_steps_is_one_graph():
    """tests/integration/test_compile.py has a step in a model that Inductor compiles."""
    layer = ConvLSTM2d(3, [4, 5], 3)

    def run(frames: Tensor) -> Tensor:
        return step_by_step(layer, frames)[0]

    frames = torch.randn(2, 2, 3, 6, 7)
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    with torch.no_grad():
        torch.compile(run, fullgraph=True, backend=count)(frames)
    assert len(graphs) == 1
    torch._dynamo.reset()
    expected = run(frames)
    expected.square().sum().backward()
    grads = [parameter.grad.clone() for parameter in layer.parameters()]
    layer.zero_grad()
    got = torch.compile(run, fullgraph=True, backend="aot_eager")(frames)
    got.square().sum().backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close([parameter.grad for parameter in layer.parameters()], grads)
