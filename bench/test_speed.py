"""The layer against an eager ConvLSTM on CPU: correctness first, then time and memory, as ratios in one run."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from .cases import CASES, Case
from .eager import EagerConvLSTM2d
from .measure import interleave, peak_bytes
from .report import Row, Rows

ROUNDS = {"inference": 15, "training": 11}


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest):
    """The rows of this run; printed as a table when it ends, and saved after every point where `--csv` says so."""
    path = request.config.getoption("--csv")
    collected = Rows(None if path is None else Path(path))
    yield collected
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n\n" + collected.table())


class Contenders:
    """Both layers of a case, with the same weights, and what they are run on."""

    def __init__(self, case: Case):
        torch.manual_seed(0)
        self.ours = case.layer()
        self.eager = EagerConvLSTM2d(self.ours.layers[0])
        self.input = case.sequence(case.in_channels)
        self.cotangent = case.sequence(case.channels)

    def infer(self, layer: nn.Module) -> None:
        with torch.no_grad():
            layer(self.input)

    def train(self, layer: nn.Module) -> tuple[Tensor, ...]:
        output, _ = layer(self.input)
        return torch.autograd.grad(output, list(layer.parameters()), self.cotangent)

    def check(self) -> None:
        """Both give the same output, states and gradients, up to float32's rounding."""
        output, ((h, c),) = self.ours(self.input)
        expected = self.eager(self.input)
        torch.testing.assert_close((output, (h, c)), expected, rtol=1e-4, atol=1e-5)
        for got, wanted in zip(self.train(self.ours), self.train(self.eager), strict=True):
            scale = wanted.abs().max()
            torch.testing.assert_close(got / scale, wanted / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ROUNDS)
@pytest.mark.parametrize("name", CASES)
def test_speed_and_memory(benchmark, rows: Rows, name: str, mode: str):
    contenders = Contenders(CASES[name])
    contenders.check()
    if not benchmark.enabled:
        pytest.skip("checked, not timed: benchmarks are disabled")
    run = contenders.infer if mode == "inference" else contenders.train
    ours, eager = interleave(
        benchmark, lambda: run(contenders.ours), lambda: run(contenders.eager), rounds=ROUNDS[mode]
    )
    peaks = [peak_bytes(lambda layer=layer: run(layer)) for layer in (contenders.ours, contenders.eager)]
    for contender, times, peak in zip(("tritonlstm", "eager"), (ours, eager), peaks, strict=True):
        rows.add(Row.of(str(CASES[name]), mode, contender, times, peak))
    benchmark.extra_info["eager/ours"] = eager.median / ours.median
    benchmark.extra_info["peak ours/eager"] = peaks[0] / peaks[1]
