"""Packed sequences, in and out: nn.LSTM's results, and those of each sequence on its own."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves

from tests.support.layers import CIN, conv_lstm, frames, gradients, peephole_lstm
from tests.support.problems import MODES
from tritonlstm import ConvLSTM2d, PeepholeLSTM

LENGTHS = [2, 5, 1, 5, 3]
DIRECTIONS = [{}, {"reverse": True}, {"bidirectional": True}]


def pair_of_layers() -> tuple[PeepholeLSTM, nn.LSTM]:
    """Two layers in both directions, with the same weights, ours without peepholes."""
    theirs = nn.LSTM(CIN, 4, 2, bidirectional=True)
    ours = PeepholeLSTM(CIN, 4, 2, bidirectional=True, peephole=False)
    with torch.no_grad():
        for cells, suffix in ((ours.layers, ""), (ours.reverse_layers, "_reverse")):
            for index, cell in enumerate(cells):
                parts = [getattr(theirs, f"weight_{part}_l{index}{suffix}") for part in ("ih", "hh")]
                cell.weight.copy_(torch.cat(parts, 1))
                cell.bias.copy_(sum(getattr(theirs, f"bias_{part}_l{index}{suffix}") for part in ("ih", "hh")))
    return ours, theirs


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_it_is_nn_lstm_on_packed_sequences(enforce_sorted: bool, with_state: bool):
    ours, theirs = pair_of_layers()
    lengths = sorted(LENGTHS, reverse=True) if enforce_sorted else LENGTHS
    batch = len(lengths)
    leaves = [torch.randn(5, batch, CIN), torch.randn(4, batch, 4), torch.randn(4, batch, 4)]
    padded, h0, c0 = (leaf.requires_grad_() for leaf in leaves)

    def pack() -> PackedSequence:
        return pack_padded_sequence(padded, torch.tensor(lengths), enforce_sorted=enforce_sorted)

    def results(output: PackedSequence, h_n: Tensor, c_n: Tensor) -> list[Tensor]:
        sequence, got = pad_packed_sequence(output)
        assert got.tolist() == lengths
        learning = [padded, h0, c0] if with_state else [padded]
        loss = output.data.square().sum() + (h_n * c_n).sum()
        return [sequence, h_n, c_n, *torch.autograd.grad(loss, learning)]

    output, state = ours(pack(), list(zip(h0, c0)) if with_state else None)
    got = results(output, *map(torch.stack, zip(*state)))
    output, (h_n, c_n) = theirs(pack(), (h0, c0) if with_state else None)
    torch.testing.assert_close(got, results(output, h_n, c_n), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("options", DIRECTIONS, ids=str)
def test_packed_images_are_each_sequence_on_its_own(options: dict, mode: dict):
    layer, sequences = conv_lstm(**options, **mode), [frames(steps=n, batch=1)[:, 0] for n in LENGTHS]
    packed = pack_sequence(sequences, enforce_sorted=False)
    output, state, cells = layer(packed, return_cells=True)
    loss = output.data.square().sum() + cells.data.sum() + sum(h.sum() + c.square().sum() for h, c in state)
    got = gradients(layer, loss)
    padded, of_c = pad_packed_sequence(output)[0], pad_packed_sequence(cells)[0]
    loss = 0
    for index, sequence in enumerate(sequences):
        output, alone, cells = layer(sequence, return_cells=True)
        torch.testing.assert_close(padded[: len(sequence), index], output)
        torch.testing.assert_close(of_c[: len(sequence), index], cells)
        torch.testing.assert_close([each[index] for each in tree_leaves(state)], tree_leaves(alone))
        loss += output.square().sum() + cells.sum() + sum(h.sum() + c.square().sum() for h, c in alone)
    for name, gradient in gradients(layer, loss).items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", DIRECTIONS, ids=str)
def test_the_last_steps_and_every_layer(options: dict):
    layer = peephole_lstm(**options, batch_first=True)
    packed = pack_sequence([torch.randn(n, CIN) for n in LENGTHS], enforce_sorted=False)
    output, state = layer(packed)
    last, same = layer(packed, returns="last")
    torch.testing.assert_close(tree_leaves(same), tree_leaves(state))
    torch.testing.assert_close(last, torch.cat([h for h, _ in state[len(state) // 2 :]], 1))
    outputs, _ = layer(packed, returns="layers")
    assert [type(each) for each in outputs] == [PackedSequence] * 2
    torch.testing.assert_close(outputs[1].data, output.data)


def test_there_are_as_many_calls_as_different_lengths():
    layer, calls = peephole_lstm(), []
    layer.layers[0].register_forward_hook(lambda cell, args, results: calls.append(tuple(args[0].shape)))
    layer(pack_sequence([torch.randn(n, CIN) for n in LENGTHS], enforce_sorted=False))
    assert calls == [(1, 5, CIN), (1, 4, CIN), (1, 3, CIN), (2, 2, CIN)]


def test_dropout_applies_to_packed_sequences():
    layer = PeepholeLSTM(CIN, 4, 2, dropout=1.0)
    packed = pack_sequence([torch.randn(n, CIN) for n in LENGTHS], enforce_sorted=False)
    first, second = layer(packed)[0].data, layer(packed)[0].data
    torch.testing.assert_close(first, second)
    assert not torch.allclose(layer.eval()(packed)[0].data, first)


def test_wrong_calls():
    packed = pack_sequence([torch.randn(n, CIN) for n in LENGTHS], enforce_sorted=False)
    layer = PeepholeLSTM(CIN, 4)
    for call, message in {
        (lambda: layer(packed, steps=5)): r"^steps: expected None beside a PackedSequence",
        (lambda: PeepholeLSTM(CIN + 1, 4)(packed)): r"^input: expected \(T, B, Cin\) with Cin = 3",
        (lambda: layer(packed, [(torch.zeros(4, 4), torch.zeros(4, 4))])): r"^state\[0\]\[0\]: expected shape \(B, C\)",
        (lambda: ConvLSTM2d(CIN, 4, 3)(packed)): r"^input: expected dimensions",
        (lambda: layer.step(packed)): r"^frame: expected a Tensor, got PackedSequence",
    }.items():
        with pytest.raises((TypeError, ValueError), match=message):
            call()
