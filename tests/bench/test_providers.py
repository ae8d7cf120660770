"""Every provider computes what the oracle does, and the check notices one that does not."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bench import check, providers
from bench.check import Oracle, WrongResult
from bench.providers import torch_layers
from bench.providers.protocol import Results
from tests.bench.tiny import TINY, VECTORS
from tritonlstm import ConvLSTM2d

CPU = torch.device("cpu")
FORMATS = dict(zip(providers.EAGER_FORMATS, (torch.channels_last, torch.contiguous_format)))


def fused(input_gates: Tensor, hidden_gates: Tensor, c: Tensor, bias: Tensor, hidden_bias: Tensor):
    """ATen's fused cell, which has no CPU kernel."""
    i, f, g, o = (input_gates + hidden_gates + bias + hidden_bias).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c, input_gates


@pytest.fixture(scope="module")
def oracles():
    return {peephole: Oracle(TINY, torch.float32, CPU, peephole) for peephole in (True, False)}


@pytest.mark.parametrize(
    "provider", [each for each in providers.ALL if each not in providers.FLOORS], ids=lambda provider: provider.name
)
def test_agrees_with_the_oracle(provider, oracles):
    stack = partial(torch_layers.stack_of, partial(torch_layers.fused_layer, fused))
    on_cpu = {
        providers.FUSED_CELL: partial(torch_layers.build, stack),
        # Not by Inductor, which takes seconds: the stand-in's loops are not those of the cell.
        providers.COMPILED_FUSED_CELL: partial(torch_layers.build, torch.compile(stack, backend="aot_eager")),
    }
    if provider in on_cpu:
        provider = replace(provider, build=on_cpu[provider], why_absent=lambda device: None)
    if provider in (providers.MAX_AUTOTUNE, providers.MAX_AUTOTUNE_FUSED_CELL):
        pytest.skip("on a CPU the same graph as the default mode's, and slow to compile")
    reason = provider.why_absent(CPU)
    if reason is not None:
        pytest.skip(reason)
    oracle = oracles[provider.peephole]
    if provider.name.startswith("torch.compile"):  # each step and layer takes seconds to compile
        oracle = Oracle(TINY.but(steps=1, channels=(3,)), torch.float32, CPU, provider.peephole)
    elif provider == providers.OURS_COMPILED:  # so does each layer
        oracle = Oracle(TINY.but(channels=(3,)), torch.float32, CPU, provider.peephole)
    assert 0 < oracle.check(provider.build(oracle.problem)) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [TINY, VECTORS], ids=["images", "vectors"])
@pytest.mark.parametrize("provider", providers.STEP_PROVIDERS, ids=lambda provider: provider.name)
def test_single_steps_agree_with_the_oracle(provider, case, dtype):
    if provider == providers.LSTM_CELL and (case != VECTORS or dtype != torch.float32):
        pytest.skip("nn.LSTMCell is one layer of vectors, and is timed in float32")
    oracle = Oracle(case, dtype, CPU, provider.peephole)
    assert 0 < oracle.check(provider.build(oracle.problem), provider.slack) <= provider.slack


def test_single_steps_of_ours_are_steps(monkeypatch):
    """As many as the case has, each with the state of the one before."""
    seen, step = [], ConvLSTM2d.step

    def counted(layer, frame, state=None):
        output, new = step(layer, frame, state)
        seen.append((state, new))
        return output, new

    monkeypatch.setattr(ConvLSTM2d, "step", counted)
    problem = Oracle(TINY, torch.float32, CPU, True).problem
    built = providers.OURS_STEP.build(problem)
    built.infer(built.load(problem.input))
    assert len(seen) == TINY.steps and seen[0][0] is None
    assert all(given is before for (given, _), (_, before) in zip(seen[1:], seen))


def test_eager_agrees_in_half_types():
    oracle = Oracle(TINY, torch.bfloat16, CPU, True)
    assert oracle.check(providers.EAGER.build(oracle.problem)) <= 1


class Convolutions(TorchDispatchMode):
    """Keeps the images and weights of all convolutions, forward and backward."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if "convolution" in str(function):
            self.seen += [each for each in arguments if isinstance(each, Tensor) and each.dim() == 4]
        return function(*arguments, **(options or {}))


def convolutions(provider, problem) -> list[Tensor]:
    built = provider.build(problem)
    arguments = built.load(problem.input), built.load(problem.cotangent)
    with Convolutions() as found:
        built.train(*arguments)
    return found.seen


@pytest.mark.parametrize("provider", [*FORMATS, *providers.FLOORS], ids=lambda provider: provider.name)
def test_each_memory_format_is_kept(provider, oracles):
    seen = convolutions(provider, oracles[True].problem)
    if provider in FORMATS:
        calls = TINY.steps * len(TINY.channels)
        assert len(seen) == (2 + 3) * calls  # image and weight, and the gradient too
    memory_format = list(FORMATS.values())["contiguous" in provider.name]
    assert all(each.is_contiguous(memory_format=memory_format) for each in seen)


def test_ours_is_fed_in_both_memory_formats(oracles):
    """And judged by the errors of the one in which it computes."""
    problem = oracles[True].problem
    for provider, own in ((providers.OURS, torch.channels_last), (providers.NCHW, torch.contiguous_format)):
        built = provider.build(problem)
        assert built.memory_format == torch.channels_last
        for tensor in (problem.input, problem.cotangent):
            image = built.load(tensor)[0]
            assert [image.is_contiguous(memory_format=each) for each in FORMATS.values()] == [
                each == own for each in FORMATS.values()
            ]


def test_the_budget_is_that_of_the_memory_format(monkeypatch):
    by_reference, formats = check._by_reference, []

    def seen(given, memory_format=torch.channels_last):
        if given.input.dtype == torch.float32:  # not the oracle
            formats.append(memory_format)
        return by_reference(given, memory_format)

    oracle = Oracle(TINY, torch.float32, CPU, True)
    monkeypatch.setattr(check, "_by_reference", seen)
    for provider in [*FORMATS, *FORMATS, providers.OURS]:
        oracle.check(provider.build(oracle.problem))
    # Computed once for each draw. Our layer computes channels last.
    assert formats == [memory_format for memory_format in FORMATS.values() for _ in range(check.DRAWS)]


def test_every_provider_that_torch_runs_can_be_captured():
    """Otherwise it would be timed with its launches, and ours without."""
    foreign = (providers.FLAX, providers.KERAS)
    assert all(each.capturable == (each not in foreign) for each in providers.ALL)
    modes = {each.build.args[1] for each in providers.COMPILERS if each != providers.OURS_COMPILED}
    assert modes == {None, "max-autotune-no-cudagraphs"}
    assert {each for each in providers.ALL if each.compiles} == {*foreign, *providers.COMPILERS}


def test_the_fused_cell_is_absent_where_aten_has_none():
    assert "CUDA" in providers.FUSED_CELL.why_absent(CPU)
    with pytest.raises(NotImplementedError):
        torch.ops.aten._thnn_fused_lstm_cell(torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros(1, 1))


def spoiled(built, what: str):
    """A provider one of whose results is off by a thousandth of itself."""

    def results(value: Results) -> Results:
        (h, c), *rest = value.states
        if what == "c":
            c = c.clone()
            c[0, 0, 0, 0] *= 1.001
        return Results(value.output * {"output": 1.001, "nan": float("nan")}.get(what, 1.0), [(h, c), *rest])

    def gradients(value) -> list[Tensor]:
        first, *rest = value
        return [first, *rest[:-1], rest[-1] * 1.001] if what == "gradient" else [first, *rest]

    return replace(built, results=results, gradients=gradients)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("output", "output: error"),
        ("c", "c of layer 0: error"),
        ("gradient", "grad of peephole of layer 1: error"),
        ("nan", "output: error nan"),
    ],
)
def test_the_check_notices(what: str, message: str, oracles):
    oracle = oracles[True]
    built = providers.EAGER.build(oracle.problem)
    oracle.check(spoiled(built, "nothing"))
    with pytest.raises(WrongResult, match=message):
        oracle.check(spoiled(built, what))


def test_slack_allows_more_and_is_reported(oracles):
    oracle = oracles[True]
    built = spoiled(providers.EAGER.build(oracle.problem), "output")
    with pytest.raises(WrongResult):
        oracle.check(built, slack=4.0)
    assert 4 < oracle.check(built, slack=1e6) < 1e6


def test_no_baseline_fails_for_its_rounding_and_ours_has_no_slack():
    for provider in [*providers.ALL, *providers.STEP_PROVIDERS]:
        assert (provider.slack == 1) == provider.name.startswith(providers.OURS.name), provider.name


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_the_floor_does_the_convolutions_of_an_eager_layer(mode: str, oracles):
    problem = oracles[True].problem

    def flops(provider) -> int:
        built = provider.build(problem)
        with FlopCounterMode(display=False) as counter:
            built.infer(problem.input) if mode == "inference" else built.train(problem.input, problem.cotangent)
        return counter.get_total_flops()

    expected = flops(providers.EAGER)
    if mode == "training":
        # Eager also computes the gradient of the first layer's input, in all steps but the first.
        in_channels, channels = TINY.layers[0]
        pixels = TINY.batch * TINY.height * TINY.width
        expected -= (TINY.steps - 1) * 2 * pixels * 4 * channels * TINY.kernel**2 * in_channels
    assert [flops(provider) for provider in providers.FLOORS] == [expected] * 2
