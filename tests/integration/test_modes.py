"""Schedules, memory modes and input kernels: each is the same layer to PyTorch's features."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

from tests.integration.layers import CIN, H, T, W, frames, gradients, with_peepholes
from tritonlstm import ConvLSTM2d, PeepholeLSTM, functional

OPTIONS = {
    "concat, recompute": {"schedule": "concat", "memory": "recompute"},
    "hoisted": {"schedule": "hoisted"},
    "recompute": {"memory": "recompute"},
    "input kernel": {"input_kernel_size": (5, 1)},
    "input kernel, recompute": {"input_kernel_size": [(5, 1), 1], "memory": "recompute"},
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def twins(options: dict, **more: object) -> tuple[ConvLSTM2d, ConvLSTM2d]:
    """A layer with these options, and one on PyTorch's plain operations with the same parameters."""
    layer = with_peepholes(ConvLSTM2d(CIN, [4, 3], [3, (1, 3)], **options, **more))
    plain = ConvLSTM2d(CIN, [4, 3], [3, (1, 3)], **options, **{**more, "backend": "torch"})
    plain.load_state_dict(layer.state_dict())
    return layer, plain


def results(run, layer: nn.Module, input: Tensor, state=None) -> list[Tensor]:
    input = input.detach().requires_grad_()
    output, final = run(input) if state is None else run(input, state)
    loss = output.square().sum() + sum(h.sum() + c.square().sum() for h, c in final)
    return [
        output,
        *(each for pair in final for each in pair),
        *torch.autograd.grad(loss, [input, *layer.parameters()]),
    ]


def assert_close(got: object, expected: object) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "triton"])
@each_option
class TestNumbers:
    def test_are_those_of_plain_pytorch(self, options: dict, backend: str):
        layer, plain = twins(options, backend=backend)
        input = frames(11)
        assert_close(results(layer, layer, input), results(plain, plain, input))
        with torch.no_grad():
            assert_close(layer(input), plain(input))

    def test_are_those_of_plain_pytorch_from_a_state(self, options: dict, backend: str):
        layer, plain = twins(options, backend=backend)
        input = frames()
        _, state = plain(input)
        state = [(h.detach(), c.detach()) for h, c in state]
        assert_close(results(layer, layer, input, state), results(plain, plain, input, state))


@each_option
def test_compiled_in_one_graph_for_any_sizes(fresh_compiler, options: dict):
    layer, plain = twins(options)
    compiled = torch.compile(layer, fullgraph=True)
    for size in ((4, 3, 6, 5), (5, 4, 7, 6), (9, 2, 5, 8)):
        input = frames(*size)
        assert_close(results(compiled, layer, input), results(plain, plain, input))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@each_option
@pytest.mark.parametrize("grad_mode", [False, True])
def test_exported_and_trained(options: dict, grad_mode: bool):
    layer, plain = twins(options)
    with torch.set_grad_enabled(grad_mode):
        program = torch.export.export(
            layer, (frames(),), dynamic_shapes={"input": {0: torch.export.Dim("T"), 1: torch.export.Dim("B")}}
        )
    module, input = program.module(), frames(7, 5)
    assert_close(results(module, module, input), results(plain, plain, input))


@each_option
def test_gradients_of_each_sample(options: dict):
    layer, plain = twins(options)
    named, input = {name: each.detach() for name, each in layer.named_parameters()}, frames()

    def loss_of(module: nn.Module):
        return lambda parameters, x: functional_call(module, parameters, (x,))[0].square().sum()

    together = vmap(grad(loss_of(layer)), in_dims=(None, 1))(named, input.unsqueeze(2))
    for index in range(input.shape[1]):
        alone = grad(loss_of(plain))(named, input[:, index : index + 1])
        assert_close({name: each[index] for name, each in together.items()}, alone)


@each_option
def test_second_derivatives_and_forward_mode_are_refused(options: dict):
    layer, _ = twins(options)
    input = frames().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(input)[0].square().sum(), input, create_graph=True)
    with pytest.raises(RuntimeError, match='backend="torch"'):
        gradient.square().sum().backward()
    with pytest.raises(RuntimeError, match='backend="torch"'):
        torch.func.jvp(lambda x: layer(x)[0], (frames(),), (frames(),))


@each_option
def test_autocast(options: dict):
    layer, plain = twins(options)
    input = frames()
    with torch.autocast("cpu", torch.bfloat16):
        output, state = layer(input)
        output, state = layer(input, state)
        expected, states = plain(input)
        expected, states = plain(input, states)
    assert output.dtype == torch.bfloat16
    assert [(h.dtype, c.dtype) for h, c in state] == [(torch.bfloat16, torch.float32)] * 2
    got, wanted = gradients(layer, output.float().square().sum()), gradients(plain, expected.float().square().sum())
    for name, gradient in got.items():
        assert gradient.dtype == torch.float32
        scale = wanted[name].abs().max()
        torch.testing.assert_close(gradient / scale, wanted[name] / scale, rtol=0, atol=0.03)


@each_option
def test_checkpointed_in_time(options: dict):
    layer, plain = twins(options)
    input, state, parts = frames(6), None, []
    for part in input.split(2):
        output, state = checkpoint(layer, part, state, use_reentrant=False)
        parts.append(output)
    expected = gradients(plain, plain(input)[0].square().sum())
    assert_close(gradients(layer, torch.cat(parts).square().sum()), expected)


class TestSchedule:
    @pytest.mark.parametrize("place", ["input", "output"])
    def test_hoisted_keeps_input_and_output_and_says_so_where_they_were_overwritten(self, place: str):
        for schedule in ("concat", "hoisted"):
            layer, input = ConvLSTM2d(CIN, 4, 3, schedule=schedule), frames()
            output, _ = layer(input)
            loss = output.sum()
            with torch.no_grad():
                {"input": input, "output": output}[place].zero_()
            if schedule == "hoisted":
                with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                    loss.backward()
            else:
                loss.backward()

    def test_an_operation_in_place_on_what_a_layer_returns_trains(self):
        layer, input = ConvLSTM2d(CIN, [4, 3], 3), frames()

        def loss(inplace: bool) -> Tensor:
            output, state = layer(input)
            gated = nn.ReLU(inplace=inplace)(output)
            h, c = state[0]
            c = c.mul_(2) if inplace else c * 2
            return gated.square().sum() + c.sum() + h.sum()

        assert_close(gradients(layer, loss(True)), gradients(layer, loss(False)))
        assert not any(tensor._is_view() for tensor in (layer(input)[0], *layer(input)[1][0]))

    def test_auto_asks_the_table_by_architecture_dtype_channels_and_kernel(self, monkeypatch: pytest.MonkeyPatch):
        asked, operators = [], []

        def pick(*key: object) -> str:
            asked.append(key)
            return "hoisted" if key[2] == CIN else "concat"

        real = functional._ops.sequence
        monkeypatch.setattr(functional, "pick_schedule", pick)
        monkeypatch.setattr(functional._ops, "sequence", lambda *args: operators.append(args[-3]) or real(*args))
        ConvLSTM2d(CIN, [4, 3], (3, 5), dtype=torch.bfloat16)(frames().bfloat16())
        assert asked == [("cpu", 2, CIN, 4, (3, 5)), ("cpu", 2, 4, 3, (3, 5))]
        assert operators == [True, False]

    def test_auto_is_what_keeps_least_where_the_gates_are_made_again(self, monkeypatch: pytest.MonkeyPatch):
        calls, real = [], functional._ops.sequence
        monkeypatch.setattr(functional._ops, "sequence", lambda *args: calls.append(args[-3:-1]) or real(*args))
        ConvLSTM2d(CIN, [4, 3], 3, memory="recompute")(frames())
        assert calls == [(True, True)] * 2

    @pytest.mark.parametrize(
        "make", [lambda **options: ConvLSTM2d(0, 3, 3, **options), None], ids=["images", "vectors"]
    )
    def test_without_input_there_is_nothing_to_hoist(self, make):
        make = make or (lambda **options: PeepholeLSTM(0, 3, **options))
        layer, plain = make(schedule="hoisted"), make(backend="torch")
        plain.load_state_dict(layer.state_dict())
        size = (2, 3, 5, 4)[: 2 if isinstance(layer, PeepholeLSTM) else 4]
        state = [(torch.randn(size), torch.randn(size))]
        assert_close(layer(None, state, steps=3), plain(None, state, steps=3))

    def test_an_image_seen_at_every_step(self):
        layer, plain = twins({"schedule": "hoisted", "memory": "recompute"})
        image = torch.randn(1, 2, CIN, H, W)
        pair = []
        for each in (layer, plain):
            leaf = image.clone().requires_grad_()
            output, _ = each(leaf.expand(T, -1, -1, -1, -1))
            pair.append([output, *torch.autograd.grad(output.square().sum(), [leaf, *each.parameters()])])
        assert_close(*pair)


class TestInputKernel:
    def test_has_a_weight_of_its_own(self):
        layer = ConvLSTM2d(CIN, [4, 3], 3, input_kernel_size=[(5, 1), 3])
        shapes = {name: tuple(each.shape) for name, each in layer.named_parameters() if "weight" in name}
        assert shapes == {
            "layers.0.weight": (16, 4, 3, 3),
            "layers.0.input_weight": (16, CIN, 5, 1),
            "layers.1.weight": (12, 7, 3, 3),
        }
        assert "input_kernel_size=(5, 1)" in repr(layer)

    def test_starts_with_a_variance_of_1_by_fan_in(self):
        cell = ConvLSTM2d(16, 32, 3, input_kernel_size=7).layers[0]
        for weight in (cell.weight, cell.input_weight):
            assert weight.var().item() == pytest.approx(1 / (16 * 49 + 32 * 9), rel=0.05)

    def test_of_the_same_size_changes_nothing(self):
        layer, same = ConvLSTM2d(CIN, 4, 3), ConvLSTM2d(CIN, 4, 3, input_kernel_size=(3, 3))
        same.load_state_dict(layer.state_dict())
        input = frames()
        assert torch.equal(same(input)[0], layer(input)[0])

    def test_steps_equal_the_sequence(self):
        layer, _ = twins(OPTIONS["input kernel"])
        input, state, outputs = frames(), None, []
        for frame in input:
            output, state = layer.step(frame, state)
            outputs.append(output)
        assert_close((torch.stack(outputs), state), layer(input))
