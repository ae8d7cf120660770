"""That the clock of the benches and the tuner measures what it says, on this device.

What a fake cannot show: that reading evicts, that a fill would cost the run that follows, that the device sleeps for
long enough, and that a capture finds cuDNN's choices made.
"""

from collections.abc import Callable

import pytest
import torch

from tests.gpu.profiled import is_copy_or_fill, kernels
from tritonlstm import ConvLSTM2d
from tritonlstm.tuning.launches import Launch, bind
from tritonlstm.tuning.timing import ROTATED, CudaClock, Rotation, capture, cudnn_plans, interleave, spread

pytestmark = pytest.mark.cuda

LAUNCH = Launch("gates_forward", "bf16", 64, batch=1, height=64, width=64)
"""One of 7 MB, which fits in any L2 cache here."""


@pytest.fixture(scope="module")
def clock() -> CudaClock:
    return CudaClock(torch.device("cuda", torch.cuda.current_device()))


def times(samplers: dict[str, Callable[[], float]]) -> dict[str, tuple[float, float, float]]:
    """Median, p20 and p80 in µs."""
    return {name: spread([1e6 * each for each in found]) for name, found in interleave(samplers, rounds=50).items()}


def test_launches_in_a_row_are_slower_with_a_cold_cache_than_with_a_hot_one(clock: CudaClock, record_property):
    rotation = Rotation.of(lambda: bind(LAUNCH, "cuda"), LAUNCH.nbytes)
    found = times(
        {
            "cold": clock.sampler(rotation.cold),
            "hot": clock.sampler(rotation.hot, cold=False),
            "single, cold": clock.sampler(rotation.bound[0]),
        }
    )
    record_property("microseconds", found)
    (cold, low, high), (hot, *_), (single, single_low, single_high) = found.values()
    assert cold > 1.05 * hot
    # What a row is for: a launch takes less than alone between two events, and varies less.
    assert cold / ROTATED < single
    assert (high - low) / cold < max(0.05, (single_high - single_low) / single)


def test_reading_leaves_a_cache_that_costs_the_next_run_nothing(clock: CudaClock, record_property):
    run = bind(LAUNCH, "cuda")

    class Filled(CudaClock):
        """Evicts by a fill, which leaves lines to be written back."""

        class Other:
            def __init__(self, other: torch.Tensor):
                self.sum = other.zero_

    filled = Filled(clock.device)
    filled._other = Filled.Other(filled._other)
    found = times({"read": clock.sampler(run), "filled": filled.sampler(run)})
    record_property("microseconds", found)
    assert found["read"][0] <= 1.05 * found["filled"][0]


def test_a_graph_of_500_launches_waits_for_no_host(clock: CudaClock, record_property):
    small = torch.zeros(1024, device="cuda")

    def run() -> None:
        for _ in range(500):
            small.add_(1)

    found = times({"graph": clock.sampler(run)})
    record_property("microseconds", found)
    median, low, high = found["graph"]
    assert (high - low) / median < 0.1


def test_a_captured_training_step_launches_what_a_call_does(record_property):
    """If autograd's thread had cuDNN choose only within the capture, its trials would be in the graph.

    Copies and fills are not counted: a graph runs some as kernels, which go by other names.
    """
    layer = ConvLSTM2d(16, 32, 3, device="cuda", dtype=torch.bfloat16, memory="recompute")
    input = torch.randn(4, 2, 16, 32, 32, device="cuda", dtype=torch.bfloat16)
    parameters = list(layer.parameters())

    def run() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(layer(input)[0].float().square().mean(), parameters)

    with cudnn_plans(tried=True):
        replay = capture(run)
        called, replayed = (
            {name: count for name, count in kernels(each).items() if not is_copy_or_fill(name)}
            for each in (run, replay)
        )
    record_property("kernels", replayed)
    assert replayed == called
