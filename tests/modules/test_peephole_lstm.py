"""PeepholeLSTM and its cell: nn.LSTM with the peepholes off, the paper's equations with them on."""

import pytest
import torch
from torch import Tensor, nn

from tests.support.layers import step_by_step
from tritonlstm import PeepholeLSTM, PeepholeLSTMCell

T, B, CIN, C = 6, 3, 5, 4


def pair_of_layers(layers: int, bias: bool = True) -> tuple[PeepholeLSTM, nn.LSTM]:
    """A PeepholeLSTM without peepholes, and nn.LSTM with the same weights."""
    theirs = nn.LSTM(CIN, C, layers, bias=bias)
    ours = PeepholeLSTM(CIN, C, layers, bias=bias, peephole=False)
    with torch.no_grad():
        for index, cell in enumerate(ours.layers):
            weights = [getattr(theirs, f"weight_{part}_l{index}") for part in ("ih", "hh")]
            cell.weight.copy_(torch.cat(weights, 1))
            if bias:
                cell.bias.copy_(getattr(theirs, f"bias_ih_l{index}") + getattr(theirs, f"bias_hh_l{index}"))
    return ours, theirs


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_without_peepholes_it_is_nn_lstm(layers: int, bias: bool):
    ours, theirs = pair_of_layers(layers, bias)
    leaves = [torch.randn(T, B, CIN), torch.randn(layers, B, C), torch.randn(layers, B, C)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    sequence, h0, c0 = leaves

    output, states = ours(sequence, list(zip(h0, c0, strict=True)))
    expected, (h_n, c_n) = theirs(sequence, (h0, c0))
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(torch.stack([h for h, _ in states]), h_n)
    torch.testing.assert_close(torch.stack([c for _, c in states]), c_n)

    def loss(output: Tensor, h: Tensor, c: Tensor) -> Tensor:
        return output.square().sum() + h.sum() + c.square().sum()

    got = torch.autograd.grad(
        loss(output, torch.stack([h for h, _ in states]), torch.stack([c for _, c in states])),
        [*leaves, *(cell.weight for cell in ours.layers), *(cell.bias for cell in ours.layers if bias)],
    )
    wanted = torch.autograd.grad(
        loss(expected, h_n, c_n),
        [
            *leaves,
            *(getattr(theirs, f"weight_{part}_l{i}") for i in range(layers) for part in ("ih", "hh")),
            *(getattr(theirs, f"bias_ih_l{i}") for i in range(layers) if bias),
        ],
    )
    joined = [torch.cat(wanted[3 + 2 * i : 5 + 2 * i], 1) for i in range(layers)]
    for one, other in zip(got, [*wanted[:3], *joined, *wanted[3 + 2 * layers :]], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_without_peepholes_the_cell_is_nn_lstm_cell():
    theirs = nn.LSTMCell(CIN, C)
    ours = PeepholeLSTMCell(CIN, C, peephole=False)
    with torch.no_grad():
        ours.weight.copy_(torch.cat([theirs.weight_ih, theirs.weight_hh], 1))
        ours.bias.copy_(theirs.bias_ih + theirs.bias_hh)
    x, h, c = torch.randn(B, CIN), torch.randn(B, C), torch.randn(B, C)
    torch.testing.assert_close(ours(x, (h, c)), theirs(x, (h, c)))
    torch.testing.assert_close(ours(x[0], (h[0], c[0])), theirs(x[0], (h[0], c[0])))
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("backend", ["auto", "triton", "torch"])
def test_with_peepholes_it_follows_the_equations(backend: str):
    layer = PeepholeLSTM(CIN, C, backend=backend)
    (cell,) = layer.layers
    nn.init.normal_(cell.peephole)
    sequence, h, c = torch.randn(T, B, CIN), torch.randn(B, C), torch.randn(B, C)
    output, ((h_n, c_n),) = layer(sequence, [(h, c)])
    w_ci, w_cf, w_co = cell.peephole
    for t in range(T):
        a_i, a_f, a_g, a_o = (torch.cat([sequence[t], h], 1) @ cell.weight.T + cell.bias).chunk(4, 1)
        i, f = torch.sigmoid(a_i + w_ci * c), torch.sigmoid(a_f + w_cf * c)
        c = f * c + i * torch.tanh(a_g)
        h = torch.sigmoid(a_o + w_co * c) * torch.tanh(c)
        torch.testing.assert_close(output[t], h, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((h_n, c_n), (h, c), rtol=1e-5, atol=1e-6)


def test_parameters_and_defaults():
    layer = PeepholeLSTM(CIN, [C, 7], forget_bias=2.0)
    assert {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()} == {
        "layers.0.weight": (4 * C, CIN + C),
        "layers.0.bias": (4 * C,),
        "layers.0.peephole": (3, C),
        "layers.1.weight": (28, C + 7),
        "layers.1.bias": (28,),
        "layers.1.peephole": (3, 7),
    }
    assert (layer.layers[1].bias[7:14] == 2).all()
    assert not layer.layers[1].peephole.any()
    assert (layer.layers[0].input_size, layer.layers[0].hidden_size) == (CIN, C)


def test_batch_first_unbatched_and_steps_agree():
    layer = PeepholeLSTM(CIN, [C, 2])
    for cell in layer.layers:
        nn.init.normal_(cell.peephole)
    sequence = torch.randn(T, B, CIN)
    output, _ = layer(sequence)
    torch.testing.assert_close(step_by_step(layer, sequence)[0], output)
    torch.testing.assert_close(layer(sequence[:, 0])[0], output[:, 0])
    layer.batch_first = True
    assert torch.equal(layer(sequence.transpose(0, 1))[0].transpose(0, 1), output)


def test_without_input_it_runs_on_its_state():
    layer = PeepholeLSTM(0, C)
    state = [(torch.randn(B, C), torch.randn(B, C))]
    output, _ = layer(None, state, steps=T)
    assert output.shape == (T, B, C)
    one, state = layer.step(None, state)
    torch.testing.assert_close(one, output[0])


def test_peepholes_learn():
    layer = PeepholeLSTM(CIN, C)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.randn(T, B, CIN))[0].square().sum().backward()
    optimizer.step()
    assert layer.layers[0].peephole.abs().min() > 0
