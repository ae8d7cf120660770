"""Files of weights, told apart by their content. Reading them executes nothing."""

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from ..core import checks, files
from . import hdf5, keras
from .trees import flatten

_ZIP, _HDF5, _PICKLE = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x80"
SUFFIXES = (".safetensors", ".pt", ".pth")
"""Of the files that are written."""


class Contents(NamedTuple):
    """Tensors or arrays by key, and what a file says about the layer."""

    values: dict[str, object]
    source: str | None = None
    options: Mapping[str, object] = {}
    is_one_layer: bool = False
    """Whether the prefix has been used to choose the layer."""
    layers: Sequence[str] = ()
    """The names of a model's recurrent layers, where these and not the keys choose one."""


def read(path: str | os.PathLike, prefix: str | None = "") -> Contents:
    """The tensors of a file: safetensors, PyTorch's, Keras's `.keras` and `.weights.h5`, or NumPy's `.npz`.

    PyTorch's files are read with `weights_only=True`: a pickle that calls for anything else is refused.

    Args:
        path: of a regular file. The content decides what it is, not the name.
        prefix: with which the keys begin. It chooses the layer of a `.keras` file; None for all that the file holds.

    Raises:
        OSError: where the file cannot be opened.
        ImportError: without the package that the file needs.
        ValueError: for a file that is damaged or something else.
    """
    path = Path(path)
    with files.open_regular(path) as file:
        start = file.read(9)
        file.seek(0)
        try:
            return _read(file, start, prefix)
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # these readers raise anything over damaged files
            raise ValueError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "Weights only load failed" in text or "weights_only" in text:
        return "expected tensors and plain containers, got a pickle that calls for something else, which is not run"
    own = isinstance(error, (ValueError, TypeError)) and ": expected" in text
    return (
        text if own else f"cannot be read, it is damaged or no file of weights ({type(error).__name__}: {text[:200]})"
    )


def _read(file: BinaryIO, start: bytes, prefix: str | None) -> Contents:
    if start.startswith(_HDF5):
        values = keras.weights_by_name(hdf5.read(file))
        has_directions = f"{prefix or ''}forward_layer/cell/kernel" in values
        return Contents(values, "keras.Bidirectional" if has_directions else "keras")
    if start.startswith(_ZIP):
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
        file.seek(0)
        if "config.json" in names and "model.weights.h5" in names:
            model = keras.read_model(file)
            if prefix is None:
                return Contents(model.weights, "keras", layers=[layer.name for layer in model.layers])
            return Contents(*model.layer(prefix), is_one_layer=True)
        if names and all(name.endswith(".npy") for name in names):
            return Contents(_numpy(file))
    if start.startswith((_ZIP, _PICKLE)):
        return Contents(_torch(file))
    if len(start) == 9 and start[8:] == b"{":
        return Contents(_safetensors().load(file.read()))
    raise ValueError("start: expected safetensors, a file of PyTorch, Keras or NumPy, got something else")


def _torch(file: BinaryIO) -> dict[str, object]:
    content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise ValueError(f"content: expected a dictionary of tensors, got {checks.describe(content)}")
    values = flatten(content)
    for key, value in values.items():
        if isinstance(value, Tensor) and value.is_meta:
            raise ValueError(f"{key}: expected a tensor that the file holds, got one without values, of device 'meta'")
        if checks.is_dense(value):
            held = value.untyped_storage().nbytes()
            if value.numel() * value.element_size() > held:
                raise ValueError(
                    f"{key}: expected a tensor that the file holds, got {tuple(value.shape)} of {held} bytes"
                )
    return values


def _numpy(file: BinaryIO) -> dict[str, object]:
    import numpy

    with numpy.load(file, allow_pickle=False) as archive:
        for name in archive.files:
            info = archive.zip.getinfo(f"{name}.npy")
            if info.file_size > 1000 * max(info.compress_size, 1):
                raise ValueError(f"{name}: expected an array, got {info.file_size} bytes out of {info.compress_size}")
        return {name: archive[name] for name in archive.files}


def _safetensors():
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("safetensors is needed for such files: pip install 'tritonlstm[convert]'") from error
    return safetensors.torch


def check_suffix(name: str, path: Path) -> None:
    """Raise a ValueError where no format of files that are written has this end of the name."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{name}: expected a name that ends in {' or '.join(SUFFIXES)}, got {path}")


def save(path: str | os.PathLike, tensors: Mapping[str, object]) -> None:
    """Write tensors, or a tree of them, as `to_state_dict` returns it: whole, or not at all.

    Args:
        path: whose end says the format: ".safetensors", or ".pt" and ".pth" for PyTorch's.
        tensors: by key; the keys of a tree are joined by ".".

    Raises:
        OSError: where the file cannot be written.
        ImportError: without the package safetensors, where it is needed.
        ValueError: for another end of the name, or a path that is no regular file.
    """
    path = Path(path)
    check_suffix("path", path)
    flat = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in flatten(tensors).items()
    }
    if path.suffix == ".safetensors":
        content = _safetensors().save(flat, metadata={"format": "pt"})
    else:
        buffer = io.BytesIO()
        torch.save(flat, buffer)
        content = buffer.getvalue()
    files.write(path, content)
