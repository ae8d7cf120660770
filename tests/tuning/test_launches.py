"""What is timed, on interpreted kernels: every launch runs, and a layer runs in the schedule that is asked for."""

import pytest
import torch

from tests.support.counting import stand_in_for_kernels
from tritonlstm import functional
from tritonlstm.launch.tables import KERNELS, ScheduleKey
from tritonlstm.tuning import launches
from tritonlstm.tuning.cases import Case
from tritonlstm.tuning.launches import VARIANTS, Launch, Layer, bind, bind_layer

CASE = Case(batch=1, steps=2, in_channels=2, channels=(3,), kernel=3, height=4, width=5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_launch_runs_more_than_once(kernel: str):
    for variant in VARIANTS[kernel]:
        run = bind(Launch(kernel, "bf16", 5, variant, batch=1, height=3, width=4), "cpu")
        run()
        run()


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_launch_moves_the_bytes_of_its_tensors(kernel: str, dtype: str, monkeypatch: pytest.MonkeyPatch):
    """But for the parameters and their sums; dC is read and written."""
    told, launch = [], Launch(kernel, dtype, 64)
    stand_in_for_kernels(monkeypatch, lambda name, arguments: told.append(arguments))
    bind(launch, "meta")()
    moved = {
        name: each.nbytes * (2 if name == "grad_c_ptr" else 1)
        for name, each in told[0].items()
        if isinstance(each, torch.Tensor) and each.numel() >= launch.elements and name != "sums_ptr"
    }
    assert sum(moved.values()) == launch.nbytes, moved


@pytest.mark.parametrize("schedule", ["concat", "hoisted"])
def test_a_layer_runs_in_that_schedule(schedule: str, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def record(*arguments: object, **options: object):
        asked.append(options)
        return functional.conv_lstm(*arguments, **options)

    monkeypatch.setattr(launches, "conv_lstm", record)
    output, _ = bind_layer(Layer("fp32", CASE, "inference"), schedule, "cpu")()
    assert output.shape == (2, 1, 3, 4, 5)
    assert not output.requires_grad
    grads = bind_layer(Layer("fp32", CASE, "training"), schedule, "cpu")()
    assert [tuple(grad.shape) for grad in grads] == [(2, 1, 2, 4, 5), (12, 5, 3, 3), (12,), (3, 3, 1, 1)]
    assert all(grad.isfinite().all() and grad.abs().sum() > 0 for grad in grads)
    assert asked == [{"backend": "triton", "schedule": schedule}] * 2
    assert torch.is_grad_enabled()


def test_a_layer_is_known_by_what_its_schedule_depends_on():
    layer = Layer("bf16", CASE, "training")
    assert layer.key == Layer("bf16", CASE.but(batch=7, steps=9, height=8), "inference").key
    assert layer.key == ScheduleKey(2, 2, 3, (3, 3))
