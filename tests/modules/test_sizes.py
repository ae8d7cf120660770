"""Sizes from configuration files: any sequence is accepted where it has one meaning, and refused where it has two."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tritonlstm import ConvLSTM2d, ConvLSTM2dCell, PeepholeLSTM, PeepholeLSTMCell, functional
from tritonlstm.models import EncoderForecaster


class Config(Sequence):
    """A sequence that is neither a list nor a tuple, as OmegaConf's ListConfig."""

    def __init__(self, *values: object):
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> object:
        return self.values[index]


def kernels(*args: object, **options: object) -> list[tuple[int, int]]:
    """The kernel sizes of the layers, from the weights themselves."""
    return [tuple(cell.weight.shape[2:]) for cell in ConvLSTM2d(*args, **options).layers]


ONE_MEANING = {
    "tuple": (((5, 3),), {}, [(5, 3)]),
    "size of a weight": ((torch.Size((5, 3)),), {}, [(5, 3)]),
    "tuple, two layers": (((5, 3), 2), {}, [(5, 3)] * 2),
    "tuple, three layers": (((5, 3), 3), {}, [(5, 3)] * 3),
    "tuple beside two widths": (((5, 3),), {"hidden_channels": (2, 3)}, [(5, 3)] * 2),
    "list, one layer": (([5, 3], 1), {}, [(5, 3)]),
    "list beside one width": (([5, 3],), {"hidden_channels": [2]}, [(5, 3)]),
    "list, two layers": (([5, 3], 2), {}, [(5, 5), (3, 3)]),
    "list beside two widths": (([5, 3],), {"hidden_channels": [2, 3]}, [(5, 5), (3, 3)]),
    "list beside two input kernels": (([5, 3],), {"input_kernel_size": [(1, 1), (3, 3)]}, [(5, 5), (3, 3)]),
    "equal sizes, two layers": (([3, 3], 2), {}, [(3, 3)] * 2),
    "equal sizes, three layers": (([3, 3], 3), {}, [(3, 3)] * 3),
    "list of one": (([3],), {}, [(3, 3)]),
    "list of three": (([5, 3, 1],), {}, [(5, 5), (3, 3), (1, 1)]),
    "list of pairs": (([[3, 3], [5, 1]],), {}, [(3, 3), (5, 1)]),
    "list of one pair": (([[5, 3]],), {}, [(5, 3)]),
    "tuple of lists": ((([5, 3], [1, 1]),), {}, [(5, 3), (1, 1)]),
    "list of both": (([(5, 3), 1],), {}, [(5, 3), (1, 1)]),
    "tuple of three, three layers": (((5, 3, 1), 3), {}, [(5, 5), (3, 3), (1, 1)]),
    "ListConfig": ((Config(Config(5, 3), 1),), {}, [(5, 3), (1, 1)]),
    "ListConfig, one layer": ((Config(5, 3), 1), {}, [(5, 3)]),
    "NumPy's integers": (((np.int64(5), np.int32(3)), np.int64(2)), {}, [(5, 3)] * 2),
}


@pytest.mark.parametrize(("args", "options", "wanted"), ONE_MEANING.values(), ids=ONE_MEANING.keys())
def test_a_kernel_size_with_one_meaning(args: tuple, options: dict, wanted: list):
    options = {"hidden_channels": 2, **options}
    kernel_size, *rest = args
    found = kernels(1, options.pop("hidden_channels"), kernel_size, *rest, **options)
    assert found == wanted
    assert all(type(size) is int for kernel in found for size in kernel)


@pytest.mark.parametrize("sizes", [[5, 3], [3, 3], Config(5, 3)], ids=["unequal", "equal", "ListConfig"])
@pytest.mark.parametrize("name", ["kernel_size", "input_kernel_size"])
def test_a_list_of_two_sizes_is_refused_where_nothing_tells_the_number_of_layers(name: str, sizes: Sequence):
    first, second = sizes
    with pytest.raises(ValueError, match=f"^{name}: expected") as raised:
        ConvLSTM2d(1, 16, **{"kernel_size": 3, name: sizes})
    message = str(raised.value)
    assert f"one layer with a kernel of {first}×{second}" in message
    assert f"two layers with kernels of {first}×{first} and {second}×{second}" in message


@pytest.mark.parametrize("written", ["[[5, 3]]", "[[5, 5], [3, 3]]"])
def test_what_the_refusal_says_to_write_has_that_meaning(written: str):
    with pytest.raises(ValueError, match="kernel_size") as raised:
        ConvLSTM2d(1, 4, [5, 3])
    assert written in str(raised.value)
    assert kernels(1, 4, json.loads(written)) == [tuple(size) for size in json.loads(written)]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_what_went_through_json_is_the_same_layers_or_refused(layers: int):
    """Kernels by layer, and equal ones, survive; a pair of unequal sizes does not become other kernels unseen."""
    for kernel_size in (3, (3, 3), [(5, 3)] * layers, [5, 3, 1][:layers]):
        if kernel_size == [5, 3]:
            continue  # is one size per layer before and after
        through = json.loads(json.dumps(kernel_size))
        assert kernels(1, 4, through, layers) == kernels(1, 4, kernel_size, layers)
    with pytest.raises(ValueError, match=r"kernel_size: expected one value or 3.*tuple of two integers is a pair"):
        kernels(1, 4, [5, 3], 3)


@pytest.mark.parametrize("widths", [(3, 2), [3, 2], torch.Size((3, 2)), Config(3, 2), [np.int64(3), np.int32(2)]])
def test_widths_are_any_sequence(widths: Sequence):
    for layer in (ConvLSTM2d(1, widths, 3), PeepholeLSTM(1, widths)):
        assert [cell.weight.shape[0] // 4 for cell in layer.layers] == [3, 2]
        assert "[3, 2]" in layer.extra_repr()
    assert [cell.hidden_channels for cell in EncoderForecaster(1, widths, 3).encoder.layers] == [3, 2]


@pytest.mark.parametrize("size", [(5, 3), [5, 3], torch.Size((5, 3)), Config(5, 3), (np.int64(5), 3)])
def test_a_pair_of_one_layer_is_any_sequence(size: Sequence):
    """A cell, the size of an image and the one layer of a model have nothing else for a list of two to mean."""
    assert ConvLSTM2dCell(1, 2, size).weight.shape[2:] == (5, 3)
    assert ConvLSTM2dCell(1, 2, 1, input_kernel_size=size).input_weight.shape[2:] == (5, 3)
    assert ConvLSTM2d(1, 2, 3, peephole="full", spatial_size=size).layers[0].peephole.shape[2:] == (5, 3)
    model = EncoderForecaster(1, [2], size, input_kernel_size=size)
    assert model.encoder.layers[0].weight.shape[2:] == (5, 3)


def test_a_model_has_one_kernel_for_all_layers():
    for kernel_size in (3, (3, 3), [3, 3], [[3, 3], [3, 3]]):
        model = EncoderForecaster(1, (2, 2), kernel_size)
        assert {tuple(weight.shape[2:]) for name, weight in model.named_parameters() if name.endswith(".weight")} == {
            (3, 3),
            (1, 1),  # of the head
        }


def test_numbers_of_numpy_are_those_of_python():
    frames = torch.randn(2, 1, 3, 4, 4)
    yes, no = np.bool_(True), np.bool_(False)
    layer = ConvLSTM2d(np.int64(3), np.int64(2), 3, np.int64(1), bias=yes, batch_first=no, forget_bias=np.float32(0.5))
    assert (layer.batch_first, layer.layers[0].forget_bias) == (False, 0.5)
    assert (layer.layers[0].bias[2:4] == 0.5).all()
    layer(frames, steps=np.int64(2))
    assert ConvLSTM2d(3, 2, 3, bias=no).layers[0].bias is None
    assert PeepholeLSTMCell(np.int8(3), np.int8(2), peephole=no).peephole is None
    assert EncoderForecaster(np.int64(3), [2], 3, np.int64(1))(frames, np.int64(3)).shape == (3, 1, 1, 4, 4)


@pytest.mark.parametrize("text", [np.str_("relu"), type("Activation", (str,), {"__repr__": object.__repr__})("relu")])
def test_an_option_may_be_any_string(text: str):
    layer, plain = ConvLSTM2d(1, 2, 3, activation=text), ConvLSTM2d(1, 2, 3, activation="relu")
    plain.load_state_dict(layer.state_dict())
    frames = torch.randn(2, 1, 1, 4, 4)
    assert layer.layers[0].spec == plain.layers[0].spec
    assert torch.equal(layer(frames)[0], plain(frames)[0])
    weight = torch.randn(8, 3, 3, 3)
    output, _ = functional.conv_lstm(frames, None, weight, activation=text)
    assert torch.equal(output, functional.conv_lstm(frames, None, weight, activation="relu")[0])


def test_the_repr_shows_what_was_understood():
    text = repr(ConvLSTM2d(1, 2, ([5, 3], 1), input_kernel_size=[1, None]))
    assert "1, [2, 2], kernel_size=[(5, 3), (1, 1)], input_kernel_size=[(1, 1), None]" in text
    assert "ConvLSTM2dCell(1, 2, kernel_size=(5, 3), input_kernel_size=(1, 1)" in text
    assert "3, [4, 5], batch_first=True" in repr(PeepholeLSTM(3, (4, 5), batch_first=True))
