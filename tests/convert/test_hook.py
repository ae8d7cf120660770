"""`load_state_dict` of a model whose layer has been replaced."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from tests.support.foreign import CHANNELS, CIN, SOURCES
from tritonlstm import ConvLSTM2d, ConvLSTM2dCell, convert


class Model(nn.Module):
    """A model with a head that is called as the one of OpenSTL's is."""

    def __init__(self, **options: object):
        super().__init__()
        self.rnn = ConvLSTM2d(CIN, list(CHANNELS), 5, peephole="none", dtype=torch.float64, **options)
        self.conv_last = nn.Conv2d(CHANNELS[-1], 4, 1, bias=False, dtype=torch.float64)

    def forward(self, input: Tensor) -> Tensor:
        return self.conv_last(self.rnn(input)[0][-1])


def checkpoint(prefix: str = "") -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Of OpenSTL's model, an input, and what its layers make of it."""
    foreign = SOURCES["OpenSTL"]
    params, input = foreign.params(), foreign.input()
    return {prefix + key: value for key, value in params.items()}, input, foreign.run(params, input)[0]


def test_a_model_loads_the_other_checkpoint_and_its_own():
    tensors, input, hidden = checkpoint()
    model = Model(bias=False)
    handle = convert.hook(model, "OpenSTL")
    before = dict(tensors)
    assert model.load_state_dict(tensors) == ([], [])
    assert tensors.keys() == before.keys()
    expected = nn.functional.conv2d(hidden[-1], tensors["conv_last.weight"])
    torch.testing.assert_close(model(input), expected)

    again = Model(bias=False)
    convert.hook(again, "OpenSTL")
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(input), model(input))

    handle.remove()
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(tensors)


@pytest.mark.parametrize("copied", [False, True], ids=["itself", "copied"])
def test_a_layer_at_its_place(copied: bool):
    tensors, input, hidden = checkpoint("encoder.rnn.")
    head = tensors.pop("encoder.rnn.conv_last.weight")
    tensors["encoder.conv_last.weight"] = head
    model = nn.ModuleDict({"encoder": Model(bias=False)})
    convert.hook(model["encoder"].rnn, "OpenSTL")
    if copied:
        model = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    model.load_state_dict(tensors)
    torch.testing.assert_close(model["encoder"](input), nn.functional.conv2d(hidden[-1], head))


def test_a_layer_whose_name_has_changed():
    tensors, input, hidden = checkpoint("old.")
    head = tensors.pop("old.conv_last.weight")
    model = Model(bias=False)
    convert.hook(model, "OpenSTL", "old.")
    model.load_state_dict(tensors | {"conv_last.weight": head})
    torch.testing.assert_close(model(input), nn.functional.conv2d(hidden[-1], head))


def test_a_cell():
    foreign = SOURCES["e2vid"]
    one, other = foreign.params(torch.float32), foreign.params(torch.float32)
    model = nn.ModuleList(
        [ConvLSTM2dCell(CIN, 2, 3, peephole="none"), nn.ModuleDict({"rnn": ConvLSTM2dCell(CIN, 2, 3)})]
    )
    convert.hook(model[0], "e2vid")
    convert.hook(model[1], "e2vid", "old.", missing_peephole="zeros")
    model.load_state_dict(
        {f"0.{key}": value for key, value in one.items()} | {f"1.old.{key}": value for key, value in other.items()}
    )
    x, h, c = torch.randn(1, CIN, 5, 4), torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)
    for cell, params in ((model[0], one), (model[1]["rnn"], other)):
        torch.testing.assert_close(tuple(cell(x, (h, c))), foreign.step(params, 0, x, h, c))
    model.load_state_dict(model.state_dict())
    cell = ConvLSTM2dCell(CIN, 3, 3)
    convert.hook(cell, "ndrplz")
    with pytest.raises(ValueError, match="num_layers: expected one layer, which this Native has, got 2"):
        cell.load_state_dict(SOURCES["ndrplz"].params())


def test_strictness():
    tensors, _, _ = checkpoint()
    model = Model(bias=False)
    convert.hook(model, "OpenSTL")
    with pytest.raises(ValueError, match=r"^extra: expected only keys that OpenSTL has"):
        model.load_state_dict(tensors | {"extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="prefix: expected keys as cell_list"):
        model.load_state_dict({})
    other = Model(bias=True)
    convert.hook(other, "OpenSTL")
    with pytest.raises(RuntimeError, match=r"Missing key.*rnn.layers.0.bias"):
        other.load_state_dict(tensors)


@pytest.mark.parametrize("peephole", ["none", "channel", "full"])
def test_missing_peepholes_take_the_form_of_the_layer(peephole: str):
    foreign = SOURCES["Hzzone"]
    params = {key: value for key, value in foreign.params().items() if "Wc" not in key}
    size = {"spatial_size": (5, 4)} if peephole == "full" else {}
    layer = ConvLSTM2d(CIN, foreign.channels, 3, peephole=peephole, dtype=torch.float64, **size)
    convert.hook(layer, "Hzzone", missing_peephole="zeros")
    layer.load_state_dict(params)
    assert peephole == "none" or not layer.layers[0].peephole.any()
    assert torch.equal(layer.layers[0].bias.sum(), params["_conv.bias"].view(4, -1)[[0, 1, 2, 3]].sum())


def test_arguments():
    with pytest.raises(TypeError, match="module: expected a module, got dict"):
        convert.hook({}, "ndrplz")
    with pytest.raises(ValueError, match="got one with none"):
        convert.hook(nn.Linear(1, 1), "ndrplz")
    two = nn.ModuleDict({"a": ConvLSTM2d(1, 1, 3), "b": ConvLSTM2d(1, 1, 3)})
    with pytest.raises(ValueError, match="got one with a, b"):
        convert.hook(two, "ndrplz")
    with pytest.raises(ValueError, match="source: expected one of"):
        convert.hook(two["a"], "nothing")
    with pytest.raises(TypeError, match="prefix: expected a string, got 3"):
        convert.hook(two["a"], "ndrplz", 3)
