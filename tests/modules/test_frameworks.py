"""The same numbers as Keras 3 and Flax, where they are installed: dimensions, directions, masks, hard gates."""

import importlib.util
import os

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.covering import Row, describe, pairwise
from tritonlstm import ConvLSTM1d, ConvLSTM2d, ConvLSTM3d, PeepholeLSTM

T, B, CIN, C, H, W = 4, 2, 3, 5, 6, 5


@pytest.fixture
def keras():
    if importlib.util.find_spec("keras") is None:
        pytest.skip("Keras is not installed (pip install '.[baselines]')")
    os.environ.setdefault("KERAS_BACKEND", "jax" if importlib.util.find_spec("jax") else "torch")
    return pytest.importorskip("keras", exc_type=ImportError)


def to_keras(cell: nn.Module) -> list[np.ndarray]:
    """kernel, recurrent_kernel and bias, whose gates are i, f, c, o as ours."""
    w_x, w_h = cell.weight.detach().split([cell.in_channels, cell.hidden_channels], 1)
    order = (*range(2, w_x.dim()), 1, 0)
    return [each.permute(order).numpy() for each in (w_x, w_h)] + [cell.bias.detach().numpy()]


def with_random_bias(layer: nn.Module) -> nn.Module:
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return layer


def from_keras(array: object, dims: int) -> Tensor:
    """(B, T, *spatial, C) or (B, *spatial, C) as ours with batch_first."""
    from keras import ops

    tensor = torch.from_numpy(np.array(ops.convert_to_numpy(array)))
    return tensor.movedim(-1, tensor.dim() - 1 - dims)


KERAS_ROWS = pairwise(
    {
        "dims": (0, 1, 2, 3),
        "direction": ("forward", "reverse", "both"),
        "recurrent_activation": ("sigmoid", "hard_sigmoid"),
        "masked": (False, True),
    }
)
OURS = (PeepholeLSTM, ConvLSTM1d, ConvLSTM2d, ConvLSTM3d)


@pytest.mark.parametrize("row", KERAS_ROWS, ids=describe)
def test_keras(keras, row: Row):
    """LSTM and ConvLSTM1D to 3D: both directions, masks, hard gates."""
    dims, direction = row["dims"], row["direction"]
    options = {"batch_first": True, "recurrent_activation": row["recurrent_activation"]}
    options |= {"forward": {}, "reverse": {"reverse": True}, "both": {"bidirectional": True}}[direction]
    kernel = (3, 5, 1)[:dims]
    ours = OURS[dims](CIN, C, *([kernel] if dims else []), peephole="none" if dims else False, **options)
    with_random_bias(ours)
    input = torch.randn(B, T, CIN, *(H, W, 2)[:dims])
    theirs_of = {"return_sequences": True, "return_state": True, "go_backwards": direction == "reverse"}
    theirs_of["recurrent_activation"] = row["recurrent_activation"]
    theirs_of["unroll"] = row["masked"]  # else Keras on JAX takes a mask's samples for columns of images
    if dims:
        theirs = getattr(keras.layers, f"ConvLSTM{dims}D")(C, kernel, padding="same", **theirs_of)
    else:
        theirs = keras.layers.LSTM(C, **theirs_of)
    if direction == "both":
        theirs = keras.layers.Bidirectional(theirs)
    given = input.movedim(2, -1).numpy()
    theirs(given)
    cells = [ours.layers[0], *([ours.reverse_layers[0]] if direction == "both" else [])]
    theirs.set_weights([each for cell in cells for each in to_keras(cell)])
    mask = torch.tensor([[True, False, True, True], [False, True, True, False]]) if row["masked"] else None
    sequence, *states = theirs(given, mask=None if mask is None else mask.numpy())
    expected = from_keras(sequence, dims)
    if direction == "reverse":
        expected = expected.flip(1)  # Keras' is in the order of the steps
    hold = None if mask is None else ~mask
    output, state = ours(input, hold=hold)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    for got, wanted in zip((each for pair in state for each in pair), states, strict=True):
        torch.testing.assert_close(got, from_keras(wanted, dims), rtol=1e-4, atol=1e-5)
    last, _ = ours(input, hold=hold, returns="last")
    torch.testing.assert_close(last, torch.cat([h for h, _ in state], 1))


@pytest.mark.parametrize("reverse", [False, True])
def test_flax(reverse: bool):
    """Its gates are i, g, f, o, and it adds 1 to the forget gate's bias when it runs."""
    for name in ("flax", "jax"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (pip install '.[baselines]')")
    from flax import linen

    ours, input = (
        with_random_bias(ConvLSTM2d(CIN, C, 3, peephole="none", reverse=reverse)),
        torch.randn(T, B, CIN, H, W),
    )
    theirs = linen.RNN(
        linen.ConvLSTMCell(C, (3, 3)), time_major=True, return_carry=True, reverse=reverse, keep_order=True
    )
    cell = ours.layers[0]

    def reordered(tensor: Tensor) -> Tensor:
        i, f, g, o = tensor.detach().chunk(4)
        return torch.cat([i, g, f, o])

    w_x, w_h = reordered(cell.weight).split([CIN, C], 1)
    i, f, g, o = cell.bias.detach().chunk(4)
    parameters = {
        "cell": {
            "ih": {"kernel": w_x.permute(2, 3, 1, 0).numpy(), "bias": torch.cat([i, g, f - 1, o]).numpy()},
            "hh": {"kernel": w_h.permute(2, 3, 1, 0).numpy(), "bias": np.zeros(4 * C, np.float32)},
        }
    }
    (c, h), sequence = theirs.apply({"params": parameters}, input.movedim(2, -1).numpy())
    output, (state,) = ours(input)
    expected = [torch.from_numpy(np.array(each)) for each in (sequence, h, c)]
    torch.testing.assert_close(output, expected[0].movedim(-1, 2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(list(state), [each.movedim(-1, 1) for each in expected[1:]], rtol=1e-4, atol=1e-5)
