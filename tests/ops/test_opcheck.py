"""The registered operators under torch.library.opcheck, always by its four checks.

They are the schema, the registration of autograd, the fakes, and compilation with dynamic sizes against eager code. The
last one takes nineteen twentieths of the time.
"""

from collections.abc import Collection
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.support.covering import Row, describe, pairwise
from tests.support.layouts import flip_storage
from tests.support.operators import OPERATORS, backward_arguments
from tests.support.operators import operator as operator_of
from tests.support.problems import (
    ALL_PATHS,
    MASKS,
    MODES,
    SHAPES,
    SOME_SHAPES,
    Problem,
    Shape,
    operator_arguments,
)
from tritonlstm import Spec
from tritonlstm.core.spec import CHOICES, PADDING_MODES, POINTWISE

SMALL = Shape(2, 2, 2, 2, spatial=(3,), kernel=(3,))  # a second dimension of space took a fifth more time
LEARNING = ("input", "h0", "c0", "weight", "bias", "peephole")
SUBSETS = {
    "nothing": (),
    **{f"{name} alone": (name,) for name in LEARNING},
    **{f"all but {name}": tuple(each for each in LEARNING if each != name) for name in LEARNING},
    "all": LEARNING,
}
"""Any two of the arguments learn both, neither, or one without the other, with all others and with none."""

OPTIONS = {
    "operator": OPERATORS,
    "learning": SUBSETS,
    "input_weight": ("absent", "frozen", "learning"),
    "bias": ("no bias", "bias"),
    "peephole": ("none", "channel", "full"),
    "strides": ("dense", "strided"),
    "mode": MODES,
    "activation": CHOICES["activation"],
    "recurrent_activation": CHOICES["recurrent_activation"],
    "output_activation": (None, "tanh", "leaky_relu"),
    "cell_clip": (None, 0.75),
    "dilation": (1, 2),
    "padding_mode": PADDING_MODES,
    "masks": ((), ("lengths", "hold"), MASKS),
}


OPTIONS_OF_SPEC = (*POINTWISE, "dilation", "padding_mode")


@pytest.fixture(autouse=True)
def _no_cache_of_fakes():
    """No check may answer from another one's fakes; and where sizes are symbols, the cache took half as long again."""
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        yield


def _strided(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else flip_storage(tensor.repeat_interleave(2, 0))[::2]


def _with_strides(problem: Problem) -> Problem:
    tensors = {name: _strided(tensor) for name, tensor in problem.tensors().items()}
    cotangents = {name: _strided(tensor) for name, tensor in problem.cotangents.items()}
    return replace(problem, **tensors, cotangents=cotangents)


def check(operator: str, problem: Problem, learning: Collection[str], **options: str) -> None:
    """Run the four checks where the arguments in `learning` require a gradient, or `backward` is to compute it."""
    if operator == "backward":
        args = backward_arguments(problem, learning, **options)
    else:
        tensors = {name: tensor.detach().requires_grad_(name in learning) for name, tensor in problem.tensors().items()}
        args = operator_arguments(replace(problem, **tensors), **options)
    try:
        torch.library.opcheck(operator_of(problem, operator), args)
    except Exception as error:
        raise AssertionError(f"{operator}, with gradients of: {', '.join(learning) or 'nothing'}") from error


def fits(row: Row) -> bool:
    """What learns is there, and an input kernel is hoisted, which is the only mode it has."""
    learning = SUBSETS[row.get("learning", "nothing")]
    if "bias" in learning and row.get("bias") == "no bias":
        return False
    if "peephole" in learning and row.get("peephole") == "none":
        return False
    return row.get("input_weight", "absent") == "absent" or row.get("mode", "hoisted").startswith("hoisted")


@pytest.mark.parametrize("learns", [False, True])
def test_the_copy_of_an_output(learns: bool):
    output = torch.randn(2, 3, 5, 4, 2).movedim(-1, 2).requires_grad_(learns)
    torch.library.opcheck(torch.ops.tritonlstm.copy.default, (output,))


# Interpreted kernels take three times as long: with every shape in one operator, by turns.
SHAPE_ROWS = [
    {"operator": operator, "shape": shape, "path": "triton" if (index + turn) % len(OPERATORS) == 0 else "aten"}
    for index, shape in enumerate(SOME_SHAPES)
    for turn, operator in enumerate(OPERATORS)
]
SHAPE_ROWS += [{"operator": operator, "shape": "base", "path": "inductor"} for operator in OPERATORS]


@pytest.mark.parametrize("row", SHAPE_ROWS, ids=describe)
def test_shapes(row: Row):
    """Every operator has every shape, and either has every implementation of the gates."""
    problem = Problem.random(SHAPES[row["shape"]], torch.float32)
    learning = () if row["operator"] == "inference" else tuple(problem.tensors())
    check(row["operator"], problem, learning, **ALL_PATHS[row["path"]])


@pytest.mark.parametrize("row", pairwise(OPTIONS, fits), ids=describe)
def test_options(row: Row):
    """Each subset of the arguments learns with every operator, in every mode, and with every other option."""
    shape = SMALL.but(
        bias=row["bias"] == "bias",
        peephole=row["peephole"],
        input_kernel=None if row["input_weight"] == "absent" else (1,),
        masks=row["masks"],
        spec=Spec(**{name: row[name] for name in OPTIONS_OF_SPEC}),
    )
    problem = Problem.random(shape, torch.float32)
    if row["strides"] == "strided":
        problem = _with_strides(problem)
    learning = SUBSETS[row["learning"]] + ("input_weight",) * (row["input_weight"] == "learning")
    if "h0" in learning and problem.reset_h is not None:
        learning += ("reset_h", "reset_c")
    check(row["operator"], problem, learning, **MODES[row["mode"]])
