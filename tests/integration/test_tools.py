"""Tools that trace, count, wrap or convert modules: they work on these layers, or one sentence says what does."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.func import functional_call, jacrev, vjp, vmap

from tests.support.layers import conv_lstm, frames, pair_of_layers, peephole_lstm
from tritonlstm import ConvLSTM2d, functional
from tritonlstm.models import EncoderForecaster


class Plain(nn.Module):
    """A wrapper with a forward alone, of the documented arguments."""

    def __init__(self, cell: nn.Module):
        super().__init__()
        self.cell = cell

    def forward(self, input: Tensor | None, state: object = None, steps: int | None = None):
        return self.cell(input, state, steps)


class LowRank(nn.Module):
    """An adapter of low rank (LoRA) beside a frozen weight; `up` is zero at first."""

    def __init__(self, cell: nn.Module, rank: int = 2):
        super().__init__()
        self.base = cell.requires_grad_(False)
        weight = cell.weight
        self.down = nn.Parameter(torch.randn(rank, weight[0].numel()))
        self.up = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, *args: object, **kwargs: object):
        weight = self.base.weight + (self.up @ self.down).view_as(self.base.weight)
        return functional_call(self.base, {"weight": weight}, args, kwargs)


def compiled(cell: nn.Module) -> nn.Module:
    return torch.compile(cell, backend="aot_eager")


MAKERS = {"ConvLSTM2d": (conv_lstm, frames), "PeepholeLSTM": (peephole_lstm, lambda: frames()[..., 0, 0])}
WRAPPERS = [Plain, LowRank, checkpoint_wrapper, compiled]


def wrapped(layer: nn.Module, wrapper: Callable) -> nn.Module:
    """A copy of the layer with each cell in a wrapper."""
    result = copy.deepcopy(layer)
    for index, cell in enumerate(result.layers):
        result.layers[index] = wrapper(cell)
    return result


def leaves(results: object) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(results)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda wrapper: wrapper.__name__)
@pytest.mark.parametrize(("make", "make_input"), MAKERS.values(), ids=MAKERS.keys())
class TestWrappedCells:
    def test_give_the_numbers_of_the_cells(self, make, make_input, wrapper):
        layer, input = make(), make_input()
        other = wrapped(layer, wrapper)
        expected = layer(input)
        for call in (lambda m: m(input), lambda m: m(input, expected[1]), lambda m: m.step(input[0], expected[1])):
            for tensor, counterpart in zip(leaves(call(other)), leaves(call(layer)), strict=True):
                torch.testing.assert_close(tensor, counterpart)  # a compiled cell's gates round differently

    def test_learn(self, make, make_input, wrapper):
        layer, input = make(), make_input().requires_grad_()
        other = wrapped(layer, wrapper)
        (expected,) = torch.autograd.grad(layer(input)[0].square().sum(), input)
        other(input)[0].square().sum().backward()
        torch.testing.assert_close(input.grad, expected)
        learning = [parameter for parameter in other.parameters() if parameter.requires_grad]
        assert all(parameter.grad is not None for parameter in learning)

    def test_wrong_sizes_are_named(self, make, make_input, wrapper):
        layer, input = wrapped(make(), wrapper), make_input()
        _, state = layer(input)
        with pytest.raises(ValueError, match=r"input: expected .*Cin = 2"):
            layer(input[:, :, :1])
        with pytest.raises(ValueError, match=r"state\[0\].*: expected shape \(B, C"):
            layer(input, state[::-1])
        with pytest.raises(ValueError, match="without a batch"):
            layer(input[0, 0, 0])
        with pytest.raises(TypeError, match=r"state\[1\].*: expected a"):
            layer(input, (state[0], None))

    def test_are_reset(self, make, make_input, wrapper):
        layer = wrapped(make(), wrapper)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.fill_(7)
        layer.reset_parameters()
        assert not any((cell.weight == 7).any() for cell in layer.modules() if hasattr(cell, "spec"))


def test_a_wrapper_may_change_the_number_of_channels():
    """The stack doesn't hold a stranger to the sizes of the cell that it replaced."""

    class Narrowing(Plain):
        def forward(self, input, state=None, steps=None):
            return self.cell(input[:, :, :2], state, steps)

    layer, input = conv_lstm(), frames()
    expected, _ = layer(input)
    layer.layers[0] = Narrowing(layer.layers[0])
    output, _ = layer(torch.cat([input, input], 2))
    assert torch.equal(output, expected)


def test_a_model_works_with_a_wrapped_encoder():
    model, input = EncoderForecaster(1, [3, 2], 3), torch.rand(3, 1, 1, 6, 6)
    expected = model(input, 2)
    model.encoder = checkpoint_wrapper(model.encoder)
    model.forecaster[0] = Plain(model.forecaster[0])
    assert torch.equal(model(input, 2), expected)


TRACERS = {
    "torch.jit.trace": (lambda layer, x: torch.jit.trace(layer, (x,)), "torch.export.export"),
    "torch.jit.trace_module of step": (
        lambda layer, x: torch.jit.trace_module(layer, {"step": (x[0],)}),
        "torch.export.export",
    ),
    "TensorBoard's add_graph": (
        lambda layer, x: torch.jit.trace(layer, x, strict=False)._get_method("forward").graph,
        "TensorBoard",
    ),
    "torch.onnx.export": (lambda layer, x: torch.onnx.export(layer, (x,), io.BytesIO(), dynamo=False), "dynamo=True"),
    "torch.jit.script": (lambda layer, x: torch.jit.script(layer), "torch.export.export"),
    "torch.fx": (lambda layer, x: torch.fx.symbolic_trace(layer), "is_leaf_module"),
    "torch.fx of a model": (lambda layer, x: torch.fx.symbolic_trace(nn.Sequential(layer)), "is_leaf_module"),
    "torch.jit.trace of a cell": (lambda layer, x: torch.jit.trace(layer.layers[0], (x[0],)), "torch.export.export"),
    "torch.onnx.export of a cell": (
        lambda layer, x: torch.onnx.export(layer.layers[0], (x[0],), io.BytesIO(), dynamo=False),
        "dynamo=True",
    ),
    "torch.jit.script of a cell": (lambda layer, x: torch.jit.script(layer.layers[0]), "torch.export.export"),
    "torch.fx of a cell": (lambda layer, x: torch.fx.symbolic_trace(layer.layers[0]), "is_leaf_module"),
    "torch.jit.trace of a function": (
        lambda layer, x: torch.jit.trace(lambda x: functional.conv_lstm(x, None, layer.layers[0].weight), (x,)),
        "torch.export.export",
    ),
    "torch.fx of a function": (
        lambda layer, x: torch.fx.symbolic_trace(lambda x: functional.conv_lstm(x, None, layer.layers[0].weight)),
        "is_leaf_module",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # by torch.jit and the older exporter
@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize(("trace", "remedy"), TRACERS.values(), ids=TRACERS.keys())
def test_what_cannot_trace_the_layers_says_what_can(trace, remedy: str, backend: str):
    layer, x = conv_lstm(backend=backend), frames()
    expected = layer(x)[0]
    with pytest.raises(RuntimeError, match="tritonlstm: torch") as raised:
        trace(layer, x)
    assert remedy in str(raised.value)
    assert "\n" not in str(raised.value).strip()
    assert torch.equal(layer(x)[0], expected)


def test_torch_fx_traces_around_layers_that_are_leaves():
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, ConvLSTM2d) or super().is_leaf_module(module, name)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = conv_lstm(), nn.Conv2d(3, 1, 1)

        def forward(self, x):
            output, _ = self.layer(x)
            return self.head(output[-1])

    model, x = Model(), frames()
    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    assert torch.equal(traced(x), model(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("layers", [None, {nn.Linear, nn.LSTM, nn.LSTMCell}])
def test_dynamic_quantization_leaves_the_layers_as_they_are(layers: set | None):
    model = nn.ModuleDict({"lstm": peephole_lstm(), "head": nn.Linear(3, 2)})
    quantized, x = torch.ao.quantization.quantize_dynamic(model, layers), frames()[..., 0, 0]
    assert isinstance(quantized["head"], torch.ao.nn.quantized.dynamic.Linear)
    assert torch.equal(quantized["lstm"](x)[0], model["lstm"](x)[0])


OLDER_VMAP = {
    "is_grads_batched": lambda m, x: torch.autograd.grad(
        (output := m(x)[0]), m.layers[0].weight, torch.ones(2, *output.shape), is_grads_batched=True
    )[0],
    "jacobian": lambda m, x: torch.autograd.functional.jacobian(lambda x: m(x)[0][-1, 0, 0], x, vectorize=True),
}


class TestOlderVmap:
    @pytest.mark.parametrize("backend", ["auto", "triton"])
    @pytest.mark.parametrize("call", OLDER_VMAP.values(), ids=OLDER_VMAP.keys())
    def test_is_refused_with_the_remedy(self, call, backend: str):
        with pytest.raises(RuntimeError, match=r"use torch.func.vmap over torch.func.vjp, torch.func.jacrev, or back"):
            call(conv_lstm(backend=backend), frames())

    @pytest.mark.parametrize("call", OLDER_VMAP.values(), ids=OLDER_VMAP.keys())
    def test_runs_in_plain_pytorch(self, call):
        assert call(conv_lstm(backend="torch"), frames()).any()

    def test_the_remedies_give_its_numbers(self):
        layer, plain = pair_of_layers("auto")
        x = frames()
        jacobian = jacrev(lambda x: layer(x)[0][-1, 0, 0])(x)
        torch.testing.assert_close(jacobian, OLDER_VMAP["jacobian"](plain, x), rtol=1e-4, atol=1e-5)
        output, pullback = vjp(
            lambda w: functional_call(layer, {"layers.0.weight": w}, (x,))[0], layer.layers[0].weight
        )
        (batched,) = vmap(pullback)(torch.ones(2, *output.shape))
        torch.testing.assert_close(batched, OLDER_VMAP["is_grads_batched"](plain, x), rtol=1e-4, atol=1e-5)
