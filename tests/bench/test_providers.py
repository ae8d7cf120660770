"""Every contender computes what the oracle does, and the check notices one that does not."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bench import check, providers
from bench.cases import problem
from bench.check import Oracle, Oracles, WrongResult
from bench.providers import compiled, conv_floor, fused_cell, ours
from bench.providers.protocol import Results
from tests.bench.tiny import TINY
from tritonlstm import _devices

CPU = torch.device("cpu")
FORMATS = {providers.EAGER: torch.channels_last, providers.EAGER_CONTIGUOUS: torch.contiguous_format}
WIDE = TINY.but(in_channels=8, channels=(8,))
"""What an AVX2 CPU convolves over planes."""
MANY = WIDE.but(channels=(24,), height=32, width=32)
"""What it convolves by minimal filtering, over rows."""


def fused(input_gates: Tensor, hidden_gates: Tensor, c: Tensor, bias: Tensor, hidden_bias: Tensor):
    """What ATen's fused cell computes, which has no CPU kernel."""
    i, f, g, o = (input_gates + hidden_gates + bias + hidden_bias).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c, input_gates


@pytest.fixture(scope="module")
def oracles():
    given = {peephole: problem(TINY, torch.float32, peephole=peephole) for peephole in (True, False)}
    return {peephole: (each, Oracle(each)) for peephole, each in given.items()}


CHECKED = [each for each in providers.ALL if each is not providers.CONV_FLOOR]


@pytest.mark.parametrize("provider", CHECKED, ids=lambda provider: provider.name)
def test_agrees_with_the_oracle(provider, oracles):
    if provider is providers.FUSED_CELL:
        provider = replace(provider, build=lambda given: fused_cell.build(given, fused), why_absent=lambda device: None)
    if provider is providers.COMPILED_FUSED_CELL:
        stack = partial(fused_cell.stack, fused)
        provider = replace(provider, build=partial(compiled.build, stack, None), why_absent=lambda device: None)
    if provider in (providers.MAX_AUTOTUNE, providers.MAX_AUTOTUNE_FUSED_CELL):
        pytest.skip("on a CPU the same graph as the default mode's, and slow to compile")
    reason = provider.why_absent(CPU)
    if reason is not None:
        pytest.skip(reason)
    given, oracle = oracles[provider.peephole]
    if provider in providers.COMPILERS:  # each step and layer takes seconds to compile
        given = problem(TINY.but(steps=1, channels=(3,)), torch.float32, peephole=provider.peephole)
        oracle = Oracle(given)
    assert 0 < oracle.check(provider.build(given), given) <= 1


def test_the_eager_contender_agrees_in_half_types():
    given = problem(TINY, torch.bfloat16)
    assert Oracle(given).check(providers.EAGER.build(given), given) <= 1


class Convolutions(TorchDispatchMode):
    """Keeps the arguments of all convolutions, forward and backward."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if "convolution" in str(function):
            self.seen += [each for each in arguments if isinstance(each, Tensor) and each.dim() == 4]
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("provider", FORMATS, ids=lambda provider: provider.name)
def test_each_eager_contender_keeps_to_its_memory_format(provider, oracles):
    given, _ = oracles[True]
    built = provider.build(given)
    arguments = built.load_input(given.input), built.load_cotangent(given.cotangent)
    with Convolutions() as convolutions:
        built.train(*arguments)
    calls = TINY.steps * len(TINY.channels)
    assert len(convolutions.seen) == (2 + 3) * calls  # image and weight, and the gradient too
    assert all(each.is_contiguous(memory_format=FORMATS[provider]) for each in convolutions.seen)
    _, ((h, c), _) = vars(built.infer(arguments[0])).values()
    assert all(each.is_contiguous(memory_format=FORMATS[provider]) for each in (h, c))


def test_our_layers_get_what_they_compute_in(oracles, monkeypatch):
    """Here the first layer computes over planes, the last one over rows."""
    monkeypatch.setattr(ours, "is_faster_in_planes", lambda weight, **_: weight.shape[0] == 4 * TINY.channels[0])
    given, oracle = oracles[True]
    built = providers.OURS.build(given)
    input, cotangent = built.load_input(given.input), built.load_cotangent(given.cotangent)
    assert input.is_contiguous() and not cotangent.is_contiguous()
    assert cotangent[0].is_contiguous(memory_format=torch.channels_last)
    weights = [each for each in built.gradients(built.train(input, cotangent)) if each.shape[-1] == TINY.kernel]
    assert [each.is_contiguous() for each in weights] == [True, False]
    assert set(built.memory_formats) == set(FORMATS.values())
    assert oracle.check(built, given) <= 1


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_the_floor_convolves_in_pytorchs_fastest_layout(capability: str, monkeypatch):
    """Which is not ours where we convolve by minimal filtering."""
    monkeypatch.setattr(_devices, "CPU_CAPABILITY", capability)
    for case in (WIDE, MANY):
        given = problem(case, torch.float32)
        output = providers.OURS.build(given).infer(given.input).output
        assert output.is_contiguous() == (capability == "AVX2" and case is WIDE)
        rows = conv_floor._layer(given, 0).rows
        assert rows.movedim(-1, 2).is_contiguous() == (capability == "AVX2")
        assert rows.is_contiguous() == (capability != "AVX2")


def test_an_oracle_is_made_once_for_a_case_a_dtype_and_peepholes():
    oracles = Oracles()
    first = oracles.of(problem(TINY, torch.float32))
    assert oracles.of(problem(TINY, torch.float32)) is first
    others = [
        problem(TINY, torch.float32, peephole=False),
        problem(TINY, torch.bfloat16),
        problem(TINY.but(steps=1), torch.float32),
    ]
    assert len({first, *map(oracles.of, others)}) == 4


def test_the_budget_is_that_of_the_contenders_memory_formats(oracles, monkeypatch):
    by_reference, formats = check._by_reference, []

    def seen(given, memory_format=torch.channels_last):
        if given.input.dtype == torch.float32:  # else it is the oracle
            formats.append(memory_format)
        return by_reference(given, memory_format)

    given, _ = oracles[True]
    oracle = Oracle(given)
    monkeypatch.setattr(check, "_by_reference", seen)
    for provider in [*FORMATS, *FORMATS, providers.OURS]:
        oracle.check(provider.build(given), given)
    # Each made once for every draw, the one in which our layer computes too.
    assert formats == [memory_format for memory_format in FORMATS.values() for _ in range(check.DRAWS)]


def test_every_contender_that_torch_runs_can_be_captured():
    """Or it would be timed with its launches, and ours without."""
    foreign = (providers.FLAX, providers.KERAS)
    assert all(each.capturable == (each not in foreign) for each in providers.ALL)
    assert all(each.build.args[1] in (None, "max-autotune-no-cudagraphs") for each in providers.COMPILERS)


def test_fused_cell_is_absent_where_aten_has_none():
    assert "CUDA" in providers.FUSED_CELL.why_absent(CPU)
    with pytest.raises(NotImplementedError):
        torch.ops.aten._thnn_fused_lstm_cell(torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros(1, 1))


def spoiled(built, what: str):
    """A contender of whose results one number is off by a thousandth of itself."""

    def results(value: Results) -> Results:
        (h, c), *rest = value.states
        if what == "c":
            c = c.clone()
            c[0, 0, 0, 0] *= 1.001
        return Results(value.output * (1.001 if what == "output" else 1), [(h, c), *rest])

    def gradients(value) -> list[Tensor]:
        first, *rest = value
        return [first, *rest[:-1], rest[-1] * 1.001] if what == "gradient" else [first, *rest]

    return replace(built, results=results, gradients=gradients)


@pytest.mark.parametrize("what", ["output", "c", "gradient"])
def test_the_check_notices(what: str, oracles):
    given, oracle = oracles[True]
    built = providers.EAGER.build(given)
    oracle.check(spoiled(built, "nothing"), given)
    with pytest.raises(
        WrongResult, match={"output": "output", "c": "c of layer 0", "gradient": "grad of peephole"}[what]
    ):
        oracle.check(spoiled(built, what), given)


def test_the_check_notices_nan(oracles):
    given, oracle = oracles[True]
    built = providers.EAGER.build(given)
    nan = replace(built, results=lambda value: Results(value.output * float("nan"), value.states))
    with pytest.raises(WrongResult, match="output: error nan"):
        oracle.check(nan, given)


def flops(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_the_floor_does_the_convolutions_of_an_eager_layer(mode: str, oracles):
    given, _ = oracles[True]
    floor, eager = providers.CONV_FLOOR.build(given), providers.EAGER.build(given)
    arguments = (given.input,) if mode == "inference" else (given.input, given.cotangent)
    floor_flops, eager_flops = (
        flops(lambda b=b: (b.infer if mode == "inference" else b.train)(*arguments)) for b in (floor, eager)
    )
    if mode == "training":
        # Eager also makes the gradient of the first layer's input, in all steps but the first, which has none below it.
        case, (in_channels, channels) = TINY, TINY.layers[0]
        pixels = case.batch * case.height * case.width
        eager_flops -= (case.steps - 1) * 2 * pixels * 4 * channels * case.kernel**2 * in_channels
    assert floor_flops == eager_flops


def test_slack_allows_more_and_is_told(oracles):
    given, oracle = oracles[True]
    built = spoiled(providers.EAGER.build(given), "output")
    with pytest.raises(WrongResult):
        oracle.check(built, given, slack=4.0)
    assert 4 < oracle.check(built, given, slack=1e6) < 1e6


def test_no_baseline_fails_for_its_rounding_and_ours_has_no_slack():
    for provider in providers.ALL:
        assert (provider.slack == 1) == provider.name.startswith(providers.OURS.name), provider.name
