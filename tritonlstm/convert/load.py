"""Layers from files, and from live layers of Keras, Flax and PyTorch."""

import os
import sys
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from ..core import checks
from ..modules.stack import RecurrentStack
from . import files, keras
from .formats import Format
from .sources import SOURCES
from .state_dict import from_state_dict, named, prefixes, read
from .trees import flatten, to_tensor


def load(origin: object, source: str | Format | None = None, prefix: str = "", **options: object) -> RecurrentStack:
    """Build the layer that computes the same as one in a file, or as a live one, with its weights.

        layer = convert.load("theirs.pt", "ndrplz", prefix="state_dict.module.")
        layer = convert.load("model.keras", prefix="conv_lstm2d")
        layer = convert.load(torch.nn.LSTM(8, 16, num_layers=2))

    Args:
        origin: a path of a file of safetensors, PyTorch (read with `weights_only=True`), Keras or NumPy; or a live
            layer: of Keras; of Flax, bound to its variables, `cell.bind(variables)`; or any `torch.nn.Module`, with
            the source that its class is.
        source: as in `convert.rename`; None where the file or the layer tells it: Keras's, Flax's, nn.LSTM and
            nn.LSTMCell.
        prefix: with which the keys begin; for a `.keras` file the name of the layer in the model, "" where there is
            one.
        options: as in `convert.from_state_dict`. What a file or layer tells need not be given.

    Raises:
        OSError: where the file cannot be opened.
        ImportError: without the package that a file needs: safetensors, or h5py for Keras's.
        ValueError, TypeError: for a file that is damaged or something else, and as `convert.from_state_dict`.
    """
    if isinstance(origin, (str, os.PathLike)):
        contents = files.read(origin, prefix)
        prefix = "" if contents.is_one_layer else prefix
    elif isinstance(origin, RecurrentStack):
        raise TypeError("origin: expected a layer of other code, got one of this package")
    elif isinstance(origin, nn.Module) and not _is_of(origin, "keras", "tf_keras"):
        contents = _of_torch(origin)
    elif _is_of(origin, "keras", "tf_keras", "tensorflow"):
        contents = _of_keras(origin)
    elif _is_of(origin, "flax"):
        contents = _of_flax(origin)
    else:
        raise TypeError(f"origin: expected a path, or a layer of PyTorch, Keras or Flax, got {checks.describe(origin)}")
    source = contents.source if source is None else source
    if source is None:
        raise ValueError(f"source: expected a name or a description, got None; {_proposal(contents.values)}")
    return from_state_dict(contents.values, source, prefix, **{**contents.options, **options})


class Fit(NamedTuple):
    """A source whose keys and shapes are those of some tensors."""

    source: str
    prefix: str


def fits(values: Mapping[str, object]) -> list[Fit]:
    """The sources that could have written these tensors, by keys and shapes, each with its prefix.

    Some of them may have another gate order: shapes do not tell.
    """
    return [fit for fit, problem in tries(values) if problem is None]


def tries(values: Mapping[str, object]) -> Iterator[tuple[Fit, str | None]]:
    """The sources that have some of the keys, each with its prefix, and what does not fit; None if all does."""
    shapes = {}
    for key, value in flatten(values).items():
        try:
            tensor = to_tensor(key, value)
        except TypeError:
            tensor = value
        is_dense = checks.is_dense(tensor) and not tensor.is_quantized
        shapes[key] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") if is_dense else tensor
    keys = sorted(shapes)  # in which those of one prefix stand together
    for name, format in SOURCES.items():
        for prefix in prefixes(format, keys):
            start, end = (bisect_left(keys, each) for each in (prefix, prefix + chr(sys.maxunicode)))
            under = {key: shapes[key] for key in keys[start:end]}
            try:
                read(under, name, prefix, missing_peephole="zeros", dense=True)
            except (TypeError, ValueError) as error:
                yield Fit(name, prefix), str(error)
            else:
                yield Fit(name, prefix), None


def _proposal(values: Mapping[str, object]) -> str:
    found = fits(values)
    if not found:
        return "no source has these keys and shapes"
    listed = ", ".join(f"{fit.source!r}" + (f" with prefix {fit.prefix!r}" if fit.prefix else "") for fit in found[:12])
    return f"by keys and shapes it could be {listed}; they differ in gate order and equations, which no shape tells"


def _is_of(value: object, *packages: str) -> bool:
    """Whether one of the classes of a value is from one of these packages, which need not be imported."""
    return any(kind.__module__.partition(".")[0] in packages for kind in type(value).__mro__)


def _of_torch(module: nn.Module) -> files.Contents:
    if not isinstance(module, (nn.LSTM, nn.LSTMCell)):
        return files.Contents(dict(module.state_dict()))
    if isinstance(module, nn.LSTMCell):
        return files.Contents(dict(module.state_dict()), "nn.LSTMCell")
    if module.dropout:
        warnings.warn("dropout of nn.LSTM is left out, which training alone uses", stacklevel=3)
    return files.Contents(dict(module.state_dict()), "nn.LSTM", {"batch_first": module.batch_first})


def _of_keras(layer: object) -> files.Contents:
    kind = type(layer).__name__
    package = type(layer).__module__.partition(".")[0]
    if not hasattr(layer, "get_config") or not hasattr(layer, "get_weights"):
        raise TypeError(f"origin: expected a layer of Keras, got {checks.describe(layer)}")
    version = "2" if package in ("tf_keras", "tensorflow") else str(sys.modules[package].__version__)
    source, options = keras.layer_of(kind, layer.get_config(), version)
    weights: Sequence[object] = layer.get_weights()
    count = len(weights) // (2 if source == "keras.Bidirectional" else 1)
    if count not in (2, 3):
        raise ValueError(f"origin: expected a layer with its weights, got {len(weights)}; call or build it first")
    return files.Contents(named(SOURCES[source].order, weights), source, options)


def _of_flax(module: object) -> files.Contents:
    cell, path = module, ()
    if type(cell).__name__ == "RNN":
        if getattr(cell, "reverse", False):
            raise ValueError("reverse: expected False, got True; flip the input along time instead")
        cell, path = cell.cell, ("cell",)
    if type(cell).__name__ != "ConvLSTMCell":
        raise TypeError(f"origin: expected a ConvLSTMCell of Flax, or RNN of one, got {type(cell).__name__}")
    if getattr(module, "scope", None) is None:
        raise ValueError("origin: expected a module with its variables, module.bind(variables), got one without")
    strides = cell.strides
    if any(each != 1 for each in (strides if isinstance(strides, Sequence) else [strides or 1])):
        raise ValueError(f"strides: expected 1, got {strides}; the layer has no others")
    if cell.padding != "SAME":
        raise ValueError(f"padding: expected 'SAME', got {cell.padding!r}; the layer pads no other way")
    params = module.variables["params"]
    for name in path:
        params = params[name]
    return files.Contents(flatten(params), "flax")
