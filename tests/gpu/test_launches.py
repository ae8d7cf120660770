"""What is launched, counted by the profiler."""

from collections.abc import Callable

import pytest
import torch

from tests.gpu.profiled import is_copy_or_fill, kernels
from tests.support.layers import CIN
from tritonlstm import ConvLSTM2d

pytestmark = pytest.mark.cuda

STEPS = (8, 24)


def per_step(make_run: Callable[[int], Callable[[], object]]) -> dict[str, float]:
    """How many more of each kernel one more step takes."""
    short, long = (kernels(make_run(steps)) for steps in STEPS)
    slopes = {name: (long[name] - short[name]) / (STEPS[1] - STEPS[0]) for name in long | short}
    return {name: slope for name, slope in slopes.items() if slope}


def copies(counts: dict[str, float]) -> dict[str, float]:
    """Those that are PyTorch's own pointwise kernels, copies and fills."""
    return {name: count for name, count in counts.items() if "at::native" in name or is_copy_or_fill(name)}


def layer_and_input(steps: int, input_learns: bool = False, **options: object) -> tuple[ConvLSTM2d, torch.Tensor]:
    layer = ConvLSTM2d(CIN, 64, 3, device="cuda", dtype=torch.bfloat16, **options)
    input = torch.randn(steps, 4, CIN, 32, 32, device="cuda", dtype=torch.bfloat16)
    return layer, input.requires_grad_(input_learns)


def test_inference_takes_one_convolution_and_one_gate_kernel_a_step(record_property):
    def make_run(steps: int) -> Callable[[], object]:
        layer, input = layer_and_input(steps)
        return torch.no_grad()(lambda: layer(input))

    counts = per_step(make_run)
    record_property("kernels_per_step", counts)
    assert counts.pop("gates_forward_kernel") == 1
    assert sum(copies(counts).values()) <= 1 / 8  # X, for eight steps at a time


OTHER_MODES = [
    {"schedule": "hoisted"},
    {"memory": "recompute"},
    {"schedule": "hoisted", "memory": "recompute"},
]


@pytest.mark.parametrize("options", OTHER_MODES, ids=str)
def test_the_other_modes_take_no_more_kernels_a_step(options: dict, record_property):
    def make_run(steps: int) -> Callable[[], object]:
        layer, input = layer_and_input(steps, **options)
        return lambda: layer(input)[0].sum().backward()

    counts = per_step(make_run)
    record_property("kernels_per_step", counts)
    assert counts.pop("gates_forward_kernel") == 1
    assert counts.pop("gates_backward_kernel") == 1
    assert sum(copies(counts).values()) <= 0.5
    # Two convolutions, and what each of the few chunks adds: each may be several kernels of cuDNN's.
    assert sum(counts.values()) <= 8


@pytest.mark.parametrize("input_learns", [False, True])
def test_training_takes_at_most_three_kernels_a_step_back(input_learns: bool, record_property):
    def make_run(steps: int) -> Callable[[], object]:
        layer, input = layer_and_input(steps, input_learns)
        return lambda: layer(input)[0].sum().backward()

    counts = per_step(make_run)
    record_property("kernels_per_step", counts)
    assert counts.pop("gates_forward_kernel") == 1
    assert counts.pop("gates_backward_kernel") == 1
    # The copy of dX where the input learns; each of the few chunks of time adds a little more.
    assert sum(copies(counts).values()) <= input_learns + 0.5
