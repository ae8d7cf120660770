"""Samples that end before others, are reset or held, inside one call: each on its own, step by step."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves

from tests.support.covering import Row, describe, pairwise
from tests.support.layers import CIN, H, W, conv_lstm, frames, gradients, peephole_lstm
from tests.support.problems import MODES
from tritonlstm import ConvLSTM2d, PeepholeLSTM, functional
from tritonlstm.core import marks

STEPS, LENGTHS = 6, [6, 2, 0, 5]
BATCH = len(LENGTHS)


def masks(seed: int = 0) -> tuple[Tensor, Tensor]:
    """reset and hold (T, B): apart, together, at the first step and at the last."""
    generator = torch.Generator().manual_seed(seed)
    reset, hold = (torch.rand(STEPS, BATCH, generator=generator) < 0.35 for _ in range(2))
    reset[0, 0] = reset[-1, 0] = hold[-1, 0] = hold[0, 1] = True
    return reset, hold


def reset_state(layer: nn.Module, batch: int = 1) -> list[tuple[Tensor, Tensor]]:
    """A state to reset to, which learns."""
    sizes = [(batch, cell.hidden_channels, *([H, W] if layer.spatial_dims else [])) for cell in layer.layers]
    return [tuple(torch.randn(size).requires_grad_() for _ in range(2)) for size in sizes]


def one_by_one(
    layer: nn.Module,
    input: Tensor,
    lengths: Sequence[int],
    reset: Tensor,
    hold: Tensor,
    reset_to: list[tuple[Tensor, Tensor]] | None,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """What the masks mean, in a loop over samples and steps: output (T, B, …) and the last state of each sample."""
    outputs, states = [], []
    cells = list(layer.layers)
    zeros = [(input.new_zeros(1, cell.hidden_channels, *input.shape[3:]),) * 2 for cell in cells]
    for sample in range(input.shape[1]):
        state, steps = zeros, []
        for t in range(len(input)):
            if t >= lengths[sample]:
                steps.append(torch.zeros_like(zeros[-1][0]))
                continue
            if reset[t, sample]:
                state = reset_to or zeros
            if not hold[t, sample]:
                _, state = layer.step(input[t, sample][None], state)
            steps.append(state[-1][0])
        outputs.append(torch.cat(steps))
        states.append(state)
    together = [tuple(torch.cat(each) for each in zip(*pairs)) for pairs in zip(*states)]
    return torch.stack(outputs, 1), together


def assert_close(one: object, other: object) -> None:
    torch.testing.assert_close(tree_leaves(one), tree_leaves(other), rtol=1e-4, atol=1e-5)


LAYERS = {
    "images": conv_lstm,
    "vectors": peephole_lstm,
    "norm": lambda **options: conv_lstm(norm=lambda channels: nn.GroupNorm(1, channels), **options),
    "zoneout": lambda **options: conv_lstm(zoneout=(0.2, 0.3), **options).eval(),
}
ROWS = pairwise(
    {"layer": LAYERS, "mode": MODES, "reset_state": (True, False), "batch_first": (False, True)},
    lambda row: row.get("layer") != "norm" or "recompute" not in row.get("mode", ""),
)


@pytest.mark.parametrize("row", ROWS, ids=describe)
def test_every_mask_is_what_a_loop_over_samples_and_steps_makes_of_it(row: Row):
    layer = LAYERS[row["layer"]](batch_first=row["batch_first"], **MODES[row["mode"]])
    reset, hold = masks()
    input = frames(STEPS, BATCH) if layer.spatial_dims else torch.randn(STEPS, BATCH, CIN)
    input.requires_grad_()
    to = reset_state(layer) if row["reset_state"] else None
    expected = one_by_one(layer, input, LENGTHS, reset, hold, to)
    given = {"reset": reset, "hold": hold}
    if row["batch_first"]:
        given = {name: mask.t() for name, mask in given.items()}
    got = layer(input.transpose(0, 1) if row["batch_first"] else input, lengths=LENGTHS, reset_state=to, **given)
    if row["batch_first"]:
        got = got[0].transpose(0, 1), got[1]
    assert_close(got, expected)
    learning = [input, *layer.parameters(), *(each for pair in to or () for each in pair)]
    of_got, of_expected = (
        torch.autograd.grad(sum(each.square().sum() for each in tree_leaves(found)), learning)
        for found in (got, expected)
    )
    assert_close(of_got, of_expected)


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"bidirectional": True}], ids=str)
def test_lengths_are_those_of_a_packed_sequence(options: dict):
    layer, lengths = peephole_lstm(**options), [6, 1, 3, 5]
    padded = torch.randn(STEPS, BATCH, CIN, requires_grad=True)
    packed = pack_padded_sequence(padded, torch.tensor(lengths), enforce_sorted=False)
    output, state, cells = layer(padded, lengths=lengths, return_cells=True)
    of_packed, state_of_packed, cells_of_packed = layer(packed, return_cells=True)
    unpacked, _ = pad_packed_sequence(of_packed, total_length=STEPS)
    assert_close((output, state), (unpacked, state_of_packed))
    past = torch.arange(STEPS)[:, None] >= torch.tensor(lengths)
    unpacked_cells, _ = pad_packed_sequence(cells_of_packed, total_length=STEPS)
    assert_close(cells.masked_fill(past[..., None], 0), unpacked_cells)
    assert_close(
        gradients(layer, output.square().sum() + state[-1].c.sum()),
        gradients(layer, of_packed.data.square().sum() + state_of_packed[-1].c.sum()),
    )
    assert_close(layer(padded, lengths=lengths, returns="last"), layer(packed, returns="last"))


def test_lengths_are_those_of_nn_lstm():
    theirs = nn.LSTM(CIN, 4)
    ours = PeepholeLSTM(CIN, 4, peephole=False)
    with torch.no_grad():
        ours.layers[0].weight.copy_(torch.cat([theirs.weight_ih_l0, theirs.weight_hh_l0], 1))
        ours.layers[0].bias.copy_(theirs.bias_ih_l0 + theirs.bias_hh_l0)
    input, lengths = torch.randn(STEPS, BATCH, CIN), torch.tensor([4, 6, 1, 3])
    packed, (h, c) = theirs(pack_padded_sequence(input, lengths, enforce_sorted=False))
    output, state = ours(input, lengths=lengths)
    assert_close((output, *state[0]), (pad_packed_sequence(packed)[0], h[0], c[0]))


def test_a_reset_of_a_reversed_layer_is_before_the_step_in_the_order_of_the_steps():
    layer, input = conv_lstm(reverse=True), frames(STEPS, BATCH)
    reset, hold = masks()
    output, state = layer(input, reset=reset, hold=hold)
    forward = conv_lstm()
    forward.load_state_dict(layer.state_dict())
    expected, state_of_flipped = forward(input.flip(0), reset=reset.flip(0), hold=hold.flip(0))
    assert_close((output, state), (expected.flip(0), state_of_flipped))


def test_a_sample_without_a_batch():
    layer, input = conv_lstm(), frames(STEPS, 1)
    reset, hold = (mask[:, :1] for mask in masks())
    to = reset_state(layer)
    output, state = layer(input, reset=reset, hold=hold, reset_state=to)
    alone = [tuple(each[0] for each in pair) for pair in to]
    assert_close(
        layer(input[:, 0], reset=reset[:, 0], hold=hold[:, 0], reset_state=alone),
        (output[:, 0], [(h[0], c[0]) for h, c in state]),
    )


@pytest.mark.parametrize("backend", ["aten", "torch"])
def test_the_functional_form(backend: str):
    cell, input = conv_lstm().layers[0], frames(STEPS, BATCH)
    reset, hold = masks()
    to = torch.randn(1, 4, H, W), torch.randn(1, 4, H, W)
    given = {"lengths": torch.tensor(LENGTHS), "reset": reset, "hold": hold, "reset_state": to}
    got = functional.conv_lstm(input, None, cell.weight, cell.bias, cell.peephole, backend=backend, **given)
    layer = ConvLSTM2d(CIN, 4, 3)
    layer.layers[0].load_state_dict(cell.state_dict())
    assert_close(got, one_by_one(layer, input, LENGTHS, reset, hold, [to]))


def test_what_lies_past_a_length_or_under_a_hold_has_no_effect():
    layer, input = conv_lstm(), frames(STEPS, BATCH)
    _, hold = masks()
    output, state = layer(input, lengths=LENGTHS, hold=hold)
    changed = input.clone()
    changed[hold] = 1e4
    changed[torch.arange(STEPS)[:, None] >= torch.tensor(LENGTHS)] = -9999.0
    again, state_again = layer(changed, lengths=LENGTHS, hold=hold)
    assert torch.equal(output, again)
    for one, other in zip(tree_leaves(state), tree_leaves(state_again), strict=True):
        assert torch.equal(one, other)


def test_masks_that_mark_nothing_leave_the_bits_as_they_are():
    layer, input = conv_lstm(), frames(STEPS, BATCH)
    nothing = torch.zeros(STEPS, BATCH, dtype=torch.bool)
    marked = layer(input, lengths=[STEPS] * BATCH, reset=nothing, hold=nothing)
    for one, other in zip(tree_leaves(layer(input)), tree_leaves(marked), strict=True):
        assert torch.equal(one, other)


def test_the_kernels_have_the_numbers_of_the_marks():
    pytest.importorskip("triton")
    from tritonlstm.kernels import marks as of_kernels

    for name in ("RESET", "HOLD", "BLANK", "RESET_NEXT"):
        assert getattr(of_kernels, name).value == getattr(marks, name)


def test_a_compiled_layer_takes_any_masks_in_one_graph():
    layer, input = conv_lstm(), frames(STEPS, BATCH)
    to = reset_state(layer)

    def run(lengths: Tensor, reset: Tensor, hold: Tensor) -> tuple:
        return layer(input, lengths=lengths, reset=reset, hold=hold, reset_state=to)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for seed, lengths in ((0, LENGTHS), (1, LENGTHS[::-1])):
        given = torch.tensor(lengths), *masks(seed)
        assert_close(compiled(*given), run(*given))
        learning = [*layer.parameters(), *(each for pair in to for each in pair)]
        assert_close(*(torch.autograd.grad(each(*given)[0].sum(), learning) for each in (compiled, run)))


def test_a_reset_state_of_the_whole_batch():
    layer, input = conv_lstm(), frames(STEPS, BATCH)
    reset, _ = masks()
    to = reset_state(layer)
    whole = [tuple(each.expand(BATCH, -1, -1, -1) for each in pair) for pair in to]
    assert_close(layer(input, reset=reset, reset_state=whole), layer(input, reset=reset, reset_state=to))


def test_gradients_of_each_sample_under_vmap():
    layer, input = peephole_lstm(), torch.randn(STEPS, BATCH, CIN)
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(parameters: dict, input: Tensor, length: Tensor, reset: Tensor, hold: Tensor) -> Tensor:
        given = {"lengths": length[None], "reset": reset[:, None], "hold": hold[:, None]}
        output, _ = torch.func.functional_call(layer, parameters, (input[:, None],), given)
        return output.square().sum()

    given = input, torch.tensor(LENGTHS), *masks()
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1, 0, 1, 1))(parameters, *given)
    for sample in range(BATCH):
        mine = input[:, sample], given[1][sample], *(mask[:, sample] for mask in given[2:])
        assert_close({name: each[sample] for name, each in found.items()}, torch.func.grad(loss)(parameters, *mine))


def test_lengths_without_values_to_check():
    layer, input = peephole_lstm(), torch.randn(STEPS, BATCH, CIN)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        output, _ = layer(mode.from_tensor(input), lengths=mode.from_tensor(torch.tensor(LENGTHS)))
    assert output.shape == (STEPS, BATCH, 3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(compiled(input, lengths=torch.tensor([9, -1, 3, 6])), layer(input, lengths=[6, 0, 3, 6]))


def test_under_autocast():
    layer, plain = conv_lstm(), conv_lstm(backend="torch")
    plain.load_state_dict(layer.state_dict())
    reset, hold = masks()
    call = {"lengths": LENGTHS, "reset": reset, "hold": hold, "reset_state": reset_state(layer)}
    input = frames(STEPS, BATCH)
    with torch.autocast("cpu", torch.bfloat16):
        (output, state), (expected, expected_state) = layer(input, **call), plain(input, **call)
    assert output.dtype == torch.bfloat16 and state[0].c.dtype == torch.float32
    torch.testing.assert_close(output, expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(state[1].c, expected_state[1].c, rtol=0.02, atol=0.02)


def test_an_exported_program_takes_masks_as_inputs():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = conv_lstm()

        def forward(self, input: Tensor, lengths: Tensor, reset: Tensor) -> Tensor:
            return self.layer(input, lengths=lengths, reset=reset)[0]

    model, input = Model(), frames(STEPS, BATCH)
    program = torch.export.export(model, (input, torch.tensor(LENGTHS), masks()[0])).module()
    given = input, torch.tensor(LENGTHS[::-1]), masks(1)[0]
    assert_close(program(*given), model(*given))
