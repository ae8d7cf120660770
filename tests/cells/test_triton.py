"""What the Triton cell launches its kernels with."""

import pytest
import torch

from tests.support.counting import Count, backward, forward
from tests.support.problems import MODES, Problem, Shape
from tritonlstm import Spec
from tritonlstm.core.arguments import Arguments


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("mode", ["concat, save", "concat, recompute"])
def test_the_hardwares_tanh_is_for_the_forward_pass_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, mode: str
):
    problem, count = Problem.random(Shape(steps=2), dtype), Count(monkeypatch)
    with count:
        saved = forward(problem, save=True, **MODES[mode])
        backward(problem, saved, Arguments(*[True] * 7)._replace(input_weight=False), **MODES[mode])
    forward_name = "tanh_to_bfloat16" if dtype == torch.bfloat16 else "tanh"
    expected = {"gates_forward_kernel": forward_name, "gates_backward_kernel": "tanh"}
    launches = [each for each in count.launches if each[0] in expected]
    assert {name for name, _ in launches} == expected.keys()
    for name, arguments in launches:
        assert arguments["ACTIVATION"] == arguments["OUTPUT_ACTIVATION"] == expected[name]


def test_other_activations_are_what_they_are_called(monkeypatch: pytest.MonkeyPatch):
    problem, count = Problem.random(Shape(steps=1, spec=Spec(activation="relu")), torch.bfloat16), Count(monkeypatch)
    with count:
        forward(problem, save=False)
    assert [arguments["ACTIVATION"] for _, arguments in count.launches] == ["relu"]
