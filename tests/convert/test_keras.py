"""Configurations of Keras's layers: what they become here, and which are refused. Without Keras."""

import pytest

from tritonlstm.convert.keras import layer_of

CONV = {
    "kernel_size": [3, 3],
    "strides": [1, 1],
    "padding": "same",
    "dilation_rate": [1, 1],
    "data_format": "channels_last",
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "go_backwards": False,
}
OPTIONS = {"padding": "same", "activation": "tanh", "recurrent_activation": "sigmoid"}


def conv(**changes: object) -> dict[str, object]:
    return {"class_name": "ConvLSTM2D", "config": CONV | changes}


def both(forward: dict | None = None, backward: dict | None = None, **changes: object) -> dict[str, object]:
    layers = {"layer": forward or conv(), "backward_layer": backward or conv(go_backwards=True)}
    return {"merge_mode": "concat"} | layers | changes


@pytest.mark.parametrize("kind", ["ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"])
def test_a_convolutional_layer(kind: str):
    assert layer_of(kind, CONV, "3.5.0") == ("keras", OPTIONS)
    relu = CONV | {"activation": "linear", "recurrent_activation": "hard_sigmoid", "padding": "valid"}
    options = {"padding": "valid", "activation": "identity", "recurrent_activation": "hard_sigmoid"}
    assert layer_of(kind, relu, "3.5.0") == ("keras", options)
    assert layer_of(kind, relu, "2.14.0")[1]["recurrent_activation"] == "hard_sigmoid_keras2"


def test_padding_does_not_matter_where_one_pixel_is_read():
    assert layer_of("ConvLSTM2D", CONV | {"kernel_size": [1, 1], "padding": "valid"}, "3.5.0") == ("keras", OPTIONS)
    lstm = {"activation": "relu", "recurrent_activation": "sigmoid"}
    assert layer_of("LSTM", lstm, "3.5.0") == ("keras", OPTIONS | {"activation": "relu"})


@pytest.mark.parametrize("backward", [conv(go_backwards=True), None], ids=["its own", "a copy, as in Keras 2"])
def test_both_directions(backward: dict | None):
    assert layer_of("Bidirectional", both() | {"backward_layer": backward}, "3.5.0") == ("keras.Bidirectional", OPTIONS)


@pytest.mark.parametrize("is_inside", [False, True], ids=["alone", "in both directions"])
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"strides": [2, 2]}, r"strides: expected 1, got \[2, 2\]"),
        ({"dilation_rate": [2, 2]}, r"dilation_rate: expected 1, got \[2, 2\]; Keras dilates the input's convolution"),
        ({"go_backwards": True}, "go_backwards: expected False"),
        ({"activation": "softsign"}, "^activation: expected one of 'tanh', 'relu', 'linear', got 'softsign'$"),
        ({"activation": "leaky_relu"}, "got 'leaky_relu', whose slope below zero is 0.2 and here 0.01"),
        ({"activation": {"class_name": "Function"}}, "activation: expected one of .* got {'class_name'"),
        (
            {"recurrent_activation": "tanh"},
            "recurrent_activation: expected one of 'sigmoid', 'hard_sigmoid', got 'tanh'",
        ),
    ],
)
def test_what_cannot_be_represented(changes: dict[str, object], match: str, is_inside: bool):
    config = both(conv(**changes), conv(**{"go_backwards": True} | changes)) if is_inside else CONV | changes
    with pytest.raises(ValueError, match=match):
        layer_of("Bidirectional" if is_inside else "ConvLSTM2D", config, "3.5.0")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (both(merge_mode="sum"), "merge_mode: expected 'concat', which joins the directions, got 'sum'"),
        (both(merge_mode=None), "merge_mode: expected 'concat', which joins the directions, got None"),
        (both({"class_name": "GRU", "config": {}}), "a ConvLSTM1D, ConvLSTM2D, ConvLSTM3D or LSTM of Keras, got GRU"),
        (both(conv(data_format="channels_first")), "data_format: expected 'channels_last'"),
        (both(backward=conv(activation="relu", go_backwards=True)), "expected the same options in both directions"),
        ({"merge_mode": "concat"}, "layer: expected the configuration of a layer in that of Bidirectional, got none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_directions_that_cannot_be_represented(config: dict[str, object], match: str):
    with pytest.raises(ValueError, match=match):
        layer_of("Bidirectional", config, "3.5.0")


def test_other_layers_and_versions():
    with pytest.raises(ValueError, match="expected a ConvLSTM1D, ConvLSTM2D, ConvLSTM3D or LSTM of Keras, got Dense"):
        layer_of("Dense", {}, "3.5.0")
    with pytest.raises(ValueError, match="keras_version: expected a version, got ''"):
        layer_of("ConvLSTM2D", CONV | {"recurrent_activation": "hard_sigmoid"}, "")


@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
def test_dropout_is_left_out_with_a_warning(name: str):
    with pytest.warns(UserWarning, match=f"^{name} of the Keras layer is left out, which training alone uses"):
        assert layer_of("ConvLSTM2D", CONV | {name: 0.1}, "3.5.0") == ("keras", OPTIONS)
