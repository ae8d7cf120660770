"""What is launched, counted by the profiler; and that no kernel touches memory that is not its own."""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from tests.support.layers import CIN
from tritonlstm import ConvLSTM2d

pytestmark = pytest.mark.cuda

STEPS = (8, 24)


def kernels(run: Callable[[], object]) -> Counter:
    """How often each kernel, copy and fill runs on the device."""
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return Counter(event.name for event in profiler.events() if event.device_type == DeviceType.CUDA)


def per_step(make_run: Callable[[int], Callable[[], object]]) -> dict[str, float]:
    """How many more of each kernel one more step takes."""
    short, long = (kernels(make_run(steps)) for steps in STEPS)
    slopes = {name: (long[name] - short[name]) / (STEPS[1] - STEPS[0]) for name in long | short}
    return {name: slope for name, slope in slopes.items() if slope}


def copies(counts: dict[str, float]) -> dict[str, float]:
    """Those that are PyTorch's own pointwise kernels, copies and fills."""
    return {name: count for name, count in counts.items() if "at::native" in name or "Mem" in name}


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


SMALL = """
import torch
from tritonlstm import ConvLSTM2d
for peephole, size in (("none", None), ("channel", None), ("full", (9, 7))):
    for dtype in (torch.float32, torch.bfloat16):
        for memory in ("save", "recompute"):
            options = {"peephole": peephole, "spatial_size": size, "memory": memory, "device": "cuda", "dtype": dtype}
            input = torch.randn(3, 2, 3, 9, 7, device="cuda", dtype=dtype, requires_grad=True)
            ConvLSTM2d(3, [5, 8], 3, **options)(input)[0].sum().backward()
torch.cuda.synchronize()
"""


@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool: str):
    filters = ["--kernel-regex", "kns=gates", "--kernel-regex", "kns=parameter_grads"]
    command = ["compute-sanitizer", "--tool", tool, *filters, "--error-exitcode", "7", sys.executable, "-c", SMALL]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
