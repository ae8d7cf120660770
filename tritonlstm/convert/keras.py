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

_WEIGHTS = ("kernel", "recurrent_kernel", "bias")
_CONV = re.compile(r"ConvLSTM[123]D")
_MOST_TEXT = 2**26


class KerasLayer(NamedTuple):
    """A recurrent layer of a saved model."""

    name: str  # with the names of the models around it, "encoder/conv_lstm2d"
    kind: str  # "ConvLSTM2D"
    config: Mapping[str, object]
    group: str  # of its weights in the file


def options_of(kind: str, config: Mapping[str, object], version: str) -> dict[str, object]:
    """The options with which our layer computes what a Keras layer of this configuration does.

    Args:
        kind: the layer's class, "ConvLSTM2D" or "LSTM".
        version: of Keras, "3.5.0"; its hard_sigmoid is another one before 3.

    Raises:
        ValueError: for a configuration that cannot be represented.
    """
    if not (_CONV.fullmatch(kind) or kind == "LSTM"):
        hint = "bidirectional layers are not supported, only " if kind == "Bidirectional" else ""
        raise ValueError(f"source: expected {hint}a ConvLSTM1D, ConvLSTM2D, ConvLSTM3D or LSTM of Keras, got {kind}")
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
        options["dilation"] = tuple(_sizes(config, "dilation_rate"))
    if config.get("go_backwards"):
        raise ValueError("go_backwards: expected False, got True; flip the input along time instead")
    dropouts = [name for name in ("dropout", "recurrent_dropout") if config.get(name)]
    if dropouts:
        warnings.warn(
            f"{' and '.join(dropouts)} of the Keras layer is left out, which training alone uses", stacklevel=4
        )
    return options


def _sizes(config: Mapping[str, object], name: str) -> list[object]:
    value = config.get(name, 1)
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _activation(config: Mapping[str, object], name: str, version: str) -> object:
    value = config.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected the name of an activation, got {checks.show(value)}")
    if value == "hard_sigmoid" and _is_before_3(version):
        return "hard_sigmoid_keras2"
    return {"linear": "identity"}.get(value, value)


def _is_before_3(version: str) -> bool:
    major = re.match(r"\d+", version)
    if not major:
        raise ValueError(f"keras_version: expected a version, got {checks.show(version)}")
    return int(major[0]) < 3


def read_model(file: BinaryIO, name: str) -> tuple[dict[str, object], dict[str, object]]:
    """The weights by name of a layer of a `.keras` file, and our layer's options.

    Args:
        name: of the layer in the model, with those of models around it, "encoder/conv_lstm2d"; "" where there is one.
    """
    with zipfile.ZipFile(file) as archive:
        version = _json(archive, "metadata.json").get("keras_version", "")
        layers = list(_recurrent_layers(_json(archive, "config.json"), "", ""))
        found = [layer for layer in layers if layer.name == name] if name else layers
        if len(found) != 1:
            names = ", ".join(repr(layer.name) for layer in layers) or "none"
            raise ValueError(f"prefix: expected the name of a recurrent layer of the model, {names}, got {name!r}")
        arrays = hdf5.read(io.BytesIO(_member(archive, "model.weights.h5")))
    layer = found[0]
    named = weights_by_name(arrays)
    tensors = {key.removeprefix(layer.group): value for key, value in named.items() if key.startswith(layer.group)}
    return tensors, options_of(layer.kind, layer.config, str(version))


def weights_by_name(arrays: Mapping[str, object]) -> dict[str, object]:
    """The arrays of a weights file, with those of recurrent cells under the names of their weights.

    "layers/conv_lstm2d/cell/vars/0" becomes "layers/conv_lstm2d/cell/kernel". In files of Keras 2,
    "conv_lstm2d/conv_lstm2d/kernel:0" becomes "conv_lstm2d/conv_lstm2d/kernel".
    """
    named = {}
    for key, value in arrays.items():
        match = re.fullmatch(r"(.*\bcell/)vars/([012])", key)
        named[match[1] + _WEIGHTS[int(match[2])] if match else key.removesuffix(":0")] = value
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
            yield KerasLayer(path, kind, own, f"{below}cell/")


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
