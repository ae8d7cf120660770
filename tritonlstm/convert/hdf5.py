"""The arrays of an HDF5 file."""

from typing import BinaryIO

_DEPTH = 32
_MOST = 100_000


def read(file: BinaryIO) -> dict[str, object]:
    """The arrays of numbers by path. Only what the file itself holds is read: no link or reference to another file.

    Raises:
        ImportError: without the package h5py.
        ValueError: for a file with something else.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("h5py is needed to read files of Keras: pip install h5py") from error
    arrays: dict[str, object] = {}
    with h5py.File(file, "r") as root:
        groups = [("", root, 0)]
        while groups:
            path, group, depth = groups.pop()
            for name in group:
                key = f"{path}{name}"
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise ValueError(f"{key}: expected an array in this file, got a link")
                if len(arrays) + len(groups) > _MOST or depth > _DEPTH:
                    raise ValueError(f"{key}: expected at most {_MOST} arrays in groups {_DEPTH} deep, got more")
                item = group[name]
                if isinstance(item, h5py.Group):
                    groups.append((f"{key}/", item, depth + 1))
                elif isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
                    arrays[key] = _array(key, item)
    return arrays


def _array(key: str, dataset) -> object:
    """A dataset that is stored whole in the file, which no small file can make larger than itself."""
    if dataset.is_virtual or dataset.external or dataset.id.get_storage_size() < dataset.nbytes:
        raise ValueError(f"{key}: expected an array that is stored whole in this file, as Keras writes it")
    return dataset[()]
