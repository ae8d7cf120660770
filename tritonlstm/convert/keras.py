"""What Keras says of its layers: their configuration, and where their weights are in its files."""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

from ..core import checks
from . import hdf5

WEIGHTS = ("kernel", "recurrent_kernel", "bias")
_ACTIVATIONS = {
    "activation": {"tanh": "tanh", "relu": "relu", "linear": "identity"},
    "recurrent_activation": {"sigmoid": "sigmoid", "hard_sigmoid": "hard_sigmoid"},
}
"""Ours by Keras's name."""
_CONV = re.compile(r"ConvLSTM[123]D")
_MOST_TEXT = 2**26


class KerasLayer(NamedTuple):
    """A recurrent layer of a saved model."""

    name: str  # with the names of the models around it, "encoder/conv_lstm2d"
    kind: str  # "ConvLSTM2D"
    config: Mapping[str, object]
    group: str  # of its weights in the file


def layer_of(kind: str, config: Mapping[str, object], version: str) -> tuple[str, dict[str, object]]:
    """The source of a Keras layer's weights, and the options with which ours computes what it does.

    Args:
        kind: the layer's class, "ConvLSTM2D", "LSTM", or "Bidirectional" of one of them.
        version: of Keras, "3.5.0"; its hard_sigmoid is another one before 3.

    Raises:
        ValueError: for a configuration that cannot be represented.
    """
    if kind != "Bidirectional":
        if config.get("go_backwards"):
            raise ValueError("go_backwards: expected False, got True; flip the input along time instead")
        return "keras", _options_of(kind, config, version)
    merge_mode = config.get("merge_mode")
    if merge_mode != "concat":
        raise ValueError(f"merge_mode: expected 'concat', which joins the directions, got {checks.show(merge_mode)}")
    inner = [config.get(name) for name in ("layer", "backward_layer")]
    inner[1] = inner[1] or inner[0]  # of Keras 2, where the second direction is a copy of the first
    if not all(isinstance(each, Mapping) and isinstance(each.get("config"), Mapping) for each in inner):
        raise ValueError("layer: expected the configuration of a layer in that of Bidirectional, got none")
    if inner[0]["config"].get("go_backwards"):
        raise ValueError("go_backwards: expected False of the first direction, got True")
    if any(each["config"].get("data_format") == "channels_first" for each in inner):
        raise ValueError("data_format: expected 'channels_last', got 'channels_first', of which the widths are joined")
    forward, backward = (_options_of(str(each.get("class_name")), each["config"], version) for each in inner)
    if forward != backward:
        raise ValueError(f"layer: expected the same options in both directions, got {forward} and {backward}")
    return "keras.Bidirectional", forward


def _options_of(kind: str, config: Mapping[str, object], version: str) -> dict[str, object]:
    """Our layer's options for one direction."""
    if not (_CONV.fullmatch(kind) or kind == "LSTM"):
        raise ValueError(f"source: expected a ConvLSTM1D, ConvLSTM2D, ConvLSTM3D or LSTM of Keras, got {kind}")
    options: dict[str, object] = {
        "padding": config.get("padding", "same")
        if any(size != 1 for size in _sizes(config, "kernel_size"))
        else "same",
        "activation": _activation(config, "activation", version),
        "recurrent_activation": _activation(config, "recurrent_activation", version),
    }
    if any(size != 1 for size in _sizes(config, "strides")):
        raise ValueError(f"strides: expected 1, got {config['strides']}; the layer has no others")
    if any(size != 1 for size in _sizes(config, "dilation_rate")):
        raise ValueError(
            f"dilation_rate: expected 1, got {config['dilation_rate']}; Keras dilates the input's convolution alone,"
            " and the layer that of the hidden state too"
        )
    dropouts = [name for name in ("dropout", "recurrent_dropout") if config.get(name)]
    if dropouts:
        warnings.warn(
            f"{' and '.join(dropouts)} of the Keras layer is left out, which training alone uses", stacklevel=5
        )
    return options


def _sizes(config: Mapping[str, object], name: str) -> list[object]:
    value = config.get(name, 1)
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _activation(config: Mapping[str, object], name: str, version: str) -> str:
    value, known = config.get(name), _ACTIVATIONS[name]
    if not isinstance(value, str) or value not in known:
        remark = ", whose slope below zero is 0.2 and here 0.01" if value == "leaky_relu" else ""
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, known))}, got {checks.show(value)}{remark}")
    return "hard_sigmoid_keras2" if value == "hard_sigmoid" and _is_before_3(version) else known[value]


def _is_before_3(version: str) -> bool:
    major = re.match(r"\d+", version)
    if not major:
        raise ValueError(f"keras_version: expected a version, got {checks.show(version)}")
    return int(major[0]) < 3


class KerasModel(NamedTuple):
    """A `.keras` file."""

    weights: dict[str, object]  # of all layers, by their place in the file
    layers: list[KerasLayer]
    version: str

    def layer(self, name: str) -> tuple[dict[str, object], str, dict[str, object]]:
        """The weights of a layer by name, their source, and our layer's options.

        Args:
            name: of the layer in the model, with those of models around it, "encoder/conv_lstm2d"; "" where there is
                one.
        """
        found = [layer for layer in self.layers if layer.name == name] if name else self.layers
        if len(found) != 1:
            names = ", ".join(repr(layer.name) for layer in self.layers) or "none"
            raise ValueError(f"prefix: expected the name of a recurrent layer of the model, {names}, got {name!r}")
        (layer,) = found
        tensors = {
            key.removeprefix(layer.group): value for key, value in self.weights.items() if key.startswith(layer.group)
        }
        return tensors, *layer_of(layer.kind, layer.config, self.version)


def read_model(file: BinaryIO) -> KerasModel:
    """A `.keras` file, of Keras 3."""
    with zipfile.ZipFile(file) as archive:
        version = _json(archive, "metadata.json").get("keras_version", "")
        layers = list(_recurrent_layers(_json(archive, "config.json"), "", ""))
        arrays = hdf5.read(io.BytesIO(_member(archive, "model.weights.h5")))
    return KerasModel(weights_by_name(arrays), layers, str(version))


def weights_by_name(arrays: Mapping[str, object]) -> dict[str, object]:
    """The arrays of a weights file, with those of recurrent cells under the names of their weights.

    "layers/conv_lstm2d/cell/vars/0" becomes "layers/conv_lstm2d/cell/kernel". In files of Keras 2,
    "conv_lstm2d/conv_lstm2d/kernel:0" becomes "conv_lstm2d/conv_lstm2d/kernel".
    """
    named = {}
    for key, value in arrays.items():
        match = re.fullmatch(r"(.*\bcell/)vars/([012])", key)
        named[match[1] + WEIGHTS[int(match[2])] if match else key.removesuffix(":0")] = value
    return named


def _recurrent_layers(model: Mapping, name: str, group: str) -> Iterator[KerasLayer]:
    """The recurrent layers of a model's configuration, those of models inside of it too.

    The groups of the layers are called by their classes and numbered, in the order of the layers.
    """
    config = model.get("config")
    layers = config.get("layers", []) if isinstance(config, dict) else []
    seen: dict[str, int] = {}
    for layer in layers:
        kind, own = layer.get("class_name"), layer.get("config")
        if not isinstance(kind, str) or not isinstance(own, dict):
            raise ValueError(f"config.json: expected layers with a class_name and a config, got {checks.show(layer)}")
        snake = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", kind)).lower()
        number = seen.get(snake, 0)
        seen[snake] = number + 1
        below = f"{group}layers/{snake}{f'_{number}' if number else ''}/"
        path = f"{name}{own.get('name')}"
        if "layers" in own:
            yield from _recurrent_layers(layer, f"{path}/", below)
        elif _CONV.fullmatch(kind) or kind in ("LSTM", "Bidirectional"):
            yield KerasLayer(path, kind, own, below if kind == "Bidirectional" else f"{below}cell/")


def _json(archive: zipfile.ZipFile, name: str) -> dict:
    value = json.loads(_member(archive, name, _MOST_TEXT))
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected an object, got {checks.show(value)}")
    return value


def _member(archive: zipfile.ZipFile, name: str, most: int | None = None) -> bytes:
    """A file of the archive. Keras stores it uncompressed, so that it cannot be larger than the archive."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or (most is not None and info.file_size > most):
        raise ValueError(f"{name}: expected a file as Keras stores it, got {info.file_size} bytes in compressed form")
    return archive.read(info)
