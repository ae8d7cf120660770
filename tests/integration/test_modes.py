"""Schedules, memory modes and input kernels: each is the same layer to PyTorch's features."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

from tests.support.layers import CIN, H, T, W, frames, gradients, step_by_step, with_peepholes
from tritonlstm import ConvLSTM2d, PeepholeLSTM, Spec, functional, ops

OPTIONS = {
    "hoisted": {"schedule": "hoisted"},
    "hoisted, recompute": {"schedule": "hoisted", "memory": "recompute"},
    "recompute": {"memory": "recompute"},
    "input kernel": {"input_kernel_size": (5, 1)},
    "input kernel, recompute": {"input_kernel_size": [(5, 1), 1], "memory": "recompute"},
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def pair_of_layers(options: dict, **more: object) -> tuple[ConvLSTM2d, ConvLSTM2d]:
    """A layer with these options, and one on PyTorch's plain operations with the same parameters."""
    layer = with_peepholes(ConvLSTM2d(CIN, [4, 3], [3, (1, 3)], **options, **more))
    plain = ConvLSTM2d(CIN, [4, 3], [3, (1, 3)], **options, **{**more, "backend": "torch"})
    plain.load_state_dict(layer.state_dict())
    return layer, plain


def backend_of(options: dict) -> str:
    """Gates that are compiled with the default options alone: with others they are others, and take seconds."""
    return "aten" if options else "auto"


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
        layer, plain = pair_of_layers(options, backend=backend)
        input = frames(11)
        assert_close(results(layer, layer, input), results(plain, plain, input))
        with torch.no_grad():
            assert_close(layer(input), plain(input))

    def test_are_those_of_plain_pytorch_from_a_state(self, options: dict, backend: str):
        layer, plain = pair_of_layers(options, backend=backend)
        input = frames()
        _, state = plain(input)
        state = [(h.detach(), c.detach()) for h, c in state]
        assert_close(results(layer, layer, input, state), results(plain, plain, input, state))


@each_option
def test_compiled_in_one_graph_for_any_sizes(fresh_compiler, options: dict):
    layer, plain = pair_of_layers(options, backend=backend_of(options))
    compiled = torch.compile(layer, fullgraph=True)
    for size in ((4, 3, 6, 5), (5, 4, 7, 6), (9, 2, 5, 8)):
        input = frames(*size)
        assert_close(results(compiled, layer, input), results(plain, plain, input))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@each_option
@pytest.mark.parametrize("grad_mode", [False, True])
def test_exported_and_trained(options: dict, grad_mode: bool):
    layer, plain = pair_of_layers(options)
    with torch.set_grad_enabled(grad_mode):
        program = torch.export.export(
            layer, (frames(),), dynamic_shapes={"input": {0: torch.export.Dim("T"), 1: torch.export.Dim("B")}}
        )
    module, input = program.module(), frames(7, 5)
    assert_close(results(module, module, input), results(plain, plain, input))


@each_option
def test_gradients_of_each_sample(options: dict):
    layer, plain = pair_of_layers(options)
    named, input = {name: each.detach() for name, each in layer.named_parameters()}, frames()

    def loss_of(module: nn.Module):
        return lambda parameters, x: functional_call(module, parameters, (x,))[0].square().sum()

    together = vmap(grad(loss_of(layer)), in_dims=(None, 1))(named, input.unsqueeze(2))
    for index in range(input.shape[1]):
        alone = grad(loss_of(plain))(named, input[:, index : index + 1])
        assert_close({name: each[index] for name, each in together.items()}, alone)


@each_option
def test_second_derivatives_and_forward_mode_are_refused(options: dict):
    layer, _ = pair_of_layers(options)
    input = frames().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(input)[0].square().sum(), input, create_graph=True)
    with pytest.raises(RuntimeError, match='backend="torch"'):
        gradient.square().sum().backward()
    with pytest.raises(RuntimeError, match='backend="torch"'):
        torch.func.jvp(lambda x: layer(x)[0], (frames(),), (frames(),))


@each_option
def test_autocast(options: dict):
    layer, plain = pair_of_layers(options)
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
    layer, plain = pair_of_layers(options)
    input, state, parts = frames(6), None, []
    for part in input.split(2):
        output, state = checkpoint(layer, part, state, use_reentrant=False)
        parts.append(output)
    expected = gradients(plain, plain(input)[0].square().sum())
    assert_close(gradients(layer, torch.cat(parts).square().sum()), expected)


@pytest.mark.parametrize("options", [{}, *OPTIONS.values()], ids=["concat", *OPTIONS])
class TestWrittenTo:
    @pytest.mark.parametrize("place", ["input", "h", "c"])
    def test_what_came_in_is_kept_itself_and_an_operation_in_place_on_it_raises(self, options: dict, place: str):
        layer, input = ConvLSTM2d(CIN, [4, 3], [3, (1, 3)], **options), frames()
        h, c = torch.randn(2, 4, H, W), torch.randn(2, 4, H, W)
        state = [(h, c), (torch.randn(2, 3, H, W), torch.randn(2, 3, H, W))]
        loss = layer(input[:, :2], state)[0].sum()
        {"input": input, "h": h, "c": c}[place].zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    def test_what_a_layer_returns_may_be_overwritten(self, options: dict):
        layer, input = ConvLSTM2d(CIN, [4, 3], [3, (1, 3)], **options), frames()
        output, state = layer(input)
        results = [output, *(each for pair in state for each in pair)]
        loss = sum(each.sum() for each in results)
        expected = torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
        with torch.no_grad():
            for each in results:
                each.zero_()
        assert_close(torch.autograd.grad(loss, list(layer.parameters())), expected)

    @pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
    def test_an_operation_in_place_on_what_a_layer_returns_trains(self, fresh_compiler, options: dict, compiled: bool):
        layer, input = ConvLSTM2d(CIN, [4, 3], [3, (1, 3)], **options, backend=backend_of(options)), frames()
        run = torch.compile(layer, fullgraph=True) if compiled else layer

        def loss(inplace: bool) -> Tensor:
            output, state = run(input)
            gated = nn.ReLU(inplace=inplace)(output)
            total = gated.square().sum()
            for h, c in state:
                total = total + (c.mul_(2) if inplace else c * 2).sum() + (h.mul_(3) if inplace else h * 3).sum()
            return total

        assert_close(gradients(layer, loss(True)), gradients(layer, loss(False)))
        output, state = layer(input)
        assert not any(tensor._is_view() for tensor in (output, *(each for pair in state for each in pair)))

    def test_an_operation_in_place_inside_of_what_is_compiled_or_transformed_trains(
        self, fresh_compiler, options: dict
    ):
        """Inductor, whose C++ takes most of the time, compiles the first and the last of the options. What it gets is
        the same graph for the others, with another string in it."""
        layer, input = ConvLSTM2d(CIN, [4, 3], [3, (1, 3)], **options, backend=backend_of(options)), frames()
        named = {name: each.detach() for name, each in layer.named_parameters()}

        def loss(parameters: dict, x: Tensor, inplace: bool = True) -> Tensor:
            output, ((_, c), _) = functional_call(layer, parameters, (x,))
            return nn.functional.relu(output, inplace=inplace).square().sum() + (c.mul_(2) if inplace else c * 2).sum()

        expected = grad(loss)(named, input, False)
        assert_close(grad(loss)(named, input), expected)
        each_sample = vmap(grad(loss), in_dims=(None, 1))(named, input.unsqueeze(2))
        assert_close({name: each.sum(0) for name, each in each_sample.items()}, expected)
        compiler = "inductor" if options in ({}, OPTIONS["input kernel, recompute"]) else "aot_eager"
        compiled = torch.compile(lambda x: loss(dict(layer.named_parameters()), x), fullgraph=True, backend=compiler)
        assert_close(gradients(layer, compiled(input)), expected)

    def test_a_cell_that_is_called_alone_returns_what_may_be_written_to(self, options: dict):
        cell, input = ConvLSTM2d(CIN, [4, 3], [3, (1, 3)], **options).layers[0], frames()

        def loss(inplace: bool) -> Tensor:
            results = torch.utils._pytree.tree_leaves(cell(input, None, T))
            return sum((each.mul_(2) if inplace else each * 2).sum() for each in results)

        assert_close(gradients(cell, loss(True)), gradients(cell, loss(False)))

    @pytest.mark.parametrize("backend", ["auto", "aten"])
    def test_a_step_returns_an_h_that_may_be_written_to_and_a_c_that_is_guarded(self, options: dict, backend: str):
        cell, input = ConvLSTM2d(CIN, [4, 3], [3, (1, 3)], **options, backend=backend).layers[0], frames()

        def loss(inplace: bool) -> Tensor:
            h, c = cell(input[0])
            return (h.mul_(2) if inplace else h * 2).sum() + c.sum()

        assert_close(gradients(cell, loss(True)), gradients(cell, loss(False)))
        h, c = cell(input[0])
        c.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            (h.sum() + c.sum()).backward()


def test_only_what_is_differentiated_and_seen_is_copied(monkeypatch: pytest.MonkeyPatch):
    copies, clone = [], Tensor.clone
    monkeypatch.setattr(Tensor, "clone", lambda self, **options: copies.append(self.shape) or clone(self, **options))
    layer, input = ConvLSTM2d(CIN, [4, 3], 3), frames()
    layer(input)
    assert [shape[2] for shape in copies] == [3]
    with torch.no_grad():
        layer(input)
    layer.layers[0](input[0])
    ConvLSTM2d(CIN, [4, 3], 3, backend="torch")(input)
    assert len(copies) == 1


def spy_on_specs(monkeypatch: pytest.MonkeyPatch, note: Callable[[Spec], None]) -> None:
    """Tell each call's resolved options."""
    real = ops.sequence
    monkeypatch.setattr(
        ops, "sequence", lambda arguments, steps, spec, **rest: note(spec) or real(arguments, steps, spec, **rest)
    )


class TestSchedule:
    def test_auto_asks_the_table_by_architecture_dtype_channels_and_kernel(self, monkeypatch: pytest.MonkeyPatch):
        asked, operators = [], []

        def pick(*key: object) -> str:
            asked.append(key)
            return "hoisted" if key[2] == CIN else "concat"

        monkeypatch.setattr(functional.sequence, "pick_schedule", pick)
        spy_on_specs(monkeypatch, lambda spec: operators.append(spec.schedule))
        ConvLSTM2d(CIN, [4, 3], (3, 5), dtype=torch.bfloat16)(frames().bfloat16())
        assert asked == [("cpu", 2, CIN, 4, (3, 5)), ("cpu", 2, 4, 3, (3, 5))]
        assert operators == ["hoisted", "concat"]

    @pytest.mark.parametrize("tuned", ["concat", "hoisted"])
    def test_auto_is_the_same_where_the_gates_are_recomputed(self, monkeypatch: pytest.MonkeyPatch, tuned: str):
        calls = []
        monkeypatch.setattr(functional.sequence, "pick_schedule", lambda *key: tuned)
        spy_on_specs(monkeypatch, lambda spec: calls.append((spec.schedule, spec.memory)))
        ConvLSTM2d(CIN, [4, 3], 3, memory="recompute")(frames())
        assert calls == [(tuned, "recompute")] * 2

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
        layer, plain = pair_of_layers({"schedule": "hoisted", "memory": "recompute"})
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

    def test_steps_agree_with_the_sequence(self):
        layer, _ = pair_of_layers(OPTIONS["input kernel"])
        input = frames()
        assert_close(step_by_step(layer, input), layer(input))
