"""Kernels are launched as Triton's launcher would, but for most of the time without it: with a driver that launches
nothing, in a process in which Triton compiles."""

from functools import partial

import pytest
import torch

from tests.support.compiling import compiling
from tests.support.launches import (
    as_triton_launches,
    one_layer,
    one_step,
    one_step_back,
    single_steps,
    sums_of_parameters,
    through_triton_alone,
    with_hooks,
)
from tests.support.problems import Shape
from tritonlstm.tuning.launches import VARIANTS, Launch, bind

SMALL = {"batch": 1, "height": 3, "width": 5}
FORWARD = Launch("gates_forward", "bf16", 64, **SMALL)
LAUNCHES = [
    FORWARD,
    Launch("gates_forward", "fp32", 6, "hoisted", **SMALL),
    Launch("gates_forward", "fp16", 17, "marks", **SMALL),
    Launch("gates_backward", "bf16", 6, "strided", **SMALL),
    Launch("gates_backward", "fp32", 64, "recompute", **SMALL),
    Launch("gates_backward", "bf16", 3, "marks", **SMALL),
    Launch("parameter_grads", "bf16", 6, "full", **SMALL),
]
CHANGES = [
    {},
    {"stream": 7},
    {"shift": 1},
    {"shift": 2},
    {"device": 1, "stream": 3},
    {"config": (256, 2)},
    {"config": (256, 2, True)},
    {},
]


def test_every_launch_is_the_one_that_triton_would_make():
    """The same compiled kernel, grid, stream and arguments, whatever has been launched before."""
    binds = [partial(bind, launch, "cpu") for launch in LAUNCHES]
    for ours, theirs, _ in compiling(as_triton_launches, binds, CHANGES):
        assert ours == [theirs] * 3


SIZES = [
    {"batch": batch, "height": height, "width": width}
    for batch, height, width in ((2, 3, 5), (3, 3, 5), (2, 5, 3), (2, 3, 4))
]
HALF, FULL = torch.bfloat16, torch.float32
ALIKE = [
    *(
        partial(bind, Launch(kernel, dtype, channels, variant, **sizes), "cpu")
        for kernel, variants in VARIANTS.items()
        for variant in variants
        for dtype, channels in ((("bf16", 6), ("fp16", 6), ("fp16", 7)) if variant == "channel" else (("bf16", 6),))
        for sizes in SIZES
    ),
    partial(one_step, HALF, HALF, HALF),
    partial(one_step, HALF, None, HALF),
    partial(one_step, HALF, FULL, HALF),
    partial(one_step, HALF, HALF, FULL),
    partial(one_step, HALF, HALF, HALF, HALF),
    partial(one_step, HALF, None, None),
    partial(one_step, torch.float16, None, None),
    partial(one_step, HALF, None, None, addend=True),
    partial(one_step, HALF, None, None, saves=True),
    partial(one_step_back, 8),
    partial(one_step_back, 16),
    partial(sums_of_parameters),
    partial(sums_of_parameters, bias=False),
    partial(sums_of_parameters, peephole=False),
    partial(sums_of_parameters, steps=1),
]


def test_layers_that_differ_in_one_thing_have_launches_of_their_own():
    """In the batch, the image, the channels, a dtype, an option, or a tensor that there is or not, or is wider."""
    for ours, theirs, _ in compiling(as_triton_launches, ALIKE, [{}]):
        assert ours == [theirs] * 3


def test_single_steps_ask_triton_once():
    first, second = compiling(single_steps, 3)
    assert sum(first.values()) == 3 and not second


def test_triton_is_asked_when_something_changes_that_a_kernel_is_specialised_on_and_then_never_again():
    asked = [through for *_, through in compiling(as_triton_launches, [partial(bind, FORWARD, "cpu")], CHANGES)]
    # Neither another stream nor an address that is as good; at C = 64 rows of bfloat16 want 16 bytes.
    assert asked == [1, 0, 1, 0, 1, 1, 1, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_an_odd_size_needs_no_more_variants_than_an_even_one(dtype: torch.dtype):
    """Steps begin at any address that is a multiple of an element: alignment is not what tells variants apart."""
    odd = Shape(steps=10, batch=1, in_channels=2, channels=33, spatial=(61, 47), kernel=(1, 1))
    (run,) = compiling(one_layer, odd, dtype, {})
    assert run["launches"]["gates_forward_kernel"] == run["launches"]["gates_backward_kernel"] == 10
    assert run["compiled"] == {"gates_forward_kernel": 2, "gates_backward_kernel": 1, "parameter_grads_kernel": 1}


def test_a_sequence_asks_triton_once_for_each_variant_and_the_next_one_not_at_all():
    shape = Shape(steps=12, channels=8, spatial=(5, 4))
    first, second = compiling(one_layer, shape, torch.bfloat16, {}, 2)
    assert first["launches"] == second["launches"]
    assert first["launches"]["gates_forward_kernel"] == first["launches"]["gates_backward_kernel"] == 12
    assert first["through"] == first["compiled"] == second["compiled"]
    assert not second["through"]


def test_hooks_see_every_launch():
    assert compiling(with_hooks, FORWARD) == (["gates_forward_kernel"] * 2,) * 2


def test_what_is_not_known_is_left_to_triton():
    assert compiling(through_triton_alone, FORWARD) == 1
    assert compiling(through_triton_alone, FORWARD, ("hip", "gfx942", 64)) == 3
    assert compiling(through_triton_alone, FORWARD, None, ("3.5.", "4.")) == 3
