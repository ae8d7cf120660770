"""The projected LSTM against its equations in float64 and against nn.LSTM."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils._pytree import tree_leaves

from tests.support.layers import step_by_step, with_peepholes
from tests.support.problems import MODES, PATHS
from tests.support.tolerances import FLOOR
from tritonlstm import PeepholeLSTM, PeepholeLSTMCell, functional, reference

T, B, CIN, C, P = 5, 3, 2, 5, 3


def by_equations(layer: PeepholeLSTM, input: Tensor, state: list) -> tuple[Tensor, list]:
    """One layer after another, each a loop of the reference's gates and two products."""
    sequence, states = input, []
    for index, cell in enumerate(layer.layers):
        (h, c), output = state[index], []
        for x in sequence:
            preact = F.linear(torch.cat([x, h], 1), cell.weight, cell.bias)
            m, c, _ = reference.gates(preact, c, cell.peephole)
            h = F.linear(m, cell.projection)
            output.append(h)
        sequence = torch.stack(output)
        states.append((h, c))
    return sequence, states


def random_state(dtype: torch.dtype = torch.float32, layers: int = 2) -> list:
    return [(torch.randn(B, P, dtype=dtype), torch.randn(B, C, dtype=dtype)) for _ in range(layers)]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("with_state", [False, True])
def test_it_follows_the_equations_in_every_gradient(with_state: bool, mode: dict):
    layer = with_peepholes(PeepholeLSTM(CIN, C, 2, proj_size=P, dtype=torch.float64, **mode))
    input, state = torch.randn(T, B, CIN, dtype=torch.float64, requires_grad=True), random_state(torch.float64)
    state = [tuple(each.requires_grad_() for each in pair) for pair in state]
    zeros = [tuple(torch.zeros_like(each) for each in pair) for pair in state]
    leaves = [input, *layer.parameters(), *(tree_leaves(state) if with_state else [])]
    results = []
    for output, states in (
        layer(input, state if with_state else None),
        by_equations(layer, input, state if with_state else zeros),
    ):
        loss = output.square().sum() + sum((h * 2).sum() + c.square().sum() for h, c in states)
        results.append([output, *tree_leaves(states), *torch.autograd.grad(loss, leaves)])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision_is_near(path: str, dtype: torch.dtype):
    layer = with_peepholes(PeepholeLSTM(CIN, C, 2, proj_size=P, dtype=dtype, **PATHS[path]))
    input, state = torch.randn(T, B, CIN, dtype=dtype), random_state()
    state = [(h.to(dtype), c) for h, c in state]
    output, states = layer(input, state)
    assert [(h.dtype, c.dtype) for h, c in states] == [(dtype, torch.float32)] * 2
    wide = PeepholeLSTM(CIN, C, 2, proj_size=P, dtype=torch.float64)
    wide.load_state_dict(layer.state_dict())
    expected, _ = by_equations(wide, input.double(), [(h.double(), c.double()) for h, c in state])
    # One rounding of each of W_h W_r, M and H, at each step that it goes through.
    assert (output - expected).abs().max() <= 3 * T * FLOOR[dtype] * expected.abs().max()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_without_peepholes_it_is_nn_lstm(with_state: bool, bidirectional: bool):
    theirs = nn.LSTM(CIN, C, 2, proj_size=P, bidirectional=bidirectional)
    ours = PeepholeLSTM(CIN, C, 2, proj_size=P, bidirectional=bidirectional, peephole=False)
    directions = [(ours.layers, ""), (ours.reverse_layers, "_reverse")][: 1 + bidirectional]
    with torch.no_grad():
        for cells, suffix in directions:
            for index, cell in enumerate(cells):
                of = {name: getattr(theirs, f"{name}_l{index}{suffix}") for name in ("weight_ih", "weight_hh")}
                cell.weight.copy_(torch.cat(list(of.values()), 1))
                cell.bias.copy_(sum(getattr(theirs, f"bias_{part}_l{index}{suffix}") for part in ("ih", "hh")))
                cell.projection.copy_(getattr(theirs, f"weight_hr_l{index}{suffix}"))
    count = 2 * len(directions)
    leaves = [torch.randn(T, B, CIN), torch.randn(count, B, P), torch.randn(count, B, C)]
    input, h0, c0 = (leaf.requires_grad_() for leaf in leaves)
    learning = leaves if with_state else leaves[:1]
    output, state = ours(input, list(zip(h0, c0)) if with_state else None)
    h_n, c_n = map(torch.stack, zip(*state))
    got = [output, h_n, c_n, *torch.autograd.grad(output.square().sum() + (c_n**2).sum() + h_n.sum(), learning)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of oneDNN, which has no projections
        output, (h_n, c_n) = theirs(input, (h0, c0) if with_state else None)
    expected = [output, h_n, c_n, *torch.autograd.grad(output.square().sum() + (c_n**2).sum() + h_n.sum(), learning)]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    packed = pack_sequence([torch.randn(n, CIN) for n in (4, 2, 2)])
    torch.testing.assert_close(ours(packed)[0].data, theirs(packed)[0].data, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_steps_and_what_calls_return(reverse: bool, with_state: bool):
    layer = with_peepholes(PeepholeLSTM(CIN, C, 2, proj_size=P, reverse=reverse))
    input, state = torch.randn(T, B, CIN), random_state() if with_state else None
    outputs, states, cells = layer(input, state, returns="layers", return_cells=True)
    in_order = input.flip(0) if reverse else input
    carried, stepped = state, []
    for frame in in_order:
        one, carried = layer.step(frame, carried)
        stepped.append(one)
    torch.testing.assert_close(torch.stack(stepped), outputs[1].flip(0) if reverse else outputs[1])
    torch.testing.assert_close(tree_leaves(carried), tree_leaves(states))
    last = 0 if reverse else -1
    torch.testing.assert_close([each[last] for each in cells], [pair.c for pair in states])
    torch.testing.assert_close(layer(input, state, returns="last")[0], states[1].h)
    for returns in ("sequence", "last", "layers"):
        one = layer(in_order[:1], state, returns=returns)
        torch.testing.assert_close(tree_leaves(one[1]), tree_leaves(layer.step(in_order[0], state)[1]))
    torch.testing.assert_close(layer.step(input[0, 0])[0], layer.step(input[0])[0][0])


def test_parameters_and_what_is_written_to():
    layer = PeepholeLSTM(CIN, C, 2, proj_size=P, bidirectional=True)
    shapes = {name: tuple(each.shape) for name, each in layer.layers[1].named_parameters()}
    assert shapes == {"weight": (4 * C, 3 * P), "bias": (4 * C,), "peephole": (3, C), "projection": (P, C)}
    assert "proj_size=3" in repr(layer)
    assert "proj_size" not in repr(PeepholeLSTM(CIN, C))
    big = PeepholeLSTMCell(1, 4000, proj_size=100)
    assert big.projection.var().item() == pytest.approx(1 / 4000, rel=0.05)
    input = torch.randn(T, B, CIN)

    def loss(inplace: bool) -> Tensor:
        return sum((x.mul_(2) if inplace else x * 2).square().sum() for x in tree_leaves(layer(input)))

    got, expected = (torch.autograd.grad(loss(inplace), list(layer.parameters())) for inplace in (True, False))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("with_state", [False, True])
def test_compiled_exported_and_under_autocast(fresh_compiler, with_state: bool):
    layer = with_peepholes(PeepholeLSTM(CIN, C, 2, proj_size=P, bidirectional=True))
    input = torch.randn(T, B, CIN)
    state = [(torch.randn(B, P), torch.randn(B, C)) for _ in range(4)] if with_state else None
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected = layer(input, state)
    torch.testing.assert_close(tree_leaves(compiled(input, state)), tree_leaves(expected))
    program = torch.export.export(layer, (input, state)).module()
    torch.testing.assert_close(tree_leaves(program(input, state)), tree_leaves(expected))
    with torch.autocast("cpu", torch.bfloat16):
        output, states = layer(input, state)
        stepped = step_by_step(PeepholeLSTM(CIN, C, proj_size=P), input)[0]
    assert output.dtype == stepped.dtype == torch.bfloat16
    assert all((h.dtype, c.dtype) == (torch.bfloat16, torch.float32) for h, c in states)
    output.float().sum().backward()
    assert all(each.grad.dtype == torch.float32 for each in layer.parameters())


def test_the_functional_form_and_a_layer_without_input():
    cell, input = PeepholeLSTMCell(CIN, C, proj_size=P), torch.randn(T, B, CIN)
    got = functional.peephole_lstm(input, None, cell.weight, cell.bias, cell.peephole, projection=cell.projection)
    torch.testing.assert_close(tree_leaves(got), tree_leaves(cell(input, None, T)))
    layer, state = PeepholeLSTM(0, C, proj_size=P), random_state(layers=1)
    output, carried = layer(None, state, steps=3)
    for index in range(3):
        one, state = layer.step(None, state)
        torch.testing.assert_close(one, output[index])
    torch.testing.assert_close(tree_leaves(state), tree_leaves(carried))
