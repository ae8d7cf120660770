"""Both directions, and the second alone: nn.LSTM's semantics, and those of the same layer on a flipped sequence."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tests.support.layers import CIN, B, H, T, W, conv_lstm, frames, gradients, peephole_lstm, step_by_step
from tritonlstm import ConvLSTM2d, ConvLSTM2dCell, PeepholeLSTM, functional
from tritonlstm.models import EncoderForecaster


def assert_close(one: object, other: object) -> None:
    torch.testing.assert_close(tree_leaves(one), tree_leaves(other))


def test_a_reversed_stack_reads_its_input_from_the_end_and_keeps_its_order():
    layer, reversed_ = conv_lstm(), conv_lstm(reverse=True)
    reversed_.load_state_dict(layer.state_dict())
    input = frames()
    output, state = layer(input.flip(0))
    assert_close(reversed_(input), (output.flip(0), state))
    assert torch.equal(reversed_(input)[0][0], reversed_(input)[1][-1].h)


def test_a_reversed_stack_takes_steps_from_the_last_to_the_first():
    layer, input = peephole_lstm(reverse=True), frames()[..., 0, 0]
    outputs, state = step_by_step(layer, input.flip(0))
    assert_close((outputs.flip(0), state), layer(input))


def test_a_reversed_stack_is_resumed_where_it_ended():
    layer, input = conv_lstm(reverse=True), frames(steps=6)
    later, state = layer(input[4:])
    earlier, state = layer(input[:4], state)
    assert_close((torch.cat([earlier, later]), state), layer(input))


def test_the_functional_form_and_the_cell_are_reversed_too():
    cell, input = ConvLSTM2dCell(CIN, 3, 3, reverse=True), frames()
    got = functional.conv_lstm(input, None, cell.weight, cell.bias, cell.peephole, reverse=True)
    assert_close(got, cell(input, None, T))
    assert_close(got[1].h, got[0][0])


def test_both_directions_side_by_side():
    layer, input = conv_lstm(bidirectional=True), frames()
    forward, backward = conv_lstm(), conv_lstm(reverse=True)
    first = [each.layers[0](input, None, T) for each in (forward, backward)]
    with torch.no_grad():
        for mine, theirs in ((layer.layers, forward.layers), (layer.reverse_layers, backward.layers)):
            mine[0].load_state_dict(theirs[0].state_dict())
    output, state = layer(input, returns="layers")
    assert_close(output[0], torch.cat([each for each, _ in first], 2))
    assert_close(state[:2], [pair for _, pair in first])
    assert [each.shape[2] for each in output] == [8, 6]
    assert len(state) == 4
    rows = output[0].movedim(2, -1)
    assert rows.is_contiguous(), "stored channels last"


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_without_peepholes_it_is_nn_lstm(bias: bool, batch_first: bool):
    options = {"bias": bias, "batch_first": batch_first, "bidirectional": True}
    theirs = nn.LSTM(CIN, 4, 2, **options)
    ours = PeepholeLSTM(CIN, 4, 2, peephole=False, **options)
    with torch.no_grad():
        for cells, suffix in ((ours.layers, ""), (ours.reverse_layers, "_reverse")):
            for index, cell in enumerate(cells):
                parts = [getattr(theirs, f"weight_{part}_l{index}{suffix}") for part in ("ih", "hh")]
                cell.weight.copy_(torch.cat(parts, 1))
                if bias:
                    cell.bias.copy_(sum(getattr(theirs, f"bias_{part}_l{index}{suffix}") for part in ("ih", "hh")))
    leaves = [torch.randn(T, B, CIN), torch.randn(4, B, 4), torch.randn(4, B, 4)]
    input, h0, c0 = (leaf.requires_grad_() for leaf in leaves)
    sequence = input.transpose(0, 1) if batch_first else input

    def results(layer: nn.Module, output: Tensor, h_n: Tensor, c_n: Tensor) -> list[Tensor]:
        loss = output.square().sum() + (h_n * c_n).sum()
        return [output, h_n, c_n, *torch.autograd.grad(loss, [input, h0, c0], retain_graph=True)]

    output, state = ours(sequence, list(zip(h0, c0, strict=True)))
    got = results(ours, output, *map(torch.stack, zip(*state)))
    expected = results(theirs, *_flat(theirs(sequence, (h0, c0))))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    ours.zero_grad(), theirs.zero_grad()
    ours(sequence)[0].square().sum().backward()
    theirs(sequence)[0].square().sum().backward()
    for cells, suffix in ((ours.layers, ""), (ours.reverse_layers, "_reverse")):
        for index, cell in enumerate(cells):
            parts = [getattr(theirs, f"weight_{part}_l{index}{suffix}").grad for part in ("ih", "hh")]
            torch.testing.assert_close(cell.weight.grad, torch.cat(parts, 1), rtol=1e-4, atol=1e-5)


def _flat(results: tuple) -> tuple[Tensor, Tensor, Tensor]:
    output, (h_n, c_n) = results
    return output, h_n, c_n


class TestModule:
    def test_keys_of_a_second_direction_stand_beside_the_old_ones(self):
        one, both = conv_lstm(), conv_lstm(bidirectional=True)
        names = list(one.state_dict())
        assert list(both.state_dict()) == names + [f"reverse_{name}" for name in names]
        assert both.layers[1].in_channels == both.reverse_layers[1].in_channels == 2 * 4
        missing, unexpected = ConvLSTM2d(CIN, 4, 3, bidirectional=True).load_state_dict(
            ConvLSTM2d(CIN, 4, 3).state_dict(), strict=False
        )
        assert all(name.startswith("reverse_layers.0") for name in missing) and not unexpected

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
    @pytest.mark.parametrize("options", [{"bidirectional": True}, {"reverse": True}])
    def test_copies_compute_the_same(self, duplicate, options: dict):
        layer, input = conv_lstm(**options), frames()
        torch.testing.assert_close(tree_leaves(duplicate(layer)(input)), tree_leaves(layer(input)), rtol=0, atol=0)

    def test_parameters_are_reset_in_both_directions(self):
        layer = peephole_lstm(bidirectional=True)
        layer.reset_parameters()
        assert not any(cell.peephole.any() for cell in (*layer.layers, *layer.reverse_layers))

    def test_repr(self):
        assert "bidirectional=True" in repr(conv_lstm(bidirectional=True))
        assert "reverse=True" in repr(conv_lstm(reverse=True))
        assert "bidirectional" not in repr(conv_lstm())

    def test_a_wrapped_cell_of_each_direction(self):
        class Wrapper(nn.Module):
            def __init__(self, cell: nn.Module):
                super().__init__()
                self.cell = cell

            def forward(self, *args: object) -> object:
                return self.cell(*args)

        layer, input = conv_lstm(bidirectional=True), frames()
        expected = [layer(input), layer(input, returns="last")]
        layer.layers[1], layer.reverse_layers[0] = Wrapper(layer.layers[1]), Wrapper(layer.reverse_layers[0])
        assert_close([layer(input), layer(input, returns="last")], expected)
        with pytest.raises(TypeError, match=r"^return_cells: .* got a Wrapper as layers\[1\]"):
            layer(input, return_cells=True)

    def test_an_error_names_the_direction(self):
        layer = conv_lstm(bidirectional=True)
        layer.reverse_layers[1].bias = nn.Parameter(torch.zeros(5))
        with pytest.raises(ValueError, match=r"^reverse_layers\[1\]\.bias: expected"):
            layer(frames())
        size = (B, 4, H, W)
        state = [(torch.zeros(size), torch.zeros(size))] * 4
        with pytest.raises(ValueError, match=r"^state\[2\]\[0\]: expected shape"):
            conv_lstm(bidirectional=True)(frames(), state)

    def test_nn_lstms_state_is_converted_by_zip(self):
        layer, input = PeepholeLSTM(CIN, 4, 2, bidirectional=True), frames()[..., 0, 0]
        h_n, c_n = torch.randn(4, B, 4), torch.randn(4, B, 4)
        _, state = layer(input, list(zip(h_n, c_n)))
        assert len(state) == 4
        with pytest.raises(TypeError, match=r"^state: expected one pair \(h, c\) for each of 4 layers' directions"):
            layer(input, (h_n, c_n))


def test_a_forecaster_has_one_direction():
    for name in ("bidirectional", "reverse"):
        with pytest.raises(TypeError, match=f"^{name}: expected nothing"):
            EncoderForecaster(1, [2], 3, **{name: True})


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"reverse": True, "memory": "recompute"}], ids=str)
def test_compiled_in_one_graph(fresh_compiler, options: dict):
    layer, input = conv_lstm(**options), frames()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    (output, state), (expected, expected_state) = compiled(input), layer(input)
    torch.testing.assert_close(tree_leaves((output, state)), tree_leaves((expected, expected_state)))
    got = gradients(layer, output.square().sum() + state[0].c.sum())
    wanted = gradients(layer, expected.square().sum() + expected_state[0].c.sum())
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-4, atol=1e-5)
