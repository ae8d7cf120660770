"""The memory of a launch: tensors at their own addresses, and each block's shared memory.

A load may touch the bytes of the arguments' views alone, a store those of the outputs. Bytes between the rows of a
view, or behind it in its storage, belong to others. Nothing is kept per byte of a tensor, which may be huge and sparse.
"""

import ctypes
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .accesses import Accesses
from .fault import Fault, Unsupported


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
        rest = element.astype(np.int64) - self.start
        inside = rest >= 0
        for size, stride in self.dimensions:
            index = rest // stride
            inside &= index < size
            rest = rest - index * stride
        return inside & (rest == 0)


class GlobalMemory:
    """`outputs`: of each argument that is written, whether it is read too, so that the kernel adds to it."""

    def __init__(self, tensors: dict[str, Tensor], outputs: dict[str, bool], threads_per_block: int):
        tensors = {name: tensor for name, tensor in tensors.items() if tensor.numel()}
        self._views = [View.of(name, tensor) for name, tensor in tensors.items()]
        self._outputs = outputs
        self._storages = {}
        for tensor in tensors.values():
            storage = tensor.untyped_storage()
            raw = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
            self._storages[storage.data_ptr()] = np.frombuffer(raw, np.uint8)
        self._bases = np.array(sorted(self._storages), np.uint64)
        self.accesses = Accesses(threads_per_block)

    def load(self, address: np.ndarray, shape: tuple[int, int], thread: np.ndarray, epoch: np.ndarray) -> np.ndarray:
        """Vectors of `shape` (elements, bytes of an element) as bits, (accesses, elements)."""
        self._check(address, shape, self._views, "load")
        self.accesses.add(address, shape[0] * shape[1], thread, epoch)
        result = np.empty((len(address), shape[0]), f"u{shape[1]}")
        for chosen, elements, index in self._places(address, shape):
            result[chosen] = elements[index]
        return result

    def store(self, address: np.ndarray, data: np.ndarray, thread: np.ndarray, epoch: np.ndarray) -> None:
        """The bits of vectors, (accesses, elements)."""
        shape = data.shape[1], data.itemsize
        self._check(address, shape, [view for view in self._views if view.name in self._outputs], "store")
        self.accesses.add(address, shape[0] * shape[1], thread, epoch, data)
        for chosen, elements, index in self._places(address, shape):
            elements[index] = data[chosen]

    def check(self, complete: bool = True) -> None:
        """What only the end of a launch shows: races, bytes that are written twice, and with `complete` never.

        Of an argument that is read too, as much is written as is read: a kernel may add to a part of it.
        """
        self.accesses.check()
        for view in self._views:
            if view.name not in self._outputs:
                continue
            unit = view.itemsize
            addresses, counts = self.accesses.written(unit)
            counts, addresses = counts[mine := view.has(addresses)], addresses[mine]
            if (counts > 1).any():
                raise Fault(f"{view.name}: {int((counts > 1).sum())} elements are written more than once")
            if not complete:
                continue
            if self._outputs[view.name]:
                loaded = self.accesses.loaded(unit)
                missed = int((~np.isin(loaded[view.has(loaded)], addresses)).sum())
            else:
                missed = view.elements - len(addresses)
            if missed:
                raise Fault(f"{view.name}: {missed} elements are never written")

    def _check(self, address: np.ndarray, shape: tuple[int, int], views: list[View], what: str) -> None:
        count, itemsize = shape
        width = np.uint64(count * itemsize)
        if (askew := address % width != 0).any():
            raise Fault(f"{what} of {width} bytes at an address that is no multiple: {int(address[askew][0]):#x}")
        outside = np.ones(len(address), bool)
        for view in views:
            # The elements of the argument may be narrower than those of the access, as a pair of halves in 4 bytes.
            steps = np.arange(0, count * itemsize, view.itemsize, dtype=np.uint64)
            rest = address[outside]
            if view.itemsize <= int(width) and len(rest):
                outside[outside] = ~view.has((rest[:, None] + steps).reshape(-1)).reshape(-1, len(steps)).all(1)
        if outside.any():
            raise Fault(
                f"{what} of {width} bytes outside the arguments at {int(address[outside][0]):#x}: "
                f"{int(outside.sum())} of {len(outside)} threads"
            )

    def _places(self, address: np.ndarray, shape: tuple[int, int]):
        """For each storage that is touched: which accesses, its elements in vectors of `shape`, and their indices."""
        count, itemsize = shape
        storage = np.searchsorted(self._bases, address, "right") - 1
        for number in np.unique(storage):
            base, chosen = self._bases[number], storage == number
            raw = self._storages[int(base)]
            if int(base) % 16:
                raise Unsupported(f"a storage at {int(base):#x}, no multiple of 16 bytes")
            whole = len(raw) // (count * itemsize) * count * itemsize
            elements = raw[:whole].view(f"u{itemsize}").reshape(-1, count)
            yield chosen, elements, ((address[chosen] - base) // np.uint64(count * itemsize)).astype(np.int64)


class SharedMemory:
    """The shared memory of a few blocks, `size` bytes each. Addresses start at 0."""

    def __init__(self, blocks: int, size: int, threads_per_block: int):
        self._size = -(-size // 16) * 16
        self._legal = size
        self._raw = np.zeros(blocks * self._size, np.uint8)
        self._written = np.zeros(blocks * self._size, bool)
        self._threads_per_block = threads_per_block
        self.accesses = Accesses(threads_per_block, per_block=True)

    def load(self, address: np.ndarray, shape: tuple[int, int], thread: np.ndarray, epoch: np.ndarray) -> np.ndarray:
        """As GlobalMemory.load; `thread` counts from the first of these blocks."""
        index = self._index(address, shape, thread, "load")
        width = shape[0] * shape[1]
        if not self._written.reshape(-1, width)[index].all():
            raise Fault("load of shared memory that nothing has written")
        self.accesses.add(address, width, thread, epoch)
        return self._raw.view(f"u{shape[1]}").reshape(-1, shape[0])[index]

    def store(self, address: np.ndarray, data: np.ndarray, thread: np.ndarray, epoch: np.ndarray) -> None:
        shape = data.shape[1], data.itemsize
        index = self._index(address, shape, thread, "store")
        self.accesses.add(address, shape[0] * shape[1], thread, epoch, data)
        self._written.reshape(-1, shape[0] * shape[1])[index] = True
        self._raw.view(f"u{shape[1]}").reshape(-1, shape[0])[index] = data

    def _index(self, address: np.ndarray, shape: tuple[int, int], thread: np.ndarray, what: str) -> np.ndarray:
        width = shape[0] * shape[1]
        if (address % np.uint64(width)).any():
            raise Fault(f"{what} of {width} bytes of shared memory at an address that is no multiple")
        if (address + np.uint64(width) > self._legal).any():
            raise Fault(f"{what} outside the {self._legal} bytes of shared memory")
        block = (thread // self._threads_per_block).astype(np.int64)
        return (block * self._size + address.astype(np.int64)) // width
