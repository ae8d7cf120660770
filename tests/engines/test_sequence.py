"""The sequence operator against the float64 oracle: every result and every gradient."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.support.covering import Row, describe, pairwise
from tests.support.layouts import OF_IMAGES, OF_VECTORS, dense, expand_time, flip_storage, slice_height
from tests.support.problems import (
    ALL_PATHS,
    MASKS,
    MODES,
    PATHS,
    SHAPES,
    VECTORS,
    Problem,
    Shape,
    by_operator,
    by_reference,
    growing_budgets,
    modes_of,
)
from tests.support.tolerances import assert_all_within, budget
from tritonlstm import Spec
from tritonlstm.core.dtypes import cell_dtype
from tritonlstm.core.spec import CHOICES, PADDING_MODES
from tritonlstm.engines import chunks, sequence

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ACTIVATIONS = {name: CHOICES[name] for name in ("activation", "recurrent_activation", "output_activation")}
POINTWISE = {**ACTIVATIONS, "cell_clip": (None, 0.75)}
GEOMETRIES = {
    "dilation": (1, 2, (2, 1)),
    "padding_mode": (*PADDING_MODES, ("zeros", "circular"), ("replicate", "reflect")),
}
LAYOUTS = {layout.__name__: layout for layout in OF_IMAGES}


def fits(row: Row) -> bool:
    """The kernels compute in float32, and a shape has the modes that differ for it."""
    if (row.get("path"), row.get("dtype")) == ("triton", "fp64"):
        return False
    return not {"shape", "mode"} <= row.keys() or row["mode"] in modes_of(SHAPES[row["shape"]])


COMBINATIONS = [
    pytest.param(path, dtype, id=f"{path}-{name}")
    for path in PATHS
    for name, dtype in DTYPES.items()
    if fits({"path": path, "dtype": name})
]
each_mode = pytest.mark.parametrize("mode", MODES)


def check(
    problem: Problem,
    path: str,
    dtype: torch.dtype,
    mode: str = "concat, save",
    draw: Callable[[int], Problem] | None = None,
) -> dict[str, Tensor]:
    """Solve with the operator. Every result and gradient is within the budget of this problem, or of those drawn."""
    got = problem.solve(by_operator(**ALL_PATHS[path], **MODES[mode]))
    oracle = problem.to(torch.float64).solve(by_reference)
    if draw is None:
        reference = problem.to(dtype).solve(by_reference)
        budgets = [{name: budget(reference[name], oracle[name], dtype) for name in oracle}]
    else:
        budgets = growing_budgets(draw, dtype)
    assert_all_within(got, oracle, budgets)
    for name in oracle:
        assert got[name].dtype == (cell_dtype(dtype) if name in ("c_n", "grad of c0", "grad of reset_c") else dtype), (
            name
        )
    return got


# On "aten" every two of a shape, a dtype and a mode. To interpret the kernels takes fifteen times as long: each shape
# once, in the dtypes and modes by turns, so that each meets every other one.
SHAPE_ROWS = pairwise({"shape": SHAPES, "dtype": DTYPES, "mode": MODES, "path": ("aten",)}, fits)
TURNS = itertools.cycle(itertools.product(("fp32", "bf16", "fp16"), range(len(MODES))))
SHAPE_ROWS += [
    {"shape": name, "dtype": dtype, "mode": modes_of(shape)[mode % len(modes_of(shape))], "path": "triton"}
    for (name, shape), (dtype, mode) in zip(SHAPES.items(), TURNS)
]
SHAPE_ROWS += [
    {"shape": name, "dtype": "fp32", "mode": modes_of(shape)[0], "path": "inductor"}
    for name, shape in SHAPES.items()
    if shape.spec == Spec() and shape.peephole == "channel"
]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("row", SHAPE_ROWS, ids=describe)
def test_shapes_agree_with_the_oracle(row: Row):
    """Every shape in every dtype, in every mode, and by every implementation of the gates."""
    dtype = DTYPES[row["dtype"]]
    check(Problem.random(SHAPES[row["shape"]], dtype), row["path"], dtype, row["mode"])


OPTION_ROWS = pairwise(
    {
        **POINTWISE,
        "peephole": ("none", "channel", "full"),
        "input_kernel": (None, (5, 1)),
        "state": (True, False),
        "dtype": DTYPES,
        "mode": MODES,
        "path": PATHS,
        **GEOMETRIES,
        "masks": ((), ("lengths", "hold"), MASKS),
    },
    fits,
)
# Each takes seconds to compile: every function once, of g or of c, and each dtype but float32, which other tests have.
OPTION_ROWS += [
    dict(zip(OPTION_ROWS[0], (*values, "inductor", 1, "zeros", masks)))
    for *values, masks in (
        ("tanh", "hard_sigmoid", None, 0.75, "full", None, True, "bf16", "hoisted, recompute", MASKS),
        ("relu", "hard_sigmoid_keras2", "leaky_relu", None, "none", None, False, "fp16", "concat, recompute", ()),
        ("identity", "sigmoid", "tanh", None, "full", (5, 1), True, "fp64", "hoisted, save", ("hold",)),
    )
]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("row", OPTION_ROWS, ids=describe)
def test_options_agree_with_the_oracle(row: Row):
    dtype = DTYPES[row["dtype"]]
    shape = Shape(**{name: row[name] for name in ("peephole", "input_kernel", "state", "masks")})
    shape = shape.but(spec=Spec(**{name: row[name] for name in (*POINTWISE, *GEOMETRIES)}))
    check(
        Problem.random(shape, dtype),
        row["path"],
        dtype,
        row["mode"],
        draw=lambda seed: Problem.random(shape, dtype, seed),
    )


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize("used", [("output",), ("h_n",), ("c_n",), ("output", "c_n")], ids="+".join)
def test_absent_cotangents_count_as_zero(path: str, used: tuple[str, ...]):
    problem = Problem.random(Shape(), torch.float32)
    problem.cotangents = {name: grad if name in used else None for name, grad in problem.cotangents.items()}
    check(problem, path, torch.float32)


@pytest.mark.parametrize("path", PATHS)
@each_mode
@pytest.mark.parametrize("kind", ["channel", "full"])
@pytest.mark.parametrize("sizes", [{"spatial": (0, 4)}, {"batch": 0}], ids=["no pixels", "no images"])
def test_where_there_is_nothing_every_parameter_has_a_gradient_of_zeros(
    path: str, mode: str, kind: str, sizes: dict[str, object]
):
    problem = Problem.random(Shape(peephole=kind, **sizes), torch.float32)
    got = problem.solve(by_operator(**PATHS[path], **MODES[mode]))
    for name in ("weight", "bias", "peephole"):
        gradient = got[f"grad of {name}"]
        assert gradient.shape == getattr(problem, name).shape
        assert not gradient.any()
    assert got["output"].numel() == 0


STRIDE_ROWS = pairwise(
    {"tensor": ("input", "output gradient"), "layout": list(LAYOUTS)[1:], "mode": MODES, "path": ALL_PATHS}
)


@pytest.mark.parametrize("row", STRIDE_ROWS, ids=describe)
def test_any_strides_of_the_input_and_the_output_gradient(row: Row):
    problem, layout = Problem.random(Shape(), torch.float32), LAYOUTS[row["layout"]]
    if row["tensor"] == "input":
        problem.input = layout(problem.input)
    else:
        problem.cotangents["output"] = layout(problem.cotangents["output"])
    check(problem, row["path"], torch.float32, row["mode"])


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize("name", ["h0", "c0", "weight", "input_weight", "peephole", "bias"])
def test_any_strides_of_the_other_arguments(path: str, name: str):
    input_kernel = (1, 3) if name == "input_weight" else None
    problem = Problem.random(Shape(peephole="full", input_kernel=input_kernel), torch.float32)
    strided = flip_storage(getattr(problem, name).repeat_interleave(2, 0))[::2]
    assert not strided.is_contiguous()
    got = check(replace(problem, **{name: strided}), path, torch.float32)
    dense = problem.solve(by_operator(**ALL_PATHS[path]))
    for key in dense:
        assert torch.equal(got[key], dense[key]), key


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize("layout", OF_VECTORS[1:])
def test_any_strides_of_the_output_gradient_of_vectors(path: str, layout):
    problem = Problem.random(VECTORS, torch.float32)
    problem.cotangents["output"] = layout(problem.cotangents["output"])
    check(problem, path, torch.float32)


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize("layout", [*OF_VECTORS[1:], slice_height])
def test_any_strides_of_the_input_and_the_output_gradient_of_volumes(path: str, layout):
    problem = Problem.random(SHAPES["volumes"], torch.float32)
    problem.input = layout(problem.input)
    problem.cotangents["output"] = layout(problem.cotangents["output"])
    check(problem, path, torch.float32)


@pytest.mark.parametrize("path", ALL_PATHS)
@each_mode
def test_stride_0_gradients(path: str, mode: str):
    problem = Problem.random(Shape(), torch.float32)
    problem.cotangents = {name: torch.ones(()).expand(grad.shape) for name, grad in problem.cotangents.items()}
    check(problem, path, torch.float32, mode)


SATURATED_ROWS = pairwise({**POINTWISE, "mode": MODES, "path": PATHS})
SATURATED_ROWS += [
    {**{name: getattr(Spec(), name) for name in POINTWISE}, "mode": mode, "path": "inductor"} for mode in MODES
]


@pytest.mark.parametrize("row", SATURATED_ROWS, ids=describe)
def test_saturated_gates(row: Row):
    """Pre-activations of ±1e4: everything stays finite, and as near to the oracle as the reference."""
    spec = Spec(**{name: row[name] for name in POINTWISE})
    problem = Problem.random(Shape(spec=spec, steps=3), torch.float32)
    problem.weight = problem.weight * 0
    signs = torch.randint(2, problem.bias.shape) * 2.0 - 1
    problem.bias = 1e4 * signs
    if spec.activation != "tanh":  # the others are not bounded
        problem.bias.chunk(4)[2].clamp_(-10.0, 10.0)
    check(problem, row["path"], torch.float32, row["mode"])


# Sigmoid gates alone: a hard one is already closed where this problem has -inf.
VALUE_ROWS = pairwise(
    {
        "place": ("input", "h0", "c0", "bias", "peephole"),
        "value": ("nan", "inf", "-inf"),
        "activation": CHOICES["activation"],
        "output_activation": CHOICES["output_activation"],
        "path": PATHS,
    }
)
VALUE_ROWS += [
    {"place": place, "value": value, "activation": "tanh", "output_activation": None, "path": "inductor"}
    for place in ("input", "h0", "c0", "bias", "peephole")
    for value in ("nan", "inf", "-inf")
]


@pytest.mark.parametrize("row", VALUE_ROWS, ids=describe)
def test_nan_and_inf_go_where_the_reference_sends_them(row: Row):
    path, place, value = row["path"], row["place"], float(row["value"])
    spec = Spec(activation=row["activation"], output_activation=row["output_activation"])
    problem = Problem.random(Shape(spec=spec, batch=2), torch.float32)
    poisoned = getattr(problem, place).clone()
    poisoned.view(-1)[0] = value
    problem = replace(problem, **{place: poisoned})
    got, expected = by_operator(**ALL_PATHS[path])(problem), by_reference(problem)
    clean = by_reference(Problem.random(problem.shape, torch.float32))
    assert not torch.equal(expected[0], clean[0]), "the value must be felt"
    for result, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)
        finite_images = wanted.isfinite().flatten(-3).all(-1)
        assert torch.equal(result.isfinite().flatten(-3).all(-1), finite_images)


@pytest.mark.parametrize("path", ALL_PATHS)
def test_nan_gradients_reach_what_the_reference_sends_them_to(path: str):
    problem = Problem.random(Shape(batch=2), torch.float32)
    problem.cotangents["output"][1, 0, 2, 3, 3] = float("nan")
    got, expected = problem.solve(by_operator(**ALL_PATHS[path])), problem.solve(by_reference)
    for name in expected:
        assert torch.equal(got[name].isnan(), expected[name].isnan()), name


CHUNKED = {
    "images": Shape(steps=7),
    "1×1 kernel": Shape(steps=7, kernel=(1, 1), batch=1, spatial=(5, 3)),
    "signals": Shape(steps=7, kernel=(3,), spatial=(5,)),
    "volumes": Shape(steps=7, kernel=(3, 1, 3), batch=1, spatial=(2, 3, 2)),
    "vectors": VECTORS.but(steps=7, batch=3),
}


@pytest.mark.parametrize("path", ALL_PATHS)
def test_a_reversed_sequence_equals_its_chunks_from_the_last_to_the_first_bit_for_bit(path: str):
    shape = Shape(steps=7, spec=Spec(reverse=True))
    problem = Problem.random(shape, torch.float32)
    whole = by_operator(**ALL_PATHS[path])(problem)
    outputs, state = [], {"h0": problem.h0, "c0": problem.c0}
    for first, last in ((4, 7), (1, 4), (0, 1)):
        chunk = replace(problem, shape=shape.but(steps=last - first), input=problem.input[first:last], **state)
        output, h_n, c_n = by_operator(**ALL_PATHS[path])(chunk)
        outputs.insert(0, output)
        state = {"h0": h_n, "c0": c_n}
    assert torch.equal(torch.cat(outputs), whole[0])
    assert torch.equal(state["h0"], whole[1])
    assert torch.equal(state["c0"], whole[2])


@pytest.mark.parametrize(
    ("path", "dtype"), [*COMBINATIONS, pytest.param("inductor", torch.float32, id="inductor-fp32")]
)
@pytest.mark.parametrize("shape", CHUNKED.values(), ids=CHUNKED.keys())
def test_a_sequence_equals_its_chunks_with_carried_state_bit_for_bit(path: str, dtype: torch.dtype, shape: Shape):
    problem = Problem.random(shape, dtype)
    whole = by_operator(**ALL_PATHS[path])(problem)
    outputs, state = [], {"h0": problem.h0, "c0": problem.c0}
    for first, last in ((0, 1), (1, 4), (4, 7)):
        chunk = replace(problem, shape=shape.but(steps=last - first), input=problem.input[first:last], **state)
        output, h_n, c_n = by_operator(**ALL_PATHS[path])(chunk)
        outputs.append(output)
        state = {"h0": h_n, "c0": c_n}
    assert torch.equal(torch.cat(outputs), whole[0])
    assert torch.equal(state["h0"], whole[1])
    assert torch.equal(state["c0"], whole[2])


STARTS = {
    "state": Shape(steps=11),
    "no state": Shape(steps=17, state=False),
    "reversed": Shape(steps=11, spec=Spec(reverse=True)),
    "every c": Shape(steps=11, spec=Spec(returns="cells")),
    "last step": Shape(steps=11, spec=Spec(returns="last")),
    "masks": Shape(steps=11, batch=3, masks=MASKS),
}
BIT_ROWS = pairwise({"start": STARTS, "layout": ("dense", "expand_time"), "mode": MODES, "path": ALL_PATHS})


@pytest.mark.parametrize("row", BIT_ROWS, ids=describe)
def test_inference_and_training_compute_the_same_bits(row: Row):
    problem = Problem.random(STARTS[row["start"]], torch.float32)
    problem.input = LAYOUTS[row["layout"]](problem.input)
    run = by_operator(**ALL_PATHS[row["path"]], **MODES[row["mode"]])
    inference = run(problem)
    training = run(replace(problem, weight=problem.weight.requires_grad_()))
    for without, having in zip(inference, training, strict=True):
        assert torch.equal(without, having)


@pytest.mark.parametrize("path", ALL_PATHS)
@each_mode
def test_gradients_are_the_same_bits_on_every_run_and_a_graph_may_be_used_twice(path: str, mode: str):
    problem, run = Problem.random(Shape(), torch.float32), by_operator(**ALL_PATHS[path], **MODES[mode])
    leaves = {name: tensor.requires_grad_() for name, tensor in problem.tensors().items()}
    loss = sum(
        (result * problem.cotangents[name]).sum()
        for name, result in zip(("output", "h_n", "c_n"), run(replace(problem, **leaves)), strict=True)
    )
    first = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
    second = torch.autograd.grad(loss, list(leaves.values()))
    again = problem.solve(run)
    for name, one, two in zip(leaves, first, second, strict=True):
        assert torch.equal(one, two), name
        assert torch.equal(one, again[f"grad of {name}"]), name


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize(
    ("mode", "input_kernel"), [*((mode, None) for mode in MODES), ("hoisted, save", (1, 3))], ids=str
)
def test_gradients_of_a_subset_are_those_of_the_whole(path: str, mode: str, input_kernel: tuple | None):
    problem = Problem.random(Shape(peephole="full", input_kernel=input_kernel), torch.float32)
    run = by_operator(**ALL_PATHS[path], **MODES[mode])
    whole = problem.solve(run)
    for name in problem.tensors():
        leaf = getattr(problem, name).detach().requires_grad_()
        results = run(replace(problem, **{name: leaf}))
        (grad,) = torch.autograd.grad(results, leaf, list(problem.cotangents.values()))
        # Without dX, a narrower convolution makes dH: the same sums, perhaps in another order.
        torch.testing.assert_close(grad, whole[f"grad of {name}"], rtol=1e-5, atol=1e-5)


LONG = Shape(steps=26, spatial=(2, 3))
SEVERAL_STEPS = {
    "state": (LONG, dense),
    "no state": (LONG.but(state=False), dense),
    "one image": (LONG, expand_time),
    "one image, no state": (LONG.but(state=False), expand_time),
    "state alone": (LONG.but(in_channels=0), None),
    "reversed": (LONG.but(spec=Spec(reverse=True)), dense),
    "reversed, no state": (LONG.but(state=False, spec=Spec(reverse=True)), dense),
    "reversed, one image": (LONG.but(spec=Spec(reverse=True)), expand_time),
    "reversed, every c": (LONG.but(spec=Spec(reverse=True, returns="cells")), dense),
    "masks": (LONG.but(masks=MASKS), dense),
    "masks, reversed, no state": (LONG.but(masks=MASKS, state=False, spec=Spec(reverse=True)), dense),
}


CHUNK_ROWS = pairwise(
    {"start": SEVERAL_STEPS, "mode": MODES, "path": ALL_PATHS},
    lambda row: row.get("start") != "state alone" or row.get("mode", "concat").startswith("concat"),
)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("row", CHUNK_ROWS, ids=describe)
def test_chunks_of_several_steps(monkeypatch: pytest.MonkeyPatch, row: Row):
    shape, layout = SEVERAL_STEPS[row["start"]]
    problem = Problem.random(shape, torch.float32)
    if layout is not None:
        problem.input = layout(problem.input)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 0)
    monkeypatch.setattr(chunks, "CHUNK_FRACTION", 3)
    longest = []

    def spy(*args: object) -> list[tuple[int, int]]:
        result = chunks.chunks(*args)
        longest.append(max(last - first for first, last in result))
        return result

    monkeypatch.setattr(sequence, "chunks", spy)
    check(problem, row["path"], torch.float32, row["mode"])
    assert 1 < longest[0] < shape.steps


# Each number of an argument takes two evaluations: the kernels are small.
IMAGES = Shape(steps=2, in_channels=1, channels=2, spatial=(3, 2), kernel=(3, 3))
SMALL = {
    "images": IMAGES,
    "full peephole": IMAGES.but(peephole="full"),
    "no peephole": IMAGES.but(peephole="none"),
    "input kernel": IMAGES.but(in_channels=2, input_kernel=(1, 3)),
    "signals": Shape(steps=2, channels=2, spatial=(4,), kernel=(3,)),
    "volumes": Shape(steps=2, batch=1, in_channels=1, channels=2, spatial=(2, 3, 2), kernel=(1, 3, 3)),
    "vectors": Shape(spatial=(), kernel=(), steps=2),
    "vectors, no peephole": Shape(spatial=(), kernel=(), steps=2, peephole="none"),
    "masks": Shape(steps=3, batch=3, in_channels=1, channels=2, spatial=(2,), kernel=(3,), masks=MASKS),
}


# The modes of a shape by turns: test_shapes_agree_with_the_oracle has all of them.
GRADCHECK_ROWS = [(mode, name) for name, shape in SMALL.items() for mode in modes_of(shape)][::2]


@pytest.mark.parametrize(("mode", "name"), GRADCHECK_ROWS)
def test_gradcheck(mode: str, name: str):
    shape = SMALL[name]
    problem = Problem.random(shape, torch.float64)
    names = list(problem.tensors())

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return by_operator(**MODES[mode])(replace(problem, **dict(zip(names, tensors, strict=True))))

    assert torch.autograd.gradcheck(run, [tensor.requires_grad_() for tensor in problem.tensors().values()])
