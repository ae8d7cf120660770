"""The check of a candidate against the oracle, on interpreted kernels: right ones pass, wrong ones do not."""

import pytest
from torch import Tensor

from tritonlstm.cells import BackwardStep, ForwardStep
from tritonlstm.cells.triton import TritonCell, TritonParameterGrads
from tritonlstm.launch import Config, config
from tritonlstm.tuning import check
from tritonlstm.tuning.launches import DTYPES

CONFIGS = {"gates_forward": Config(256, 1), "gates_backward": Config(1024, 8), "parameter_grads": Config(512, 2)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch):
    """Problems that the interpreter solves in a second."""
    check._expected.cache_clear()
    monkeypatch.setattr(check, "_ELEMENTS", 2048)
    yield
    check._expected.cache_clear()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("dtype", "channels", "schedule"),
    [("fp32", 32, "concat"), ("bf16", 32, "hoisted"), ("fp16", 17, "concat"), ("fp32", 1, "concat")],
)
def test_right_kernels_pass_in_any_configuration(dtype: str, channels: int, schedule: str):
    with config.use(CONFIGS):
        assert check.disagreement(dtype, channels, "cpu", in_channels=2, schedule=schedule) == ""


def _spoil_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TritonCell.forward

    def wrong(self: TritonCell, step: ForwardStep) -> None:
        right(self, step)
        step.h.view(-1)[-1] += 0.1  # one element of the last tile

    monkeypatch.setattr(TritonCell, "forward", wrong)


def _spoil_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TritonCell.backward

    def wrong(self: TritonCell, step: BackwardStep) -> None:
        right(self, step)
        step.grad_c.mul_(1.01)

    monkeypatch.setattr(TritonCell, "backward", wrong)


def _spoil_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TritonParameterGrads.result

    def wrong(self: TritonParameterGrads) -> tuple[Tensor | None, Tensor | None]:
        bias, peephole = right(self)
        return bias, peephole.clone().fill_(float("nan"))

    monkeypatch.setattr(TritonParameterGrads, "result", wrong)


@pytest.mark.parametrize(
    ("spoil", "name"), [(_spoil_forward, "output"), (_spoil_backward, "grad of"), (_spoil_sums, "grad of peephole")]
)
@pytest.mark.usefixtures("small")
def test_a_wrong_kernel_is_found_and_named(spoil, name: str, monkeypatch: pytest.MonkeyPatch):
    spoil(monkeypatch)
    assert check.disagreement("fp32", 32, "cpu", in_channels=2).startswith(name)


def test_the_problem_has_more_tiles_than_one_and_the_last_is_not_full():
    for channels in (1, 17, 33, 64, 128, 512):
        *_, h_n, _ = check._problem(DTYPES["fp32"], channels, 2, 3, seed=0)
        assert h_n.numel() >= 4 * 4096
        assert h_n.numel() % 4096
