"""The choice between a layer's schedules, with times that are made up; and the runs that a device would time."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tritonlstm import functional
from tritonlstm.tuning import schedules
from tritonlstm.tuning.cases import CASES
from tritonlstm.tuning.schedules import Layer, LayerBench
from tritonlstm.tuning.search import MARGIN
from tritonlstm.launch.tables import ScheduleKey

LAYER = Layer("fp32", in_channels=2, channels=3, kernel=3, steps=2, batch=1, height=4, width=5)
SLOW, FAST = 1.0, 1 / (1 + 2 * MARGIN)


def bench(inference: float, training: float, wrong: str = "") -> LayerBench:
    """A device on which "concat" takes a second, and "hoisted" what is said."""

    def bind(layer: Layer, mode: str, schedule: str) -> Callable[[], float]:
        seconds = {"inference": inference, "training": training}[mode] if schedule == "hoisted" else 1.0
        return lambda: seconds

    return LayerBench(bind, lambda dtype, key, schedule: wrong, lambda runs: [[run(), 9.0, run()] for run in runs])


@pytest.mark.parametrize(
    ("inference", "training", "chosen"),
    [
        (FAST, FAST, "hoisted"),
        (FAST, SLOW, "concat"),  # by half the margin over both
        (0.5, 1.01, "hoisted"),
        (0.5, 1.1, "concat"),  # training would be slower by more than the margin
        (1.5, 1.5, "concat"),
        (1 / (1 + 0.5 * MARGIN), 1 / (1 + 0.5 * MARGIN), "concat"),
    ],
)
def test_hoisted_wins_by_more_than_the_margin_and_loses_nowhere(inference: float, training: float, chosen: str):
    outcome = schedules.choose(LAYER.key, [LAYER], bench(inference, training))
    assert outcome.chosen == chosen
    assert outcome.speedup("inference") == pytest.approx(1 / inference)
    assert outcome.speedup("training") == pytest.approx(1 / training)


def test_a_schedule_with_wrong_results_is_never_chosen():
    outcome = schedules.choose(LAYER.key, [LAYER], bench(0.1, 0.1, wrong="output: error 1"))
    assert (outcome.chosen, outcome.rejected) == ("concat", "wrong results: output: error 1")


@pytest.mark.parametrize("failing", ["bind", "check", "time"])
def test_a_layer_that_cannot_be_timed_keeps_its_schedule(failing: str):
    def fail(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    outcome = schedules.choose(LAYER.key, [LAYER], replace(bench(0.1, 0.1), **{failing: fail}))
    assert (outcome.chosen, outcome.rejected) == ("concat", "not timed: CUDA out of memory")


def test_layers_with_one_key_are_chosen_for_together():
    found = schedules.layers([CASES["paper"], CASES["openstl"]], "bf16")
    assert list(found) == [
        ScheduleKey(2, 16, 128, (5, 5)),
        ScheduleKey(2, 128, 64, (5, 5)),
        ScheduleKey(2, 64, 64, (5, 5)),
        ScheduleKey(2, 128, 128, (5, 5)),
    ]
    assert len(found[ScheduleKey(2, 16, 128, (5, 5))]) == 1, "the same layer in both"
    larger = schedules.layers([CASES["paper"], CASES["paper"].but(height=32)], "bf16")
    assert [layer.height for layer in larger[ScheduleKey(2, 64, 64, (5, 5))]] == [16, 32]


@pytest.mark.parametrize("schedule", ["concat", "hoisted"])
def test_runs_are_of_the_layer_in_that_schedule(schedule: str, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def record(*arguments: object, **options: object):
        asked.append(options)
        return functional.conv_lstm(*arguments, **options)

    monkeypatch.setattr(schedules, "conv_lstm", record)
    output, _ = schedules.bind("cpu", LAYER, "inference", schedule)()
    assert output.shape == (2, 1, 3, 4, 5)
    assert not output.requires_grad
    grads = schedules.bind("cpu", LAYER, "training", schedule)()
    assert [tuple(grad.shape) for grad in grads] == [(2, 1, 2, 4, 5), (12, 5, 3, 3), (12,), (3, 3, 1, 1)]
    assert all(grad.isfinite().all() and grad.abs().sum() > 0 for grad in grads)
    assert [options["schedule"] for options in asked] == [schedule, schedule]
    assert torch.is_grad_enabled()
