"""torch.compile: the layers stay one operator each, whatever the mode, the sizes and the model around them."""

import os
from collections import Counter
from itertools import cycle, product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tritonlstm
from tests.support.covering import Row, describe
from tests.support.layers import CIN, conv_lstm, frames, gradients, peephole_lstm
from tritonlstm import Spec
from tritonlstm.core.spec import POINTWISE

pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # from inside torch's compiler
]

LAYERS = {"ConvLSTM2d": conv_lstm, "PeepholeLSTM": peephole_lstm}
MODES = ("default", "reduce-overhead", "max-autotune")
GATES = [
    ("tanh", "sigmoid", None, 0.5),
    ("relu", "hard_sigmoid", "leaky_relu", None),
    ("identity", "hard_sigmoid_keras2", None, None),
    ("leaky_relu", "sigmoid", "leaky_relu", 0.5),
]
"""Every choice of `POINTWISE`: the compiler sees but an operator and the name of the choice."""
# Each once, by turns with each layer on each backend, and in a mode.
ROWS = [
    {"layer": layer, "backend": backend, **dict(zip(POINTWISE, gates)), "mode": mode}
    for gates, (layer, backend), mode in zip(GATES, product(LAYERS, ("aten", "triton")), cycle(MODES))
]
# On a CPU "auto" compiles the gates, for seconds with each choice of activations: the default ones in every mode.
DEFAULTS = {"backend": "auto", **{name: getattr(Spec(), name) for name in POINTWISE}}
ROWS += [{"layer": layer, **DEFAULTS, "mode": mode} for layer in LAYERS for mode in MODES]
# backend="torch" is PyTorch's own operations: what Inductor makes of them is in the package of test_export.py.


def graphs() -> int:
    """Graphs compiled since the test began."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def everything(run, layer: nn.Module, input: Tensor, state=None) -> list[Tensor]:
    """Output, final states and the gradients of the input, the states and the parameters."""
    input = input.detach().requires_grad_()
    state = state and [tuple(tensor.detach().requires_grad_() for tensor in pair) for pair in state]
    output, final = run(input, state)
    loss = output.square().sum() + sum(h.sum() + c.square().sum() for h, c in final)
    leaves = [input, *layer.parameters(), *(tensor for pair in state or () for tensor in pair)]
    return [output, *(tensor for pair in final for tensor in pair), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("row", ROWS, ids=describe)
def test_every_mode_equals_eager_in_one_graph(row: Row):
    options = {name: row[name] for name in ("backend", *POINTWISE)}
    layer, input = LAYERS[row["layer"]](**options), frames(steps=2)
    input = input if row["layer"] == "ConvLSTM2d" else input[..., 0, 0]
    with torch.no_grad():
        _, state = layer(input)
    compiled = torch.compile(layer, fullgraph=True, mode=row["mode"])
    got, expected = everything(compiled, layer, input, state), everything(layer, layer, input, state)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert graphs() == 1
    with torch.no_grad():
        torch.testing.assert_close(compiled(input, state), layer(input, state), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        ("tanh", "sigmoid", "identity", 0.5),
        ("relu", "hard_sigmoid", "leaky_relu", None),
        ("identity", "hard_sigmoid_keras2", "tanh", None),
        ("leaky_relu", "sigmoid", "relu", 0.5),
    ],
)
def test_plain_pytorch_is_traced_with_every_activation(options: tuple):
    layer = peephole_lstm(backend="torch", **dict(zip(POINTWISE, options)))
    input = frames(steps=2)[..., 0, 0]
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got, expected = everything(compiled, layer, input), everything(layer, layer, input)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_training_and_inference_compile_to_an_operator_each():
    layer, input = conv_lstm(), frames()
    compiled = torch.compile(layer, fullgraph=True)
    with torch.no_grad():
        compiled(input)
    compiled(input)[0].sum().backward()
    with torch.profiler.profile() as training:
        compiled(input)[0].sum().backward()
    with torch.no_grad(), torch.profiler.profile() as inference:
        compiled(input)

    def operators(profile: torch.profiler.profile) -> Counter:
        return Counter(event.name for event in profile.events() if event.name.startswith("tritonlstm::"))

    # The copy is the caller's, of the last layer's output.
    assert operators(training) == {"tritonlstm::training": 2, "tritonlstm::backward": 2, "tritonlstm::copy": 1}
    assert operators(inference) == {"tritonlstm::inference": 2}


# The first has no two sizes alike, nor the channels', for the compiler takes such for one and the same.
SIZES = [(4, 3, 6, 5), (5, 4, 7, 6), (7, 4, 9, 8), (2, 6, 5, 12), (9, 2, 4, 4), (3, 5, 11, 3)]


@pytest.mark.parametrize("make", [conv_lstm, peephole_lstm])
def test_no_recompilation_for_other_sizes(make):
    layer = make()
    compiled = torch.compile(layer, fullgraph=True)
    counts = []
    for size in SIZES:
        input = frames(*size) if isinstance(layer, tritonlstm.ConvLSTM2d) else frames(*size)[..., 0, 0]
        got, expected = everything(compiled, layer, input), everything(layer, layer, input)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        counts.append(graphs())
    # The first call is compiled for its sizes, the second for any; the others use that.
    assert counts[1:] == [2] * (len(SIZES) - 1)


def test_dynamic_from_the_start_compiles_once():
    layer = conv_lstm()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for size in SIZES:
        input = frames(*size)
        torch.testing.assert_close(compiled(input), layer(input), rtol=1e-5, atol=1e-5)
    assert graphs() == 1


class Model(nn.Module):
    """Convolutions, and norms if wanted, around the layer, which sees every frame and its own state."""

    def __init__(self, *, norms: bool = True, backend: str = "auto"):
        super().__init__()
        group, batch = (nn.GroupNorm(2, 6), nn.BatchNorm2d(8)) if norms else (nn.Identity(), nn.Identity())
        self.stem = nn.Sequential(nn.Conv2d(CIN, 6, 3, padding=1), group, nn.SiLU())
        self.recurrent = tritonlstm.ConvLSTM2d(6, 8, 3, backend=backend)
        self.head = nn.Sequential(batch, nn.Conv2d(8, CIN, 1))

    def forward(self, frames: Tensor, state=None):
        features = self.stem(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        output, state = self.recurrent(features, state)
        return self.head(output.flatten(0, 1)).unflatten(0, frames.shape[:2]), state


# The loops that Inductor makes of the model and the gates take most of the time: once, for one part of the sequence,
# without norms.
@pytest.mark.parametrize(("autocast", "backend", "parts"), [(False, "inductor", 1), (True, "aot_eager", 2)])
def test_inside_a_larger_model_with_its_loss(autocast: bool, backend: str, parts: int):
    by_inductor, input = backend == "inductor", frames()
    model = Model(norms=not by_inductor, backend="auto" if by_inductor else "aten")

    def loss(input: Tensor) -> Tensor:
        state = None
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            for part in (input[:-1], input[1:])[-parts:]:
                predicted, state = model(part, state)
            last, _ = model.recurrent.step(predicted[-1].repeat(1, 3, 1, 1), state)
        return F.mse_loss(predicted.float(), input[1:]) + last.float().mean()

    eager = loss(input)
    expected = gradients(model, eager)
    compiled = torch.compile(loss, fullgraph=True, backend=backend)(input)
    tolerance = {"rtol": 3e-2, "atol": 3e-2} if autocast else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(compiled, eager, **tolerance)
    torch.testing.assert_close(gradients(model, compiled), expected, **tolerance)
    assert graphs() == 1


def test_a_training_loop_with_carried_state_does_not_recompile():
    model = Model()
    # What is compiled again is decided before Inductor gets it.
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    optimizer, state, counts = torch.optim.Adam(model.parameters()), None, []
    for _ in range(4):
        predicted, state = compiled(frames(), state)
        predicted.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        state = [(h.detach(), c.detach()) for h, c in state]
        counts.append(graphs())
    assert counts == [1, 2, 2, 2], "once without a state, once with"


def test_the_backward_pass_is_one_graph_too():
    """Compiled autograd traces the backward pass, which would break at an operator that it cannot see through."""
    layer, input = conv_lstm(), frames()
    expected = gradients(layer, layer(input)[0].square().sum())
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch._dynamo.compiled_autograd._enable(torch.compile(fullgraph=True, backend="aot_eager")):
        compiled(input)[0].square().sum().backward()
    assert torch._dynamo.utils.counters["compiled_autograd"]["captures"] == 1
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-5)


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended, such as the C++ compiler."""
    return sum(os.times()[:4])


@pytest.mark.serial
@pytest.mark.parametrize("layers", [1, 3])
def test_compile_time_does_not_depend_on_the_number_of_steps(layers: int):
    def seconds(steps: int) -> float:
        torch._dynamo.reset()
        layer = tritonlstm.ConvLSTM2d(CIN, [3] * layers, 3)
        compiled, input = torch.compile(layer, fullgraph=True), frames(steps, 1, 3, 3)

        def run() -> float:
            start = cpu_seconds()
            compiled(input)[0].sum().backward()
            return cpu_seconds() - start

        return run() - run()  # what the first run took beyond the computation

    with torch._inductor.config.patch(force_disable_caches=True):
        seconds(2)  # the compiler's own start
        times = []
        while len(times) < 3:  # a processor's clock may change between one and the other, but hardly so three times
            times.append((seconds(4), seconds(64)))
            if times[-1][1] <= 1.3 * times[-1][0]:
                return
    pytest.fail(f"seconds for 4 and 64 steps: {times}")
