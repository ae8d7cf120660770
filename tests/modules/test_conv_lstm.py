"""ConvLSTM2d and its cell: shapes, parameters, state, and that everything that runs it agrees."""

import copy
import inspect
import math
import pickle
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn

from tests.support.layers import step_by_step
from tests.support.tolerances import FLOOR
from tritonlstm import ConvLSTM2d, ConvLSTM2dCell, reference

T, B, CIN, C, H, W = 5, 2, 3, 4, 6, 5


def random_peepholes(layer: nn.Module) -> nn.Module:
    for name, parameter in layer.named_parameters():
        if name.endswith("peephole"):
            nn.init.normal_(parameter, std=0.5)
    return layer


def random_state(layer: ConvLSTM2d, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    cell = torch.float64 if dtype == torch.float64 else torch.float32
    sizes = [(B, each.hidden_channels, H, W) for each in layer.layers]
    return [(torch.randn(size, dtype=dtype), torch.randn(size, dtype=cell)) for size in sizes]


@pytest.fixture
def layer() -> ConvLSTM2d:
    return random_peepholes(ConvLSTM2d(CIN, [C, 7], [3, (1, 5)]))


@pytest.fixture
def frames() -> Tensor:
    return torch.randn(T, B, CIN, H, W)


def assert_same(one: object, other: object) -> None:
    """Equal bits, through any nesting."""
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
        return
    for each, counterpart in zip(one, other, strict=True):
        assert_same(each, counterpart)


class TestParameters:
    def test_shapes(self):
        layer = ConvLSTM2d(CIN, [C, 7], [3, (1, 5)], peephole="full", spatial_size=(H, W))
        shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
        assert shapes == {
            "layers.0.weight": (4 * C, CIN + C, 3, 3),
            "layers.0.bias": (4 * C,),
            "layers.0.peephole": (3, C, H, W),
            "layers.1.weight": (28, C + 7, 1, 5),
            "layers.1.bias": (28,),
            "layers.1.peephole": (3, 7, H, W),
        }
        assert ConvLSTM2dCell(CIN, C, 3).peephole.shape == (3, C, 1, 1)

    def test_defaults(self):
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(ConvLSTM2d).parameters.items()
            if parameter.default is not parameter.empty
        }
        assert defaults == {
            "num_layers": None,
            "bias": True,
            "peephole": "channel",
            "spatial_size": None,
            "input_kernel_size": None,
            "forget_bias": 1.0,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
            "input_dropout": 0.0,
            "recurrent_dropout": 0.0,
            "zoneout": 0.0,
            "norm": None,
            "device": None,
            "dtype": None,
        }
        assert asdict(ConvLSTM2d(CIN, C, 3).layers[0].spec) == {
            "activation": "tanh",
            "recurrent_activation": "sigmoid",
            "output_activation": None,
            "cell_clip": None,
            "backend": "auto",
            "memory": "save",
            "schedule": "auto",
            "reverse": False,
            "dilation": 1,
            "padding_mode": "zeros",
            "returns": "sequence",
        }

    def test_absent_ones(self):
        cell = ConvLSTM2dCell(CIN, C, 3, bias=False, peephole="none")
        assert cell.bias is None
        assert cell.peephole is None
        assert list(cell.state_dict()) == ["weight"]

    @pytest.mark.parametrize("forget_bias", [1.0, 0.0, -2.5])
    def test_initial_values(self, forget_bias: float):
        cell = ConvLSTM2dCell(16, 32, 5, forget_bias=forget_bias)
        i, f, g, o = cell.bias.chunk(4)
        assert not i.any() and not g.any() and not o.any()
        assert (f == forget_bias).all()
        assert not cell.peephole.any()
        fan_in = (16 + 32) * 25
        assert cell.weight.var().item() == pytest.approx(1 / fan_in, rel=0.05)
        assert cell.weight.abs().max() <= math.sqrt(3 / fan_in)

    @pytest.mark.parametrize(
        ("options", "layers"),
        [({}, 1), ({"num_layers": 3}, 3), ({"hidden_channels": [2, 3]}, 2), ({"kernel_size": [1, 3, 5, 3]}, 4)],
    )
    def test_number_of_layers(self, options: dict, layers: int):
        assert ConvLSTM2d(**{"in_channels": 1, "hidden_channels": 2, "kernel_size": 3} | options).num_layers == layers

    def test_peepholes_are_saved_moved_learned_and_restored(self, layer: ConvLSTM2d, frames: Tensor):
        saved = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        assert "layers.1.peephole" in saved
        optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
        layer(frames)[0].square().sum().backward()
        optimizer.step()
        for name, parameter in layer.named_parameters():
            assert not torch.equal(parameter, saved[name]), name
        layer.load_state_dict(saved, strict=True)
        for name, parameter in layer.named_parameters():
            assert torch.equal(parameter, saved[name]), name
        assert all(parameter.dtype == torch.float64 for parameter in layer.double().parameters())
        assert all(parameter.device.type == "meta" for parameter in layer.to("meta").parameters())

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
    def test_copies_compute_the_same(self, layer: ConvLSTM2d, frames: Tensor, duplicate):
        assert_same(duplicate(layer)(frames), layer(frames))

    def test_repr_tells_the_options(self, layer: ConvLSTM2d):
        text = repr(ConvLSTM2d(1, 2, (3, 5), bias=False, activation="relu", backend="torch"))
        for part in ("1, 2", "kernel_size=(3, 5)", "bias=None", "peephole=(3, 2, 1, 1)", "'relu'", "'torch'"):
            assert part in text

    @pytest.mark.parametrize("kind", ["weight", "bias", "peephole"])
    def test_frozen_parameters_get_no_gradient_and_the_others_the_same(self, layer, frames: Tensor, kind: str):
        def gradients() -> dict[str, Tensor | None]:
            layer.zero_grad()
            layer(frames)[0].square().sum().backward()
            return {name: parameter.grad for name, parameter in layer.named_parameters()}

        everything = gradients()
        for cell in layer.layers:
            getattr(cell, kind).requires_grad_(False)
        for name, grad in gradients().items():
            if name.endswith(kind):
                assert grad is None
            else:
                torch.testing.assert_close(grad, everything[name], rtol=1e-5, atol=1e-5)


class TestShapes:
    def test_output_and_states(self, layer: ConvLSTM2d, frames: Tensor):
        output, state = layer(frames)
        assert output.shape == (T, B, 7, H, W)
        assert [(tuple(h.shape), tuple(c.shape)) for h, c in state] == [((B, C, H, W),) * 2, ((B, 7, H, W),) * 2]
        assert_same(output[-1], state[-1][0])

    def test_batch_first(self, layer: ConvLSTM2d, frames: Tensor):
        state = random_state(layer)
        output, states = layer(frames, state)
        layer.batch_first = True
        other, other_states = layer(frames.transpose(0, 1), state)
        assert_same((output, states), (other.transpose(0, 1), other_states))

    @pytest.mark.parametrize("batch_first", [False, True])
    def test_unbatched_equals_a_batch_of_one(self, layer: ConvLSTM2d, frames: Tensor, batch_first: bool):
        layer.batch_first = batch_first
        one = frames[:, 0]
        state = [(h[:1], c[:1]) for h, c in random_state(layer)]
        bare = [(h[0], c[0]) for h, c in state]
        batch_dim = 0 if batch_first else 1
        output, states = layer(one, bare)
        expected, expected_states = layer(one.unsqueeze(batch_dim), state)
        assert_same(output, expected.squeeze(batch_dim))
        assert_same(states, [(h[0], c[0]) for h, c in expected_states])
        output, states = layer.step(one[0], bare)
        expected, expected_states = layer.step(one[:1], state)
        assert_same((output, states), (expected[0], [(h[0], c[0]) for h, c in expected_states]))
        cell = layer.layers[0]
        assert_same(cell(one[0], bare[0]), [tensor[0] for tensor in cell(one[:1], state[0])])

    @pytest.mark.parametrize(
        ("dtype", "cell_dtype"),
        [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
    )
    def test_dtypes(self, frames: Tensor, dtype: torch.dtype, cell_dtype: torch.dtype):
        layer = ConvLSTM2d(CIN, C, 3, dtype=dtype)
        output, ((h, c),) = layer(frames.to(dtype))
        assert (output.dtype, h.dtype, c.dtype) == (dtype, dtype, cell_dtype)
        output, _ = layer(frames.to(dtype), [(h, c)])
        output.sum().backward()
        assert all(parameter.grad.dtype == dtype for parameter in layer.parameters())


class TestState:
    def test_resuming_equals_the_whole(self, layer: ConvLSTM2d, frames: Tensor):
        output, state = layer(frames)
        first, carried = layer(frames[:2])
        second, carried = layer(frames[2:], carried)
        assert_same((output, state), (torch.cat([first, second]), carried))

    @pytest.mark.parametrize("activation", ["tanh", "relu"])
    def test_steps_agree_with_the_sequence(self, frames: Tensor, activation: str):
        layer = random_peepholes(ConvLSTM2d(CIN, [C, 3], 3, activation=activation))
        torch.testing.assert_close(step_by_step(layer, frames), layer(frames))

    def test_steps_of_the_cell_agree_with_the_layer(self, frames: Tensor):
        layer = random_peepholes(ConvLSTM2d(CIN, C, 3))
        state, hidden = None, []
        for frame in frames:
            state = layer.layers[0](frame, state)
            hidden.append(state[0])
        torch.testing.assert_close((torch.stack(hidden), (state,)), layer(frames))

    def test_zeros_are_the_default(self, layer: ConvLSTM2d, frames: Tensor):
        zeros = [tuple(torch.zeros_like(tensor) for tensor in pair) for pair in random_state(layer)]
        assert_same(layer(frames), layer(frames, zeros))

    def test_gradients_flow_through_every_state(self, layer: ConvLSTM2d, frames: Tensor):
        state = [tuple(tensor.requires_grad_() for tensor in pair) for pair in random_state(layer)]
        _, states = layer(frames, state)
        sum(h.sum() + c.sum() for h, c in states).backward()
        assert all(tensor.grad.abs().sum() > 0 for pair in state for tensor in pair)

    def test_without_input_it_runs_on_its_state(self):
        layer = random_peepholes(ConvLSTM2d(0, [C, 3], 3))
        state = random_state(layer)
        output, states = layer(None, state, steps=T)
        assert output.shape == (T, B, 3, H, W)
        outputs, carried = [], state
        for _ in range(T):
            one, carried = layer.step(None, carried)
            outputs.append(one)
        torch.testing.assert_close((output, states), (torch.stack(outputs), carried))
        h, c = layer.layers[0](None, state[0])
        assert h.shape == c.shape == (B, C, H, W)

    def test_without_input_batch_first_and_unbatched_agree(self):
        layer = random_peepholes(ConvLSTM2d(0, [C, 3], 3))
        state = random_state(layer)
        output, states = layer(None, state, steps=T)
        layer.batch_first = True
        assert_same(layer(None, state, steps=T), (output.transpose(0, 1), states))
        one = [(h[:1], c[:1]) for h, c in state]
        bare, bare_states = layer(None, [(h[0], c[0]) for h, c in one], steps=T)
        expected, expected_states = layer(None, one, steps=T)
        assert_same((bare, bare_states), (expected[0], [(h[0], c[0]) for h, c in expected_states]))


WRONG_STEPS = {
    "no frame": lambda frame, pair: (None, pair),
    "an array": lambda frame, pair: (frame.numpy(), pair),
    "a sequence": lambda frame, pair: (frame[None], pair),
    "channels": lambda frame, pair: (frame[:, :2], pair),
    "dtype": lambda frame, pair: (frame.double(), pair),
    "sparse": lambda frame, pair: (frame.to_sparse(), pair),
    "device": lambda frame, pair: (frame.to("meta"), pair),
    "batch of the state": lambda frame, pair: (frame, (pair[0][:1], pair[1])),
    "image of the state": lambda frame, pair: (frame, (pair[0], pair[1][..., 1:])),
    "channels of the state": lambda frame, pair: (frame, (pair[0][:, 1:], pair[1][:, 1:])),
    "dtype of the state": lambda frame, pair: (frame, (pair[0].double(), pair[1])),
    "half c": lambda frame, pair: (frame, (pair[0], pair[1].half())),
    "no c": lambda frame, pair: (frame, pair[:1]),
    "None as h": lambda frame, pair: (frame, (None, pair[1])),
    "a tensor as a pair": lambda frame, pair: (frame, pair[0]),
    "None as a pair": lambda frame, pair: (frame, None),
    "a sequence, and a state that is no pair": lambda frame, pair: (frame[None], pair[:1]),
    "an array, and a state that is no pair": lambda frame, pair: (frame.numpy(), (None, pair[1])),
    "another device, and a tensor as a pair": lambda frame, pair: (frame.to("meta"), pair[0]),
    "frame and state": lambda frame, pair: (frame.double(), (pair[0], pair[1][:1])),
}


@pytest.mark.parametrize("wrong", WRONG_STEPS.values(), ids=WRONG_STEPS.keys())
def test_a_step_of_one_layer_refuses_what_a_stack_refuses(wrong):
    """One layer leaves the check to its cell: as strict, and in the same words."""
    frame, pair, second = torch.ones(B, CIN, H, W), *([torch.ones(B, C, H, W)] * 2 for _ in range(2))
    frame, pair = wrong(frame, tuple(pair))
    errors = []
    for layer, state in (ConvLSTM2d(CIN, C, 3), [pair]), (ConvLSTM2d(CIN, [C, C], 3), [pair, tuple(second)]):
        with pytest.raises((TypeError, ValueError)) as raised:
            layer.step(frame, state)
        errors.append(raised.value)
    of_one, of_two = errors
    assert type(of_one) is type(of_two)
    assert str(of_one).partition(":")[0] == str(of_two).partition(":")[0], (str(of_one), str(of_two))


def test_a_state_of_another_form_is_refused_by_one_layer_too():
    """A wrong frame is to blame before it, and what PyTorch's tracers pass is told apart."""
    layer, frame = ConvLSTM2d(CIN, C, 3), torch.ones(B, CIN, H, W)
    h = c = torch.ones(B, C, H, W)
    for state in ([], [(h, c), (h, c)], (h, c), h):
        with pytest.raises(TypeError, match=r"^state: expected one pair"):
            layer.step(frame, state)
        with pytest.raises(ValueError, match=r"^frame: "):
            layer.step(frame[None], state)
    with pytest.raises(TypeError, match=r"^state\[0\]: expected a pair"):
        layer.step(frame, [None])

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, frame: Tensor, state: list):
            return self.layer.step(frame, state)

    with pytest.raises(RuntimeError, match="symbolic_trace"):
        torch.fx.symbolic_trace(Model())


def test_a_cell_with_a_forward_of_its_own_has_its_step_checked_by_the_stack():
    class Cell(ConvLSTM2dCell):
        def forward(self, input, state=None, **options):
            return torch.zeros(1), torch.zeros(1)

    layer = ConvLSTM2d(CIN, C, 3)
    layer.layers[0] = Cell(CIN, C, 3)
    with pytest.raises(ValueError, match=r"^frame: "):
        layer.step(torch.ones(1, B, CIN, H, W))


def test_one_image_seen_for_many_steps(layer: ConvLSTM2d, frames: Tensor):
    results = []
    for spread in (lambda image: image.expand(T, -1, -1, -1, -1), lambda image: image.repeat(T, 1, 1, 1, 1)):
        image = frames[0].clone().requires_grad_()
        output, _ = layer(spread(image))
        output[[1, 4]].square().sum().backward()
        results.append((output, image.grad))
    assert_same(*results)


def test_the_stack_is_its_layers_one_after_another():
    layer = random_peepholes(ConvLSTM2d(CIN, [C, 3], [3, 5], peephole="full", spatial_size=(H, W), dtype=torch.float64))
    frames, state = torch.randn(T, B, CIN, H, W, dtype=torch.float64), random_state(layer, torch.float64)
    output, states = layer(frames, state)
    expected = frames
    for cell, (h, c), (h_n, c_n) in zip(layer.layers, state, states, strict=True):
        expected, h, c = reference.sequence(expected, h, c, cell.weight, cell.bias, cell.peephole)
        torch.testing.assert_close((h_n, c_n), (h, c), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, {"peephole": "none", "bias": False}])
def test_backends_agree(frames: Tensor, options: dict):
    results = []
    for backend in ("torch", "auto", "triton"):
        torch.manual_seed(1)
        layer = random_peepholes(ConvLSTM2d(CIN, [C, 3], 3, backend=backend, **options))
        leaves = [frames, *(tensor for pair in random_state(layer) for tensor in pair)]
        leaves = [tensor.detach().requires_grad_() for tensor in leaves]
        output, state = layer(leaves[0], list(zip(leaves[1::2], leaves[2::2], strict=True)))
        loss = output.square().sum() + sum(h.sum() + c.square().sum() for h, c in state)
        results.append((output, *torch.autograd.grad(loss, [*leaves, *layer.parameters()])))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("check", "backend"),
    [
        (torch.autograd.gradcheck, "auto"),
        (torch.autograd.gradcheck, "torch"),
        (torch.autograd.gradgradcheck, "torch"),
    ],
)
def test_derivatives_of_a_stack(check, backend: str):
    layer = random_peepholes(ConvLSTM2d(1, [2, 1], [(1, 3), (3, 1)], backend=backend, dtype=torch.float64))
    names = [name for name, _ in layer.named_parameters()]

    def run(frames: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(names, parameters, strict=True))
        output, state = torch.func.functional_call(layer, named, (frames,))
        return output, *(tensor for pair in state for tensor in pair)

    frames = torch.randn(2, 1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    parameters = [parameter.detach().requires_grad_() for parameter in layer.parameters()]
    assert check(run, (frames, *parameters))


@pytest.mark.parametrize("backend", ["auto", "triton", "torch"])
def test_autocast(frames: Tensor, backend: str):
    layer = random_peepholes(ConvLSTM2d(CIN, [C, 3], 3, backend=backend))
    with torch.autocast("cpu", torch.bfloat16):
        output, state = layer(frames)
        again, _ = layer(frames, state)
    assert output.dtype == again.dtype == torch.bfloat16
    assert all((h.dtype, c.dtype) == (torch.bfloat16, torch.float32) for h, c in state)
    output.float().square().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())
    expected, _ = layer(frames)
    # bfloat16's rounding, once for each of the ten convolutions on the way.
    assert (output.float() - expected).abs().max() <= 10 * FLOOR[torch.bfloat16] * expected.abs().max()


def test_autocast_leaves_float64_alone():
    layer = ConvLSTM2d(CIN, C, 3, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = layer(torch.randn(T, B, CIN, H, W, dtype=torch.float64))
    assert output.dtype == torch.float64
