"""Dropout, zoneout and normalisation: against their equations with the masks that were drawn, and as elsewhere."""

import copy
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from tests.support import stacks
from tests.support.covering import Row, describe, pairwise
from tests.support.layers import (
    CIN,
    B,
    H,
    T,
    W,
    conv_lstm,
    frames,
    gradients,
    peephole_lstm,
    step_by_step,
    with_peepholes,
)
from tests.support.stacks import DIRECTIONS
from tritonlstm import ConvLSTM2d, PeepholeLSTM, reference
from tritonlstm.core.spec import CHOICES
from tritonlstm.functional.dropout import drop_out_mask


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(2, channels)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The masks that are drawn, in order, as 0 and 1."""
    masks, bernoulli = [], Tensor.bernoulli_

    def draw(self: Tensor, *args: object, **options: object) -> Tensor:
        result = bernoulli(self, *args, **options)
        masks.append(result.clone())
        return result

    monkeypatch.setattr(Tensor, "bernoulli_", draw)
    return masks


def by_equations(layer: nn.Module, input: Tensor, masks: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The output and the states by plain loops, in the dtype of the layer, with the masks in the order of their use."""
    masks = iter(masks)

    def of(p: float) -> Tensor | None:
        return next(masks).to(input.dtype) / (1 - p) if p and layer.training else None

    directions = [layer.layers] if layer.reverse_layers is None else [layer.layers, layer.reverse_layers]
    sequence, states = input, []
    for index in range(layer.num_layers):
        if index and layer.dropout and layer.training:
            sequence = sequence * of(layer.dropout)
        outputs = []
        for direction, cells in enumerate(directions):
            cell, backward = cells[index], layer.reverse or direction == 1
            p_x, p_h, zoneout = cell.regularisation
            mask_x, mask_h = of(p_x), of(p_h)
            h = c = cell.weight.new_zeros(sequence.shape[1], cell.hidden_channels, *sequence.shape[3:])
            output = []
            for x in sequence.flip(0) if backward else sequence:
                x = x if mask_x is None else x * mask_x
                read = h if mask_h is None else h * mask_h
                preact = reference.linear_map(torch.cat([x, read], 1), cell.weight, cell.bias)
                preact = preact if cell.norm is None else cell.norm(preact)
                new = reference.gates(preact, c, cell.peephole, spec=cell.spec)[:2]
                if zoneout is not None:
                    kept = []
                    for p, now, old in zip((zoneout.h, zoneout.c), new, (h, c)):
                        z = p if not layer.training or p == 0 else next(masks).to(now.dtype)
                        kept.append(z * old + (1 - z) * now)
                    new = kept
                h, c = new
                output.append(h)
            outputs.append(torch.stack(output[::-1] if backward else output))
            states += [h, c]
        sequence = torch.cat(outputs, 2)
    assert next(masks, None) is None, "every mask is used"
    return sequence, states


WAYS = {
    "dropout": {"dropout": 0.4},
    "input": {"input_dropout": 0.4},
    "recurrent": {"recurrent_dropout": 0.4},
    "zoneout": {"zoneout": 0.3},
    "zoneout of c": {"zoneout": (0.0, 0.6)},
    "norm": {"norm": group_norm},
    "everything": {
        "dropout": 0.2,
        "input_dropout": 0.2,
        "recurrent_dropout": 0.5,
        "zoneout": (0.2, 0.1),
        "norm": group_norm,
    },
}
ROWS = pairwise(
    {
        "way": WAYS,
        "kind": ("images", "vectors"),
        "direction": DIRECTIONS,
        "peephole": ("none", "channel", "full"),
        "memory": ("save", "recompute"),
        "training": (True, False),
        "backend": ("auto", "aten", "triton", "torch"),
        "dtype": ("float64", "float32"),
    },
    lambda row: (
        (row.get("kind"), row.get("peephole")) != ("vectors", "full")
        and not ("norm" in WAYS[row.get("way", "input")] and row.get("memory") == "recompute")
        and (row.get("backend"), row.get("dtype")) != ("triton", "float64")
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=describe)
def test_results_and_gradients_are_those_of_the_equations(row: Row, drawn: list[Tensor]):
    dtype = getattr(torch, row["dtype"])
    options = {"memory": row["memory"], "backend": row["backend"], **WAYS[row["way"]]}
    layer = stacks.make(row, dtype, **options).train(row["training"])
    input = stacks.random_input(layer, dtype)
    wide = copy.deepcopy(layer).double()
    results = []
    for module in (layer, wide):
        leaf = input.to(next(module.parameters()).dtype, copy=True).requires_grad_()
        if module is layer:
            output, states = layer(leaf, generator=seeded())
        else:
            output, states = by_equations(wide, leaf, list(drawn))
        loss = output.square().sum() + sum(each.sum() for each in tree_leaves(states))
        learning = [leaf, *module.parameters()]
        results.append([output, *tree_leaves(states), *torch.autograd.grad(loss, learning)])
    assert bool(drawn) == (row["training"] and row["way"] != "norm")
    tolerance = 1e-9 if dtype == torch.float64 else 2e-4
    torch.testing.assert_close(
        [each.double() for each in results[0]], results[1], rtol=tolerance, atol=tolerance, check_dtype=False
    )


class TestMasks:
    @pytest.mark.parametrize("way", [name for name in WAYS if name != "norm"])
    def test_are_those_of_a_generator_or_of_pytorchs(self, way: str):
        layer, input = conv_lstm(**WAYS[way]), frames()
        assert torch.equal(layer(input, generator=seeded())[0], layer(input, generator=seeded())[0])
        assert not torch.equal(layer(input, generator=seeded())[0], layer(input, generator=seeded(4))[0])
        results = []
        for _ in range(2):
            torch.manual_seed(7)
            results.append(layer(input)[0])
        assert torch.equal(*results)
        assert not torch.equal(layer(input)[0], results[0])

    @pytest.mark.parametrize("way", ["dropout", "input", "recurrent", "zoneout"])
    def test_are_the_same_where_gates_are_recomputed(self, way: str):
        losses = []
        for memory in ("save", "recompute"):
            torch.manual_seed(0)
            layer, input = conv_lstm(**WAYS[way], memory=memory), frames()
            loss = layer(input, generator=seeded())[0].square().sum()
            losses.append((loss, list(gradients(layer, loss).values())))
        torch.testing.assert_close(*losses)

    @pytest.mark.parametrize("way", ["dropout", "input", "recurrent", "zoneout", "everything"])
    def test_are_the_same_under_checkpoint(self, way: str):
        layer, input, losses = conv_lstm(**WAYS[way]), frames(), []
        for run in (layer, partial(checkpoint, layer, use_reentrant=False)):
            torch.manual_seed(5)
            loss = run(input)[0].square().sum()
            losses.append((loss, list(gradients(layer, loss).values())))
        torch.testing.assert_close(*losses)

    def test_are_one_for_all_steps(self, drawn: list[Tensor]):
        ConvLSTM2d(CIN, 4, 3, input_dropout=0.5, recurrent_dropout=0.5)(frames())
        assert [tuple(mask.shape) for mask in drawn] == [(B, CIN, H, W), (B, 4, H, W)]

    def test_drop_as_many_as_they_should_and_keep_the_mean(self):
        mask = drop_out_mask(torch.ones(20000), 0.25, seeded())
        assert mask.eq(0).double().mean().item() == pytest.approx(0.25, abs=0.02)
        assert mask.mean().item() == pytest.approx(1, abs=0.02)
        assert not drop_out_mask(torch.ones(5), 1.0).any()


def test_between_layers_it_is_nn_lstms():
    """With everything dropped nothing is left to chance."""
    theirs, ours = nn.LSTM(CIN, 4, 2, dropout=1.0), PeepholeLSTM(CIN, 4, 2, dropout=1.0, peephole=False)
    with torch.no_grad():
        for index, cell in enumerate(ours.layers):
            cell.weight.copy_(torch.cat([getattr(theirs, f"weight_{part}_l{index}") for part in ("ih", "hh")], 1))
            cell.bias.copy_(sum(getattr(theirs, f"bias_{part}_l{index}") for part in ("ih", "hh")))
    input = frames()[..., 0, 0]
    torch.testing.assert_close(ours(input)[0], theirs(input)[0])
    torch.testing.assert_close(ours.eval()(input)[0], theirs.eval()(input)[0])
    with pytest.warns(UserWarning, match=r"^dropout: 0\.5 has no effect on one layer"):
        PeepholeLSTM(CIN, 4, dropout=0.5)


def test_zoneout_of_everything_keeps_the_state():
    layer = PeepholeLSTM(CIN, 4, zoneout=(1.0, 1.0))
    state = [(torch.randn(B, 4), torch.randn(B, 4))]
    for module in (layer, layer.eval()):
        output, ((h, c),) = module(frames()[..., 0, 0], state)
        torch.testing.assert_close((h, c), state[0])
        torch.testing.assert_close(output, state[0][0].expand(T, -1, -1))


class TestSteps:
    def test_in_evaluation_are_those_of_the_sequence(self):
        layer, input = conv_lstm(**WAYS["everything"]).eval(), frames()
        torch.testing.assert_close(tree_leaves(step_by_step(layer, input)), tree_leaves(layer(input)))

    def test_with_zoneout_draw_what_a_sequence_does(self):
        layer, input = ConvLSTM2d(CIN, 4, 3, zoneout=(0.5, 0.3)), frames()
        generator, state, outputs = seeded(), None, []
        for frame in input:
            output, state = layer.step(frame, state, generator=generator)
            outputs.append(output)
        expected = layer(input, generator=seeded())
        torch.testing.assert_close(tree_leaves((torch.stack(outputs), state)), tree_leaves(expected))

    @pytest.mark.parametrize("name", ["input_dropout", "recurrent_dropout"])
    def test_refuse_masks_that_are_for_all_steps(self, name: str):
        layer = ConvLSTM2d(CIN, 4, 3, **{name: 0.5})
        with pytest.raises(ValueError, match=f"^{name}: expected 0, or eval"):
            layer.step(frames()[0])
        layer.eval().step(frames()[0])
        packed = nn.utils.rnn.pack_sequence([torch.ones(2, CIN, H, W)])
        layer(packed)
        with pytest.raises(ValueError, match=r"^input: expected sequences of one length"):
            layer.train()(packed)


def normalised(cell: nn.Module, frames: Tensor, norm: Callable[[Tensor], Tensor], activate: Callable) -> Tensor:
    """A ConvLSTM with a norm of the pre-activations: no peepholes, gates i, f, g, o."""
    batch, _, *size = frames.shape[1:]
    h = c = frames.new_zeros(batch, cell.hidden_channels, *size)
    output = []
    for x in frames:
        combined = F.conv2d(torch.cat((x, h), 1), cell.weight, cell.bias, padding=cell.weight.shape[-1] // 2)
        i, f, g, o = torch.split(norm(combined), cell.hidden_channels, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * activate(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        output.append(h)
    return torch.stack(output)


def jhhuang96(cell: nn.Module, frames: Tensor) -> Tensor:
    """The ConvLSTM of jhhuang96's ConvLSTM-PyTorch, with a GroupNorm."""
    norm = cell.norm
    return normalised(cell, frames, lambda x: F.group_norm(x, norm.num_groups, norm.weight, norm.bias), torch.tanh)


def czifan(cell: nn.Module, frames: Tensor) -> Tensor:
    """The ConvLSTM of czifan's ConvLSTM.pytorch, with a BatchNorm, and no activation of the candidate."""
    norm = cell.norm
    return normalised(
        cell, frames, lambda x: F.batch_norm(x, None, None, norm.weight, norm.bias, training=True), lambda g: g
    )


OF_OTHERS = {
    "jhhuang96": (jhhuang96, {"norm": lambda channels: nn.GroupNorm(channels // 32, channels)}),
    "czifan": (czifan, {"norm": nn.BatchNorm2d, "activation": "identity", "output_activation": "tanh"}),
}


class TestNorm:
    @pytest.mark.parametrize(("equations", "options"), OF_OTHERS.values(), ids=OF_OTHERS)
    def test_it_is_that_of_other_cells(self, equations: Callable, options: dict):
        layer = ConvLSTM2d(CIN, 16, 5, peephole="none", **options)
        (cell,) = layer.layers
        for parameter in cell.norm.parameters():
            nn.init.normal_(parameter)
        input = frames()
        output, expected = layer(input)[0], equations(cell, input)
        torch.testing.assert_close(output, expected)
        got, wanted = (gradients(layer, each.square().sum()) for each in (output, expected))
        for name in wanted:
            torch.testing.assert_close(got[name], wanted[name], rtol=1e-4, atol=1e-4)

    def test_statistics_of_a_batch_norm_are_those_of_one_step_after_another(self):
        layer, input = ConvLSTM2d(CIN, 3, 3, norm=nn.BatchNorm2d), frames()
        plain = copy.deepcopy(layer)
        expected, _ = by_equations(plain, input, [])
        torch.testing.assert_close(layer(input)[0], expected)
        for name, buffer in layer.named_buffers():
            torch.testing.assert_close(buffer, plain.get_buffer(name))
        assert layer.layers[0].norm.num_batches_tracked == T

    @pytest.mark.parametrize("affine", [True, False])
    @pytest.mark.parametrize("options", [{}, {"bias": False}, {"input_kernel_size": 1}], ids=str)
    def test_a_batch_norm_in_evaluation_is_folded_into_the_weights(self, monkeypatch, options: dict, affine: bool):
        def norm(channels: int) -> nn.Module:
            return nn.BatchNorm2d(channels, affine=affine)

        layer, input = conv_lstm(norm=norm, **options), frames()
        for _ in range(3):
            layer(input)
        layer.eval()
        called = []
        for cell in layer.layers:
            cell.norm.register_forward_hook(lambda *args: called.append(args))
        output = layer(input)[0]
        loss = gradients(layer, output.square().sum())
        stepped = step_by_step(layer, input)[0]
        assert not called
        monkeypatch.setattr("tritonlstm.modules.cell.is_folded", lambda norm: False)
        expected = layer(input)[0]
        assert len(called) == 2 * T
        torch.testing.assert_close((output, stepped), (expected, expected))
        for name, gradient in gradients(layer, expected.square().sum()).items():
            torch.testing.assert_close(loss[name], gradient, rtol=1e-4, atol=1e-4)

    def test_a_batch_norm_without_statistics_is_not_folded(self):
        layer = ConvLSTM2d(CIN, 3, 3, norm=lambda channels: nn.BatchNorm2d(channels, track_running_stats=False))
        input = frames()
        torch.testing.assert_close(layer.eval()(input)[0], by_equations(layer, input, [])[0])

    def test_layer_norm_of_vectors_in_half_precision(self):
        layer = PeepholeLSTM(CIN, 4, norm=nn.LayerNorm, dtype=torch.bfloat16)
        output, ((h, c),) = layer(frames()[..., 0, 0].bfloat16())
        assert (output.dtype, h.dtype, c.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            output, ((h, c),) = layer.float()(frames()[..., 0, 0])
        assert (output.dtype, h.dtype, c.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)

    def test_is_saved_copied_and_reset_with_the_layer(self):
        layer, input = conv_lstm(norm=nn.BatchNorm2d), frames()
        layer(input)
        layer.eval()
        keys = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        assert {f"layers.1.norm.{key}" for key in keys} <= layer.state_dict().keys()
        for duplicate in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            torch.testing.assert_close(duplicate(input)[0], layer(input)[0], rtol=0, atol=0)
        other = conv_lstm(norm=nn.BatchNorm2d).eval()
        other.load_state_dict(layer.state_dict())
        torch.testing.assert_close(other(input)[0], layer(input)[0], rtol=0, atol=0)
        layer.reset_parameters()
        assert not layer.layers[0].norm.running_mean.any()
        assert layer.layers[0].norm is not layer.layers[1].norm

    def test_of_another_size_is_refused(self):
        layer = ConvLSTM2d(CIN, 4, 3, norm=lambda channels: nn.Conv2d(channels, channels + 1, 1))
        with pytest.raises(ValueError, match=r"^norm \(its result\): expected shape \(B, 4·C, H, W\)"):
            layer(frames())


class DropConnect(nn.Module):
    """As docs/pytorch.md has it: dropout of the weights that read the hidden state."""

    def __init__(self, p: float, in_channels: int):
        super().__init__()
        self.p, self.in_channels = p, in_channels

    def forward(self, weight: Tensor) -> Tensor:
        of_input, of_hidden = weight[:, : self.in_channels], weight[:, self.in_channels :]
        return torch.cat([of_input, F.dropout(of_hidden, self.p, self.training)], 1)


def test_weight_dropout_by_parametrization():
    layer, input = ConvLSTM2d(CIN, 4, 3), frames()
    expected = layer(input)[0]
    parametrize.register_parametrization(layer.layers[0], "weight", DropConnect(1.0, CIN))
    dropped = copy.deepcopy(layer)
    assert not torch.allclose(layer(input)[0], expected)
    for t in range(T):  # with nothing of the hidden state, each step is a first one, but for c
        _, ((_, c),) = dropped(input[:t]) if t else (None, ((None, torch.zeros(B, 4, H, W)),))
        one, _ = dropped(input[t : t + 1], [(torch.randn(B, 4, H, W), c.detach())])
        torch.testing.assert_close(one[0], layer(input)[0][t])
    torch.testing.assert_close(layer.eval()(input)[0], expected)


class Coupled(nn.Module):
    """As docs/pytorch.md has it: the input gate is 1 - f."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, tensor: Tensor) -> Tensor:
        return torch.cat([-tensor[: self.size], tensor])

    def right_inverse(self, tensor: Tensor) -> Tensor:
        return tensor[self.size :]


@pytest.mark.parametrize("recurrent_activation", CHOICES["recurrent_activation"])
def test_coupled_gates_by_parametrization(recurrent_activation: str):
    channels, sigma = 4, reference.ACTIVATIONS[recurrent_activation].apply
    layer = ConvLSTM2d(CIN, channels, 3, recurrent_activation=recurrent_activation, dtype=torch.float64)
    (cell,) = with_peepholes(layer).layers
    before = cell.weight[channels:].clone()
    for name, size in (("weight", channels), ("bias", channels), ("peephole", 1)):
        parametrize.register_parametrization(cell, name, Coupled(size))
    torch.testing.assert_close(cell.weight[channels:], before, rtol=0, atol=0)
    weight, bias, peephole = (cell.parametrizations[name].original for name in ("weight", "bias", "peephole"))
    assert (len(weight), len(bias), len(peephole)) == (3 * channels, 3 * channels, 2)
    input = frames().double().requires_grad_()
    output = layer(input)[0]
    h = c = input.new_zeros(B, channels, H, W)
    expected = []
    for x in input:
        f, g, o = F.conv2d(torch.cat([x, h], 1), weight, bias, padding=1).chunk(3, 1)
        f = sigma(f + peephole[0] * c)
        c = f * c + (1 - f) * torch.tanh(g)
        h = sigma(o + peephole[1] * c) * torch.tanh(c)
        expected.append(h)
    expected, leaves = torch.stack(expected), [input, weight, bias, peephole]
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    got, wanted = (torch.autograd.grad(each.square().sum(), leaves) for each in (output, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("way", [name for name in WAYS if name != "everything"])
def test_compiled_in_one_graph_and_exported(fresh_compiler, way: str):
    layer, input = peephole_lstm(**WAYS[way]).eval(), frames(steps=2)[..., 0, 0]  # some ways are traced step by step
    expected = layer(input)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(tree_leaves(compiled(input)), tree_leaves(expected))
    program = torch.export.export(layer, (input,)).module()
    torch.testing.assert_close(tree_leaves(program(input)), tree_leaves(expected))
    layer.train()
    compiled(input)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_what_is_not_used_is_not_run(monkeypatch: pytest.MonkeyPatch):
    """Without an option, or in evaluation, a sequence is one operator for each layer, and nothing is drawn."""
    operators: list[object] = []
    real = torch.ops.tritonlstm.inference

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None):
            operators.append(function.overloadpacket)
            return function(*args, **(kwargs or {}))

    for options in ({}, WAYS["dropout"], WAYS["input"], WAYS["recurrent"], {"norm": nn.BatchNorm2d}):
        operators.clear()
        with torch.no_grad(), Spy():
            conv_lstm(**options).eval()(frames())
        assert operators.count(real) == 2
        names = {str(each) for each in operators}
        assert not {"aten.bernoulli_", "aten.native_dropout"} & names
