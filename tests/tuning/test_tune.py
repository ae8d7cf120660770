"""What the search asks of a device, on interpreted kernels: the choice is in use when a workload is bound and run."""

import pytest
import torch

from tritonlstm.launch import Config, config
from tritonlstm.tuning import tune
from tritonlstm.tuning.cases import Case
from tritonlstm.tuning.launches import Launch, Layer
from tritonlstm.tuning.timing import ROTATED

LAUNCH, OWN = Launch("gates_forward", "bf16", 64), Config(256, 2)
LAYER = Layer("fp32", Case(batch=1, steps=2, in_channels=2, channels=(3,), kernel=5, height=4, width=5), "training")


def test_a_launch_is_bound_and_run_in_its_configuration(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def bind(launch: Launch, device: str):
        def look() -> None:
            seen.append((launch, device, config.pick_config("gates_forward", "sm_90", 2, 64)))

        look()
        return look

    monkeypatch.setattr(tune, "bind", bind)
    run = tune._bind("meta", LAUNCH, OWN)
    assert len(run.bound) == len(seen) == ROTATED, "each on tensors of its own"
    assert config.pick_config("gates_forward", "sm_90", 2, 64) != OWN
    run()
    assert seen == [(LAUNCH, "meta", OWN)] * 2 * ROTATED


def test_results_are_checked_with_the_choice(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def disagreement(*arguments: object, **options: object) -> str:
        asked.append((*arguments, options, config.pick_config("gates_forward", "sm_90", 2, 64)))
        return "output"

    monkeypatch.setattr(tune, "disagreement", disagreement)
    assert tune._check("cpu", LAUNCH, OWN) == tune._check("cpu", LAYER, "hoisted") == "output"
    default = config.pick_config("gates_forward", "sm_90", 2, 64)
    options = {"in_channels": 2, "kernel": 5, "schedule": "hoisted"}
    assert asked == [("bf16", 64, "cpu", {}, OWN), ("fp32", 3, "cpu", options, default)]


def test_every_run_of_a_layer_takes_cudnns_fastest_plans(monkeypatch: pytest.MonkeyPatch):
    def bind_layer(*arguments: object):
        return lambda: (arguments, torch.backends.cudnn.benchmark)

    monkeypatch.setattr(tune, "bind_layer", bind_layer)
    run = tune._bind("cpu", LAYER, "hoisted")
    assert run() == run() == ((LAYER, "hoisted", "cpu"), True)
    assert not torch.backends.cudnn.benchmark
