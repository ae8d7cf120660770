"""The compiled kernels against the float64 oracle, forward and backward, through the operators that launch them."""

from itertools import product

import numpy as np
import pytest
import torch

from tests.support.covering import Row, describe, pairwise
from tests.support.layouts import OF_IMAGES
from tests.support.problems import (
    MASKS,
    MODES,
    Problem,
    Shape,
    by_operator,
    by_reference,
    growing_budgets,
    in_channels_last,
)
from tests.support.ptx import ON_PTX
from tests.support.ptx.launch import on_machine
from tests.support.tolerances import assert_all_within
from tritonlstm import Spec
from tritonlstm.tuning.launches import DTYPES

OPTIONS = {
    "dtype": list(DTYPES),
    "channels": [64, 17, 3],
    "mode": list(MODES),
    "peephole": ["none", "channel", "full"],
    "strided": [False, True],
    "masks": [(), MASKS],
    "gates": ["default", "clipped"],
}
CLIPPED = Spec(activation="leaky_relu", output_activation="identity", cell_clip=0.75)
SHIFTS = (1.0, -1.0, None)
"""The errors of approximate functions: as large as documented one way, or the other; None: by chance."""

ROWS = pairwise(OPTIONS)
if ON_PTX:  # all, but for the other gates
    every = [dict(zip(OPTIONS, values)) for values in product(*OPTIONS.values())]
    ROWS += [row for row in every if row["gates"] == "default" and row not in ROWS]


def draw(row: Row, seed: int) -> Problem:
    shape = Shape(steps=2, in_channels=2, channels=row["channels"], spatial=(5, 3), kernel=(3, 3))
    if row["masks"]:  # large enough that some samples are neither held nor past their length
        shape = shape.but(masks=row["masks"], steps=4, batch=3)
    shape = shape.but(peephole=row["peephole"], bias=row["peephole"] != "none" or row["mode"] != "concat, save")
    if row["gates"] == "clipped":
        shape = shape.but(bias=True, spec=CLIPPED)  # a bias keeps c far from its bound
    problem = Problem.random(shape, DTYPES[row["dtype"]], seed)
    if row["strided"]:
        problem.cotangents["output"] = OF_IMAGES[-1](problem.cotangents["output"])
    return problem


@pytest.mark.parametrize("row", ROWS, ids=describe)
def test_every_kernel_agrees_with_the_oracle(row: Row):
    shift = SHIFTS[ROWS.index(row) % len(SHIFTS)]
    problem = draw(row, 0)
    with on_machine(shift=np.random.default_rng(0) if shift is None else shift) as device:
        got = problem.solve(by_operator(backend="triton", **MODES[row["mode"]]))
    launched = {request.kernel for request in device.launched}
    assert {"gates_forward_kernel", "gates_backward_kernel"} <= launched
    assert "parameter_grads_kernel" in launched or (problem.bias is None and problem.peephole is None)
    oracle = problem.to(torch.float64).solve(by_reference)
    # With 64 channels oneDNN's own errors are larger in channels last, with AVX-512 by up to 2 times.
    plain = in_channels_last if row["channels"] == 64 else by_reference
    budgets = growing_budgets(lambda seed: draw(row, seed), DTYPES[row["dtype"]], plain=plain)
    assert_all_within(got, oracle, budgets)


def test_errors_that_are_all_one_way_do_not_add_up_over_many_steps():
    """In bfloat16, whose tanh is the hardware's: c is a sum over the steps."""

    def draw(seed: int) -> Problem:
        shape = Shape(steps=20, batch=1, in_channels=2, channels=8, spatial=(3, 2), kernel=(1, 1))
        return Problem.random(shape, torch.bfloat16, seed)

    problem = draw(0)
    problem.bias.chunk(4)[1].add_(4)  # the gates forget little
    with on_machine(shift=1.0):
        got = problem.solve(by_operator(backend="triton"))
    oracle = problem.to(torch.float64).solve(by_reference)
    assert_all_within(got, oracle, growing_budgets(draw, torch.bfloat16))
