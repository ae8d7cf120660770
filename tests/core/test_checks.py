"""Wrong calls: each raises before anything is computed, names the argument, and leaves the layer as it was."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tritonlstm import ConvLSTM2d, ConvLSTM2dCell, PeepholeLSTM, PeepholeLSTMCell, functional
from tritonlstm.data import moving_mnist
from tritonlstm.models import EncoderForecaster


@dataclass(frozen=True)
class Wrong:
    """A wrong call, its exception, and what the message must contain: the argument, what was wanted, what came."""

    call: Callable
    error: type[Exception]
    message: tuple[str, ...]


V, T = ValueError, TypeError

CONSTRUCTORS = {
    "negative in_channels": Wrong(lambda: ConvLSTM2d(-1, 4, 3), V, ("in_channels", "at least 0", "-1")),
    "no hidden channels": Wrong(lambda: ConvLSTM2d(2, 0, 3), V, ("hidden_channels", "at least 1", "0")),
    "float channels": Wrong(lambda: ConvLSTM2d(2, 4.0, 3), T, ("hidden_channels", "integer", "4.0")),
    "bool channels": Wrong(lambda: ConvLSTM2d(True, 4, 3), T, ("in_channels", "integer", "True")),
    "even kernel": Wrong(lambda: ConvLSTM2d(2, 4, 4), V, ("kernel_size", "odd", "(4, 4)")),
    "half even kernel": Wrong(lambda: ConvLSTM2d(2, 4, (3, 2)), V, ("kernel_size", "odd", "(3, 2)")),
    "kernel triple": Wrong(lambda: ConvLSTM2d(2, 4, (3, 3, 3)), T, ("kernel_size", "pair", "(3, 3, 3)")),
    "negative kernel": Wrong(lambda: ConvLSTM2d(2, 4, -3), V, ("kernel_size", "at least 1", "-3")),
    "layers a bool": Wrong(lambda: ConvLSTM2d(2, 4, 3, True), T, ("num_layers", "integer", "True")),
    "no layers": Wrong(lambda: ConvLSTM2d(2, 4, 3, 0), V, ("num_layers", "at least 1", "0")),
    "lists of two lengths": Wrong(
        lambda: ConvLSTM2d(2, [4, 4], [3, 3, 3]), V, ("num_layers", "one length", "hidden_channels", "3")
    ),
    "list too short": Wrong(lambda: ConvLSTM2d(2, [4, 4], 3, 3), V, ("hidden_channels", "3", "[4, 4]")),
    "empty list": Wrong(lambda: ConvLSTM2d(2, [], 3), V, ("num_layers", "at least 1", "0")),
    "bias a number": Wrong(lambda: ConvLSTM2d(2, 4, 3, bias=1), T, ("bias", "bool", "1")),
    "unknown peephole": Wrong(lambda: ConvLSTM2d(2, 4, 3, peephole="all"), V, ("peephole", "'channel'", "'all'")),
    "unhashable peephole": Wrong(lambda: ConvLSTM2d(2, 4, 3, peephole=[]), V, ("peephole", "'channel'", "[]")),
    "full without size": Wrong(lambda: ConvLSTM2d(2, 4, 3, peephole="full"), V, ("spatial_size", "(H, W)", "None")),
    "size without full": Wrong(lambda: ConvLSTM2d(2, 4, 3, spatial_size=(8, 8)), V, ("spatial_size", "None", "(8, 8)")),
    "size with zero": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, peephole="full", spatial_size=(0, 8)), V, ("spatial_size", "at least 1", "0")
    ),
    "unknown activation": Wrong(lambda: ConvLSTM2d(2, 4, 3, activation="gelu"), V, ("activation", "'relu'", "'gelu'")),
    "unknown backend": Wrong(lambda: ConvLSTM2d(2, 4, 3, backend="cudnn"), V, ("backend", "'auto'", "'cudnn'")),
    "unknown memory": Wrong(lambda: ConvLSTM2d(2, 4, 3, memory="less"), V, ("memory", "'recompute'", "'less'")),
    "unknown schedule": Wrong(lambda: ConvLSTM2d(2, 4, 3, schedule="x"), V, ("schedule", "'hoisted'", "'x'")),
    "unknown schedule of vectors": Wrong(lambda: PeepholeLSTM(2, 4, schedule="x"), V, ("schedule", "'auto'", "'x'")),
    "even input kernel": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, input_kernel_size=2), V, ("input_kernel_size", "odd", "(2, 2)")
    ),
    "input kernel a string": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, input_kernel_size="3"), T, ("input_kernel_size", "pair", "'3'")
    ),
    "two input kernels for three layers": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, 3, input_kernel_size=[3, 5]), V, ("input_kernel_size", "3", "[3, 5]")
    ),
    "two kernels in one convolution": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, input_kernel_size=5, schedule="concat"), V, ("schedule", "input_kernel_size", "5")
    ),
    "forecaster, input kernels": Wrong(
        lambda: EncoderForecaster(1, [2, 2], 3, input_kernel_size=[3, 5]), T, ("input_kernel_size", "one", "[3, 5]")
    ),
    "forget_bias a string": Wrong(lambda: ConvLSTM2d(2, 4, 3, forget_bias="1"), T, ("forget_bias", "number", "'1'")),
    "batch_first a number": Wrong(lambda: ConvLSTM2d(2, 4, 3, batch_first=1), T, ("batch_first", "bool", "1")),
    "integer dtype": Wrong(lambda: ConvLSTM2d(2, 4, 3, dtype=torch.int32), T, ("dtype", "float32", "int32")),
    "cell, even kernel": Wrong(lambda: ConvLSTM2dCell(2, 4, 2), V, ("kernel_size", "odd", "(2, 2)")),
    "negative input_size": Wrong(lambda: PeepholeLSTM(-2, 4), V, ("input_size", "at least 0", "-2")),
    "hidden_size a string": Wrong(lambda: PeepholeLSTMCell(2, "4"), T, ("hidden_size", "integer", "'4'")),
    "peephole a string": Wrong(lambda: PeepholeLSTM(2, 4, peephole="full"), T, ("peephole", "bool", "'full'")),
    "forecaster, batch_first": Wrong(
        lambda: EncoderForecaster(1, [4], 3, batch_first=True), T, ("batch_first", "(T, B, …)", "True")
    ),
    "forecaster, num_layers": Wrong(
        lambda: EncoderForecaster(1, [4], 3, num_layers=1), T, ("num_layers", "hidden_channels", "1")
    ),
    "forecaster, one width": Wrong(lambda: EncoderForecaster(1, 4, 3), T, ("hidden_channels", "list", "4")),
    "forecaster, two kernels": Wrong(
        lambda: EncoderForecaster(1, [4, 4], [3, 5]), T, ("kernel_size", "one for all", "[3, 5]")
    ),
    "forecaster, no output": Wrong(lambda: EncoderForecaster(1, [4], 3, 0), V, ("out_channels", "at least 1", "0")),
}

STEPS, BATCH, SIZE = 3, 2, (5, 4)


def layer() -> ConvLSTM2d:
    return ConvLSTM2d(2, [4, 3], 3, peephole="full", spatial_size=SIZE)


def frames(*shape: int) -> torch.Tensor:
    return torch.ones(*(shape or (STEPS, BATCH, 2, *SIZE)))


def state(*, first: int = 4, second: int = 3, batch: int = BATCH, size: tuple[int, ...] = SIZE) -> list:
    return [tuple(torch.zeros(batch, channels, *size) for _ in range(2)) for channels in (first, second)]


def replaced(pairs: list, index: int, pair: object) -> list:
    return [*pairs[:index], pair, *pairs[index + 1 :]]


H = torch.zeros(BATCH, 4, *SIZE)

CALLS = {
    "input without channels": Wrong(lambda m: m(frames(3, 5, 4)), V, ("input", "(T, B, Cin, H, W)", "(3, 5, 4)")),
    "input of six dimensions": Wrong(lambda m: m(frames(1, 1, 1, 2, 5, 4)), V, ("input", "(T, B, Cin, H, W)", "(1, 1")),
    "wrong channels": Wrong(lambda m: m(frames(3, 2, 3, 5, 4)), V, ("input", "Cin = 2", "(3, 2, 3, 5, 4)")),
    "no time steps": Wrong(lambda m: m(frames(0, 2, 2, 5, 4)), V, ("input", "at least one", "(0, 2, 2, 5, 4)")),
    "double input": Wrong(lambda m: m(frames().double()), T, ("input", "float32", "float64")),
    "half input": Wrong(lambda m: m(frames().bfloat16()), T, ("input", "float32", "bfloat16")),
    "integer input": Wrong(lambda m: m(frames().long()), T, ("input", "float32", "int64")),
    "an array": Wrong(lambda m: m(np.ones((3, 2, 2, 5, 4))), T, ("input", "Tensor", "ndarray")),
    "another device": Wrong(lambda m: m(frames().to("meta")), V, ("input", "cpu", "meta")),
    "no input": Wrong(lambda m: m(None, steps=3), V, ("input", "2 channels", "None")),
    "steps that disagree": Wrong(lambda m: m(frames(), steps=4), V, ("steps", "3", "4")),
    "no steps": Wrong(lambda m: m(frames(), steps=0), V, ("steps", "at least 1", "0")),
    "negative steps": Wrong(lambda m: m(frames(), steps=-3), V, ("steps", "at least 1", "-3")),
    "steps a float": Wrong(lambda m: m(frames(), steps=3.0), T, ("steps", "integer", "3.0")),
    "steps a bool": Wrong(lambda m: m(frames(1, 2, 2, 5, 4), steps=True), T, ("steps", "integer", "True")),
    "another image size": Wrong(lambda m: m(frames(3, 2, 2, 6, 4)), V, ("layers[0].peephole", "(5, 4)", "(6, 4)")),
    "state a tensor": Wrong(lambda m: m(frames(), H), T, ("state", "2 layers", "Tensor")),
    "state of one layer": Wrong(lambda m: m(frames(), state()[:1]), T, ("state", "2 layers", "length 1")),
    "state without c": Wrong(lambda m: m(frames(), replaced(state(), 1, (H,))), T, ("state[1]", "(h, c)", "length 1")),
    "state of None": Wrong(
        lambda m: m(frames(), replaced(state(), 0, (None, H))), T, ("state[0][0]", "Tensor", "None")
    ),
    "state of another batch": Wrong(
        lambda m: m(frames(), state(batch=3)), V, ("state[0][0]", "(2, 4, 5, 4)", "(3, 4, 5, 4)")
    ),
    "second state's channels": Wrong(
        lambda m: m(frames(), state(second=4)), V, ("state[1][0]", "(2, 3, 5, 4)", "(2, 4, 5, 4)")
    ),
    "state of another size": Wrong(
        lambda m: m(frames(), state(size=(5, 5))), V, ("state[0][0]", "(2, 4, 5, 4)", "(2, 4, 5, 5)")
    ),
    "unbatched state": Wrong(
        lambda m: m(frames(), [(h[0], c[0]) for h, c in state()]), V, ("state[0][0]", "(2, 4, 5, 4)", "(4, 5, 4)")
    ),
    "double h": Wrong(
        lambda m: m(frames(), [(h.double(), c) for h, c in state()]), T, ("state[0][0] (h)", "float32", "float64")
    ),
    "half c": Wrong(
        lambda m: m(frames(), [(h, c.half()) for h, c in state()]), T, ("state[0][1] (c)", "float32", "float16")
    ),
    "state on another device": Wrong(
        lambda m: m(frames(), [(h, c.to("meta")) for h, c in state()]), V, ("state[0][1]", "cpu", "meta")
    ),
    "step with a sequence": Wrong(lambda m: m.step(frames()), V, ("frame", "(B, Cin, H, W)", "(3, 2, 2, 5, 4)")),
    "step with wrong channels": Wrong(lambda m: m.step(frames(2, 1, 5, 4)), V, ("frame", "Cin = 2", "(2, 1, 5, 4)")),
    "step without a frame": Wrong(lambda m: m.step(None, state()), V, ("input", "2 channels", "None")),
    "cell without tensors in its state": Wrong(
        lambda m: m.layers[0](frames(2, 5, 4), (None, None)), T, ("state[0]", "Tensor", "NoneType")
    ),
    "cell with a sequence": Wrong(lambda m: m.layers[0](frames()), V, ("input", "(B, Cin, H, W)", "(3, 2, 2, 5, 4)")),
    "cell with a wrong state": Wrong(
        lambda m: m.layers[0](frames(2, 2, 5, 4), (H, H[:1])), V, ("state[1]", "(2, 4, 5, 4)", "(1, 4, 5, 4)")
    ),
}

WEIGHT = torch.zeros(16, 6, 3, 3)
SEQUENCE = torch.zeros(3, 2, 2, 5, 4)


def conv_lstm(weight: torch.Tensor = WEIGHT, *args: object, **options: object) -> object:
    return functional.conv_lstm(SEQUENCE, None, weight, *args, **options)


def apart(input_weight: object, **options: object) -> object:
    return conv_lstm(WEIGHT[:, 2:], input_weight=input_weight, **options)


def bfloat16_layer(h: torch.Tensor, c: torch.Tensor) -> object:
    return ConvLSTM2d(2, 4, 3, dtype=torch.bfloat16)(SEQUENCE.bfloat16(), [(h, c)])


def layer_alone(input: torch.Tensor | None, pairs: list | None, **options: object) -> object:
    return ConvLSTM2d(0, [4, 3], 3)(input, pairs, **options)


def alone(**options: object) -> object:
    return functional.conv_lstm(None, options.pop("state", None), torch.zeros(16, 4, 3, 3), **options)


FUNCTIONS = {
    "weight of two dimensions": Wrong(lambda: conv_lstm(WEIGHT[:, :, 0, 0]), V, ("weight", "4 dimensions", "(16, 6)")),
    "weight not of four gates": Wrong(lambda: conv_lstm(WEIGHT[:15]), V, ("weight", "4·C", "(15, 6, 3, 3)")),
    "weight too narrow": Wrong(lambda: conv_lstm(WEIGHT[:, :3]), V, ("weight", "at least C = 4", "(16, 3, 3, 3)")),
    "weight's even kernel": Wrong(lambda: conv_lstm(WEIGHT[..., :2]), V, ("weight", "odd", "(3, 2)")),
    "integer weight": Wrong(lambda: conv_lstm(WEIGHT.long()), T, ("weight", "float32", "int64")),
    "weight not a tensor": Wrong(lambda: conv_lstm([1.0]), T, ("weight", "Tensor", "list")),
    "bias too long": Wrong(lambda: conv_lstm(WEIGHT, torch.zeros(17)), V, ("bias", "(16,)", "(17,)")),
    "double bias": Wrong(lambda: conv_lstm(WEIGHT, torch.zeros(16).double()), T, ("bias", "float32", "float64")),
    "double peephole": Wrong(
        lambda: conv_lstm(WEIGHT, None, torch.zeros(3, 4, 1, 1).double()), T, ("peephole", "float32", "float64")
    ),
    "peephole of two gates": Wrong(
        lambda: conv_lstm(WEIGHT, None, torch.zeros(2, 4, 1, 1)), V, ("peephole", "(3, 4", "(2, 4, 1, 1)")
    ),
    "flat peephole": Wrong(lambda: conv_lstm(WEIGHT, None, torch.zeros(3, 4)), V, ("peephole", "(3, 4", "(3, 4)")),
    "peephole of another size": Wrong(
        lambda: conv_lstm(WEIGHT, None, torch.zeros(3, 4, 5, 5)), V, ("peephole", "(5, 5)", "(5, 4)")
    ),
    "peephole of more elements than 32 bits count": Wrong(
        lambda: functional.conv_lstm(
            torch.empty(1, 1, 1, 2**16, 2**15, device="meta"),
            None,
            torch.empty(4, 2, 1, 1, device="meta"),
            None,
            torch.empty(3, 1, 2**16, 2**15, device="meta"),
            backend="triton",
        ),
        V,
        ("peephole", "1073741824", "(3, 1, 65536, 32768)"),
    ),
    "input_weight beside a whole weight": Wrong(
        lambda: conv_lstm(input_weight=torch.zeros(16, 2, 5, 5)), V, ("weight", "4 columns", "(16, 6, 3, 3)")
    ),
    "input_weight of other rows": Wrong(lambda: apart(torch.zeros(12, 2, 5, 5)), V, ("input_weight", "16", "(12, 2")),
    "input_weight of vectors": Wrong(lambda: apart(torch.zeros(16, 2)), V, ("input_weight", "4 dimensions", "(16, 2)")),
    "input_weight without channels": Wrong(
        lambda: apart(torch.zeros(16, 0, 5, 5)), V, ("input_weight", "at least 1", "(16, 0")
    ),
    "even input_weight": Wrong(lambda: apart(torch.zeros(16, 2, 5, 4)), V, ("input_weight", "odd", "(5, 4)")),
    "double input_weight": Wrong(
        lambda: apart(torch.zeros(16, 2, 5, 5).double()), T, ("input_weight", "float32", "float64")
    ),
    "input_weight not a tensor": Wrong(lambda: apart([1.0]), T, ("input_weight", "Tensor", "list")),
    "input_weight for other frames": Wrong(
        lambda: apart(torch.zeros(16, 3, 5, 5)), V, ("input", "Cin = 3", "(3, 2, 2")
    ),
    "two kernels in one convolution, as a function": Wrong(
        lambda: apart(torch.zeros(16, 2, 5, 5), schedule="concat"),
        V,
        ("schedule", "input_weight (16, 2, 5, 5)", "auto"),
    ),
    "unknown memory": Wrong(lambda: conv_lstm(memory="none"), V, ("memory", "'save'", "'none'")),
    "unknown schedule": Wrong(lambda: conv_lstm(schedule=None), V, ("schedule", "'auto'", "None")),
    "unknown backend": Wrong(lambda: conv_lstm(backend="gpu"), V, ("backend", "'triton'", "'gpu'")),
    "unknown activation": Wrong(lambda: conv_lstm(activation="sin"), V, ("activation", "'tanh'", "'sin'")),
    "double in Triton": Wrong(
        lambda: functional.conv_lstm(SEQUENCE.double(), None, WEIGHT.double(), backend="triton"),
        V,
        ("backend", "float32", "float64"),
    ),
    "no steps": Wrong(lambda: alone(state=(H, H)), V, ("steps", "number of time steps", "None")),
    "zero steps": Wrong(lambda: alone(state=(H, H), steps=0), V, ("steps", "at least 1", "0")),
    "negative steps": Wrong(lambda: alone(state=(H, H), steps=-2), V, ("steps", "at least 1", "-2")),
    "steps a float": Wrong(lambda: alone(state=(H, H), steps=2.0), T, ("steps", "integer", "2.0")),
    "neither input nor state": Wrong(lambda: alone(steps=2), V, ("state", "(h, c)", "None")),
    "c of a bfloat16 layer": Wrong(
        lambda: bfloat16_layer(H.bfloat16(), H.bfloat16()), T, ("state[0][1] (c)", "float32", "bfloat16")
    ),
    "h of a bfloat16 layer": Wrong(lambda: bfloat16_layer(H, H), T, ("state[0][0] (h)", "bfloat16", "float32")),
    "input of a layer without": Wrong(
        lambda: layer_alone(SEQUENCE, state()), V, ("input", "Cin = 0", "(3, 2, 2, 5, 4)")
    ),
    "layer alone without steps": Wrong(lambda: layer_alone(None, state()), V, ("steps", "number of", "None")),
    "layer alone without state": Wrong(lambda: layer_alone(None, None, steps=2), V, ("state", "(h, c)", "None")),
    "layer alone, later state": Wrong(
        lambda: layer_alone(None, state(second=4), steps=2), V, ("state[1][0]", "(2, 3, 5, 4)", "(2, 4, 5, 4)")
    ),
    "vectors as images": Wrong(
        lambda: functional.peephole_lstm(SEQUENCE, None, torch.zeros(16, 6)), V, ("input", "(T, B, Cin)", "(3, 2, 2")
    ),
    "steps of a forecast": Wrong(
        lambda: EncoderForecaster(1, [2], 3)(torch.zeros(2, 1, 1, 4, 4), 0), V, ("steps", "at least 1", "0")
    ),
    "one sequence to forecast": Wrong(
        lambda: EncoderForecaster(1, [2], 3)(torch.zeros(2, 1, 4, 4), 1), V, ("input", "(T, B, Cin, H, W)", "(2, 1, 4")
    ),
    "no digits": Wrong(
        lambda: moving_mnist(torch.zeros(0, 3, 3), 1, generator=torch.Generator()), V, ("digits", "N", "(0, 3, 3)")
    ),
    "frame's size a float": Wrong(
        lambda: moving_mnist(torch.zeros(1, 3, 3), 1, size=8.0, generator=torch.Generator()), T, ("size", "int", "8.0")
    ),
    "digits larger than the frame": Wrong(
        lambda: moving_mnist(torch.zeros(3, 28, 28), 1, size=28, generator=torch.Generator()),
        V,
        ("digits", "size = 28", "(3, 28, 28)"),
    ),
}


def check(wrong: Wrong, *args: object) -> None:
    with pytest.raises(wrong.error) as raised:
        wrong.call(*args)
    message = str(raised.value)
    assert message.startswith(wrong.message[0]), message
    for part in wrong.message:
        assert part in message, f"{part!r} is not in: {message}"


@pytest.mark.parametrize("wrong", CONSTRUCTORS.values(), ids=CONSTRUCTORS.keys())
def test_wrong_constructors(wrong: Wrong):
    check(wrong)


@pytest.mark.parametrize("wrong", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_wrong_functions(wrong: Wrong):
    check(wrong)


class Recorder(TorchDispatchMode):
    """The names of the operations that ran."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("wrong", CALLS.values(), ids=CALLS.keys())
def test_wrong_calls_compute_nothing_and_lose_nothing(wrong: Wrong):
    module = layer()
    before = module(frames())[0]
    parameters = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with Recorder() as recorder:
        check(wrong, module)
    assert not [name for name in recorder.names if "tritonlstm" in name or "convolution" in name]
    assert torch.equal(module(frames())[0], before)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, parameters[name])


@pytest.mark.parametrize(("backend", "name"), [("auto", "tritonlstm"), ("torch", "convolution")])
def test_a_right_call_is_recorded(backend: str, name: str):
    with Recorder() as recorder:
        ConvLSTM2d(2, 4, 3, backend=backend)(frames())
    assert any(name in each for each in recorder.names)


def test_the_table_is_long_enough():
    assert len(CONSTRUCTORS) + len(CALLS) + len(FUNCTIONS) >= 60
