"""The cell that Inductor compiles: how often it does so, on what it depends, and what happens where it cannot."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.layers import conv_lstm, frames, gradients, in_threads
from tests.support.problems import Problem, Shape, by_operator
from tests.support.processes import run_with_torch
from tritonlstm import Spec
from tritonlstm.cells import compiled
from tritonlstm.core.backend import resolve

INDUCTOR = by_operator(backend="inductor")


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is compiled during the test, which starts with nothing compiled."""
    done, original = [], compiled._compile

    def spy(function: object) -> object:
        done.append(function)
        return original(function)

    monkeypatch.setattr(compiled, "_compiled", {})
    monkeypatch.setattr(compiled, "_compile", spy)
    return done


def solve(**sizes: object) -> dict[str, Tensor]:
    return Problem.random(Shape(**sizes), torch.float32).solve(INDUCTOR)


def test_two_compilations_serve_any_sizes_number_of_threads_and_layers_with_these_gates(compilations: list[object]):
    """One forward, one backward, even where the compiler's own caches are lost."""
    solve(steps=2, batch=1)
    assert len(compilations) == 2
    assert all(compiled._compiled.values()), "compiled, and not left to ATen calls"
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            solve(steps=9, batch=3)
            solve(steps=1, batch=1, spatial=(1, 1), channels=1)
            solve(channels=7, in_channels=1, spatial=(11, 13))
            solve(spatial=(), kernel=(), batch=6)
            solve(spec=Spec(output_activation="tanh", reverse=True, dilation=2))
    finally:
        torch.set_num_threads(threads)
    torch._dynamo.reset()
    with torch.compiler.set_stance("fail_on_recompile"):
        solve()
    assert len(compilations) == 2


def test_threads_that_start_together_compile_once(compilations: list[object]):
    problem = Problem.random(Shape(), torch.float32)
    expected = by_operator(backend="aten")(problem)

    def work() -> None:
        torch.testing.assert_close(INDUCTOR(problem), expected, rtol=1e-5, atol=1e-5)

    in_threads(4, work)
    assert len(compilations) == 1


def test_the_number_of_threads_changes_no_bit():
    problem, threads = Problem.random(Shape(spatial=(31, 17), channels=7), torch.float32), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = INDUCTOR(problem)
        torch.set_num_threads(2)
        two = INDUCTOR(problem)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)  # the convolution may differ by rounding


def test_tanh_is_within_three_units_in_the_last_place():
    x = torch.cat([torch.logspace(-30, 2, 100_000), torch.linspace(0.5, 0.75, 100_000), torch.tensor([0.0, torch.inf])])
    x = torch.cat([x, -x])
    got, exact = compiled._tanh(x).double(), x.double().tanh()
    assert ((got - exact).abs() <= 3 * 2.0**-23 * exact.abs()).all()
    assert got.abs().max() == 1
    assert compiled._tanh(torch.tensor([torch.nan])).isnan().all()


def test_under_the_modes_of_autograd_and_of_torch_func(compilations: list[object]):
    """Whatever mode the first call comes in, it compiles, and the calls after it do not depend on that mode."""
    layer, plain, input = conv_lstm(backend="inductor"), conv_lstm(backend="torch"), frames()
    plain.load_state_dict(layer.state_dict())
    expected = plain(input)[0]
    with torch.inference_mode():
        torch.testing.assert_close(layer(input)[0], expected, rtol=1e-5, atol=1e-5)
    parameters = dict(layer.named_parameters())

    def loss(parameters: dict[str, Tensor], input: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (input,))[0].square().sum()

    got = torch.func.grad(loss)(parameters, input)
    wanted = gradients(plain, expected.square().sum())
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-4, atol=1e-5)
    samples = torch.func.vmap(loss, in_dims=(None, 2), out_dims=0)(parameters, input.unsqueeze(1))
    torch.testing.assert_close(samples.sum(), expected.square().sum(), rtol=1e-4, atol=1e-4)
    assert all(compiled._compiled.values())
    assert len(compilations) == 3, "inference, training, backward"


WITHOUT_COMPILER = """
import sys, warnings
import torch
from tritonlstm import ConvLSTM2d

layer = ConvLSTM2d(2, [4, 3], 3, backend="inductor")
plain = ConvLSTM2d(2, [4, 3], 3, backend="aten")
plain.load_state_dict(layer.state_dict())
input = torch.randn(3, 2, 2, 5, 4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for run in (layer, torch.compile(ConvLSTM2d(2, 3, 3), backend="aot_eager")):
        with torch.no_grad():
            run(input)
        run(input)[0].sum().backward()
ours = [str(each.message) for each in caught if "tritonlstm" in str(each.message)]
assert len(ours) == 1 and "CXX" in ours[0] and 'backend="aten"' in ours[0], ours
layer.zero_grad()
for each in (layer, plain):
    each(input)[0].sum().backward()
assert torch.equal(layer(input)[0], plain(input)[0])
for one, other in zip(layer.parameters(), plain.parameters(), strict=True):
    assert torch.equal(one.grad, other.grad)
"""


def test_without_a_compiler_aten_calls_compute_and_one_warning_says_so(tmp_path: Path):
    environment = {
        "PATH": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }
    environment |= {name: value for name, value in os.environ.items() if name in ("OMP_NUM_THREADS", "TORCH_WARM_POOL")}
    result = run_with_torch(WITHOUT_COMPILER, folder=tmp_path, environment=environment)
    assert result.returncode == 0, result.stderr


def test_a_failure_of_any_kind_leaves_the_gates_to_aten(monkeypatch: pytest.MonkeyPatch):
    def fail(self, *tensors: Tensor) -> None:
        raise ZeroDivisionError("not today")

    monkeypatch.setattr(compiled, "_compiled", {})
    monkeypatch.setattr(compiled, "_warned", False)
    monkeypatch.setattr(compiled.Forward, "__call__", fail)
    problem = Problem.random(Shape(), torch.float32)
    with pytest.warns(UserWarning, match="not today") as caught:
        got = INDUCTOR(problem)
        training = INDUCTOR(replace(problem, weight=problem.weight.requires_grad_()))
    assert len(caught) == 1
    expected = by_operator(backend="aten")(problem)
    assert all(map(torch.equal, got, expected))
    assert all(map(torch.equal, training, expected))


def test_chosen_under_torch_compile_alone_and_only_on_a_cpu(monkeypatch: pytest.MonkeyPatch):
    weight = torch.zeros(4, 1)
    assert resolve("auto", weight) == "aten"
    assert resolve("inductor", weight) == "inductor"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert resolve("auto", weight) == "inductor"
    assert resolve("aten", weight) == "aten"
    assert resolve("auto", weight.to("meta")) == "aten"
    monkeypatch.setattr(torch.compiler, "_is_exporting_flag", True)
    assert resolve("auto", weight) == "aten"


def test_refused_on_another_device():
    with torch._subclasses.FakeTensorMode():
        weight = torch.empty(4, 1, device="cuda")
    with pytest.raises(ValueError, match=r'backend: "inductor" compiles for a CPU, got a weight on cuda'):
        resolve("inductor", weight)
