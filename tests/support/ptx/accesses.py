"""All accesses of a launch to one kind of memory, and what they reveal together: races, and what was written.

Two threads race for a byte where one of them writes it and no barrier lies between: they belong to different blocks, or
to one block between the same two barriers. A warp's threads are not in step: only barriers order them.
"""

import numpy as np

from .fault import Fault


class Accesses:
    """Addresses of one width a call, with the thread, counted over all blocks, and its epoch: how many barriers its
    block has passed.

    Addresses are aligned to their widths. `per_block` says that equal addresses of two blocks are two places, and that
    several threads may store the same value by one instruction, as replicated layouts do in shared memory.
    """

    def __init__(self, threads_per_block: int, per_block: bool = False):
        self._threads_per_block, self._per_block = threads_per_block, per_block
        self._calls = []

    def add(self, address: np.ndarray, width: int, thread: np.ndarray, epoch: np.ndarray, data=None) -> None:
        """Loads, or stores of `data`, (accesses, bytes of `width`)."""
        self._calls.append((address, width, thread, epoch, data))

    def check(self) -> None:
        """Raises Fault if two threads race."""
        unit = self._unit()
        if unit is None:
            return
        place, thread, epoch, store, value, call = self._expanded(unit)
        block = thread // self._threads_per_block
        if self._per_block:
            place = place + (block.astype(np.uint64) << np.uint64(40))
        relevant = np.isin(place, np.unique(place[store]))
        place, thread, epoch, store = place[relevant], thread[relevant], epoch[relevant], store[relevant]
        block, value, call = block[relevant], value[relevant], call[relevant]
        # Groups that no barrier orders: a place in one epoch of one block, and a place over all blocks.
        for key in ((epoch, place), (place,)) if not self._per_block else ((epoch, place),):
            across = len(key) == 1
            actor = block if across else thread
            order = np.lexsort((actor, *key))
            starts = np.flatnonzero(_changes(*(part[order] for part in key)))
            lowest = np.minimum.reduceat(actor[order], starts)
            highest = np.maximum.reduceat(actor[order], starts)
            stores = np.logical_or.reduceat(store[order], starts)
            races = stores & (lowest != highest)
            if self._per_block:
                same = np.ones(len(starts), bool)
                for each in (value, call, store):
                    part = each[order]
                    same &= np.minimum.reduceat(part, starts) == np.maximum.reduceat(part, starts)
                races &= ~same
            if races.any():
                group = order[starts[races.argmax()] :]
                raise Fault(
                    f"race: {int(races.sum())} places of {unit} bytes that one {'block' if across else 'thread'} writes"
                    f" and another accesses, such as {int(place[group[0]]):#x}, with no barrier between"
                )

    def written(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """The addresses of the units of so many bytes that were stored to, sorted, and how often each was."""
        return np.unique(self._units(unit, stores=True), return_counts=True)

    def _unit(self) -> int | None:
        """The narrowest width, of which all places are multiples; None where nothing is stored, so nothing races.

        At most 8, so that NumPy has an integer for what is stored there.
        """
        if all(data is None for *_, data in self._calls):
            return None
        return min(8, *(width for _, width, *_ in self._calls))

    def _units(self, unit: int, stores: bool) -> np.ndarray:
        parts = [
            _expand(address, width, unit) for address, width, _, _, data in self._calls if (data is not None) == stores
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)

    def _expanded(self, unit: int) -> tuple[np.ndarray, ...]:
        columns = []
        for number, (address, width, thread, epoch, data) in enumerate(self._calls):
            times = width // unit
            place = _expand(address, width, unit)
            value = np.zeros(len(place), np.uint64)
            if data is not None:
                value = np.ascontiguousarray(data).view(f"u{unit}").reshape(-1).astype(np.uint64)
            stores, calls = np.full(len(place), data is not None), np.full(len(place), number)
            columns.append((place, np.repeat(thread, times), np.repeat(epoch, times), stores, value, calls))
        return tuple(map(np.concatenate, zip(*columns)))


def _expand(address: np.ndarray, width: int, unit: int) -> np.ndarray:
    """The addresses of each access's units."""
    return (address[:, None] + np.arange(0, width, unit, dtype=np.uint64)).reshape(-1)


def _changes(*keys: np.ndarray) -> np.ndarray:
    """Where a group of equal keys starts."""
    starts = np.ones(len(keys[0]), bool)
    starts[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return starts
