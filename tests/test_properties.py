"""The operators against the float64 oracle on examples that Hypothesis makes up.

300 in a usual run, always the same ones; `pytest tests/test_properties.py --hypothesis-profile thorough` draws 3,000
new ones. A failure prints the smallest problem that fails, and the decorator that brings it back.
"""

from dataclasses import dataclass

import torch
from hypothesis import event, given
from hypothesis import strategies as st

from tests.support import layouts
from tests.support.problems import (
    ARGUMENTS,
    MASKS,
    MODES,
    PATHS,
    RESULTS,
    Problem,
    Shape,
    by_operator,
    by_reference,
    growing_budgets,
)
from tests.support.tolerances import assert_all_within
from tritonlstm import Spec
from tritonlstm.core.dtypes import cell_dtype
from tritonlstm.core.spec import CHOICES

ACTIVATIONS = ("activation", "recurrent_activation", "output_activation")
ODD = st.sampled_from([1, 3, 5])


@dataclass(frozen=True)
class Example:
    path: str
    dtype: torch.dtype
    mode: str
    shape: Shape
    input_layout: str
    output_layout: str
    weight_is_channels_last: bool
    learning: tuple[str, ...]
    """The arguments whose gradients are wanted: at least one."""
    used: tuple[str, ...]
    """The results that the loss depends on: at least one."""


def _subsets(names: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(names), min_size=1, unique=True).map(tuple)


@st.composite
def examples(draw: st.DrawFn) -> Example:
    dims, activations = draw(st.integers(0, 3)), {name: draw(st.sampled_from(CHOICES[name])) for name in ACTIVATIONS}
    spec = Spec(**activations, cell_clip=draw(st.sampled_from([None, 0.75])))
    has_kink = spec.recurrent_activation.startswith("hard") or spec.cell_clip is not None
    has_kink |= bool({"relu", "leaky_relu"} & {spec.activation, spec.activation_of_c})
    in_channels = draw(st.integers(0, 6))
    shape = Shape(
        steps=draw(st.integers(1, 5)),
        batch=draw(st.integers(0, 3)),
        in_channels=in_channels,
        channels=draw(st.integers(1, 9)),
        spatial=draw(st.tuples(*[st.integers(1, 6)] * dims)),
        kernel=draw(st.tuples(*[ODD] * dims)),
        input_kernel=draw(st.none() | st.tuples(*[ODD] * dims)) if dims and in_channels else None,
        state=in_channels == 0 or draw(st.booleans()),
        bias=has_kink or draw(st.booleans()),  # a bias keeps pre-activations away from a kink
        peephole=draw(st.sampled_from(["none", "channel", "full"])),
        masks=draw(_subsets(MASKS)),
        spec=spec,
    )
    path = draw(st.sampled_from(sorted(PATHS)))
    dtypes = [torch.float32] + [torch.float64] * (path != "triton")
    if spec.activation == "tanh":
        # With the others c has no bound, nor then have a half type's errors: a few draws make no budget for them. The
        # chosen shapes of test_sequence.py do.
        dtypes += [torch.bfloat16, torch.float16]
    of_these = [layout.__name__ for layout in (layouts.OF_IMAGES if dims == 2 else layouts.OF_VECTORS)]
    there = {
        "input": shape.in_channels > 0,
        "h0": shape.state,
        "c0": shape.state,
        "input_weight": shape.input_kernel is not None,
        "bias": shape.bias,
        "peephole": shape.peephole != "none",
        "marks": False,
        "reset_h": "reset" in shape.masks,
        "reset_c": "reset" in shape.masks,
    }
    return Example(
        path=path,
        dtype=draw(st.sampled_from(dtypes)),
        mode=draw(st.sampled_from(sorted(MODES))),
        shape=shape,
        input_layout=draw(st.sampled_from(of_these)),
        output_layout=draw(st.sampled_from(of_these)),
        weight_is_channels_last=dims == 2 and draw(st.booleans()),
        learning=draw(_subsets(tuple(name for name in ARGUMENTS if there.get(name, True)))),
        used=draw(_subsets(RESULTS)),
    )


def problem_of(example: Example, seed: int = 0) -> Problem:
    problem = Problem.random(example.shape, example.dtype, seed)
    if problem.input is not None:
        problem.input = getattr(layouts, example.input_layout)(problem.input)
    if example.weight_is_channels_last:
        problem.weight = problem.weight.contiguous(memory_format=torch.channels_last)
    problem.cotangents["output"] = getattr(layouts, example.output_layout)(problem.cotangents["output"])
    problem.cotangents = {name: grad if name in example.used else None for name, grad in problem.cotangents.items()}
    return problem


OF_CELLS = "c_n", "grad of c0", "grad of reset_c"
"""The results that have the dtype of the cell state."""


@given(examples())
def test_agrees_with_the_oracle(example: Example):
    event(f"{example.path} {example.dtype} {example.mode}")
    problem = problem_of(example)
    got = problem.solve(by_operator(**PATHS[example.path], **MODES[example.mode]), example.learning)
    oracle = problem.to(torch.float64).solve(by_reference, example.learning)
    assert got.keys() == oracle.keys()
    assert_all_within(
        got, oracle, growing_budgets(lambda seed: problem_of(example, seed), example.dtype, example.learning)
    )
    for name in oracle:
        assert got[name].dtype == (cell_dtype(example.dtype) if name in OF_CELLS else example.dtype)
    for name, tensor in problem.tensors().items():
        if name in example.learning and name in ("weight", "input_weight", "bias", "peephole"):
            assert got[f"grad of {name}"].stride() == tensor.stride()
