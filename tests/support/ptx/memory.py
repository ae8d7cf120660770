"""The memory of a launch: tensors at their own addresses, and each block's shared memory.

A load may touch the bytes of its argument's view alone, a store those that the kernel writes of it. Bytes between the
rows of a view, or behind it in its storage, belong to others. Nothing is kept per byte of a tensor, which may be huge
and sparse.
"""

from collections.abc import Collection

import numpy as np
from torch import Tensor

from .accesses import Accesses
from .arguments import ADDRESS_BITS, Argument
from .fault import Fault

_ADDRESS = np.uint64(2**ADDRESS_BITS - 1)
"""Without the argument's number."""


class GlobalMemory:
    """`tensors`: the arguments by name. `parts`: of those that are written, what must be; nothing beside it may be.
    `unread`: the names of those that may not be read.

    The kernel gets `addresses`, which have the argument's number above the bits of an address. So what is computed from
    the address of one argument reaches that one alone, wherever the others lie, and even where they overlap it. A
    kernel that takes one argument's address for another's, and accesses what it may of that, gets wrong values instead.
    """

    def __init__(
        self,
        tensors: dict[str, Tensor],
        parts: dict[str, list[Tensor]],
        threads_per_block: int,
        unread: Collection[str] = (),
    ):
        self._arguments = [
            Argument.of(name, tensor, [] if name in unread else [tensor], parts.get(name, []))
            for name, tensor in tensors.items()
        ]
        self.addresses = {
            name: (number << ADDRESS_BITS) + tensor.data_ptr()
            for number, (name, tensor) in enumerate(tensors.items(), 1)
        }
        self.accesses = Accesses(threads_per_block)

    def load(self, address: np.ndarray, shape: tuple[int, int], thread: np.ndarray, epoch: np.ndarray) -> np.ndarray:
        """Vectors of `shape` (elements, bytes of an element) as bits, (accesses, elements)."""
        touched = self._check(address, shape, "load")
        place = address & _ADDRESS
        self.accesses.add(place, shape[0] * shape[1], thread, epoch)
        result = np.empty((len(address), shape[0]), f"u{shape[1]}")
        for argument, chosen in touched:
            elements, index = argument.elements_at(place[chosen], shape)
            result[chosen] = elements[index]
        return result

    def store(self, address: np.ndarray, data: np.ndarray, thread: np.ndarray, epoch: np.ndarray) -> None:
        """The bits of vectors, (accesses, elements)."""
        shape = data.shape[1], data.itemsize
        touched = self._check(address, shape, "store")
        place = address & _ADDRESS
        self.accesses.add(place, shape[0] * shape[1], thread, epoch, data)
        for argument, chosen in touched:
            elements, index = argument.elements_at(place[chosen], shape)
            elements[index] = data[chosen]

    def check(self, complete: bool = True) -> None:
        """What only the end of a launch shows: races, elements that are written twice, and with `complete` never."""
        self.accesses.check()
        for argument in self._arguments:
            for view in argument.written:
                addresses, counts = self.accesses.written(view.itemsize)
                counts = counts[view.has(addresses)]
                if (counts > 1).any():
                    raise Fault(f"{view.name}: {int((counts > 1).sum())} elements are written more than once")
                if complete and len(counts) < view.elements:
                    raise Fault(f"{view.name}: {view.elements - len(counts)} elements are never written")

    def _check(self, address: np.ndarray, shape: tuple[int, int], what: str) -> list[tuple[Argument, np.ndarray]]:
        """The arguments that are accessed, each with the accesses to it."""
        width = np.uint64(shape[0] * shape[1])
        if (askew := address % width != 0).any():
            raise Fault(f"{what} of {width} bytes at an address that is no multiple: {int(address[askew][0]):#x}")
        numbers, touched = address >> np.uint64(ADDRESS_BITS), []
        for number in np.unique(numbers).tolist():
            chosen = numbers == number
            place = address[chosen] & _ADDRESS
            if not 1 <= number <= len(self._arguments):
                raise Fault(f"{what} of {width} bytes outside the arguments at {int(place[0]):#x}")
            argument = self._arguments[number - 1]
            inside = argument.has(place, int(width), argument.readable if what == "load" else argument.written)
            if not inside.all():
                raise Fault(
                    f"{what} of {width} bytes outside {argument.name} at {int(place[~inside][0]):#x}: "
                    f"{int((~inside).sum())} of {len(address)} threads"
                )
            touched.append((argument, chosen))
        return touched


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
        if width > self._legal or (address > np.uint64(self._legal - width)).any():  # a sum could wrap around to zero
            raise Fault(f"{what} outside the {self._legal} bytes of shared memory")
        block = (thread // self._threads_per_block).astype(np.int64)
        return (block * self._size + address.astype(np.int64)) // width
