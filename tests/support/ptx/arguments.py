"""The tensors that a kernel gets, as what it may access of the bytes around them."""

import ctypes
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .fault import Unsupported

ADDRESS_BITS = 48
"""Bits of an address of the CPU. Above them, a kernel's addresses have the number of the argument that they are of."""


@dataclass(frozen=True)
class View:
    """One argument's bytes: its first address, and (size, stride in bytes) of its dimensions, the largest first."""

    name: str
    start: int
    dimensions: tuple[tuple[int, int], ...]
    itemsize: int

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "View":
        size = tensor.element_size()
        pairs = zip(tensor.shape, tensor.stride())
        dimensions = sorted(((n, stride * size) for n, stride in pairs if n > 1 and stride), key=lambda pair: -pair[1])
        reach = size
        for n, stride in reversed(dimensions):
            if stride < reach:
                raise Unsupported(f"{name}: elements overlap in strides {tensor.stride()}")
            reach += (n - 1) * stride
        return cls(name, tensor.data_ptr(), tuple(dimensions), size)

    @property
    def elements(self) -> int:
        return int(np.prod([n for n, _ in self.dimensions], dtype=object))

    def has(self, element: np.ndarray) -> np.ndarray:
        """Which of these addresses are elements of the view."""
        inside, rest = element >= np.uint64(self.start), element - np.uint64(self.start)
        for size, stride in self.dimensions:
            index = rest // np.uint64(stride)
            inside &= index < np.uint64(size)
            rest = rest - index * np.uint64(stride)
        return inside & (rest == 0)


@dataclass(frozen=True)
class Argument:
    """A tensor that a kernel gets: what of it may be read, what is written, and all bytes of the storage behind it."""

    name: str
    readable: tuple[View, ...]
    written: tuple[View, ...]
    itemsize: int
    storage: int
    raw: np.ndarray

    @classmethod
    def of(cls, name: str, tensor: Tensor, readable: list[Tensor], written: list[Tensor]) -> "Argument":
        storage = tensor.untyped_storage()
        if storage.data_ptr() % 16 or (storage.data_ptr() + storage.nbytes()) >> ADDRESS_BITS:
            raise Unsupported(f"{name}: a storage at {storage.data_ptr():#x}")
        raw = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr()) if storage.nbytes() else b""
        readable, written = (
            tuple(View.of(name, part) for part in parts if part.numel()) for parts in (readable, written)
        )
        return cls(name, readable, written, tensor.element_size(), storage.data_ptr(), np.frombuffer(raw, np.uint8))

    def has(self, place: np.ndarray, width: int, views: tuple[View, ...]) -> np.ndarray:
        """Which accesses of `width` bytes touch elements of these views alone, one or several."""
        if width % self.itemsize:
            return np.zeros(len(place), bool)
        elements = (place[:, None] + np.arange(0, width, self.itemsize, dtype=np.uint64)).reshape(-1)
        found = np.logical_or.reduce([view.has(elements) for view in views] or [np.zeros(len(elements), bool)])
        return found.reshape(len(place), -1).all(1)

    def elements_at(self, place: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """The storage in vectors of `shape` (elements, bytes of an element), and the indices of these places."""
        width = shape[0] * shape[1]
        elements = self.raw[: len(self.raw) // width * width].view(f"u{shape[1]}").reshape(-1, shape[0])
        return elements, ((place - np.uint64(self.storage)) // np.uint64(width)).astype(np.int64)
