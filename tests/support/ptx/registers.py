"""The registers of all threads, and which threads have a value in each.

A load under a predicate leaves the registers of the other threads as they were, and so does an instruction in a branch.
What is computed from an undefined value is undefined. That alone is no fault, since compilers compute results that are
not used. It is one as soon as an undefined value is stored, is an address or a divisor, or decides whether an
instruction runs.
"""

import numpy as np

from .fault import Fault, Unsupported
from .parser import Operand, Program
from .values import BITS, DTYPES, WIDTHS, bits, immediate


class Registers:
    """`special`: the values of those that no instruction writes."""

    def __init__(self, program: Program, threads: int, special: dict[str, np.ndarray]):
        self._program, self._threads = program, threads
        self._values, self._missing = dict(special), {}

    def read(self, operand: Operand, type: str) -> np.ndarray:
        """A value of each thread, or one scalar for all; anything where a thread has none."""
        if not isinstance(operand, str):
            raise Unsupported(f"{operand} where a value of {type} was expected")
        if operand.startswith("%"):
            value = self._values.get(operand)
            if value is None:
                raise Fault(f"{operand} is read before it is written")
            dtype = DTYPES[type]
            if value.dtype.itemsize != dtype.itemsize or (value.dtype.kind == "b") is not (type == "pred"):
                raise Unsupported(f"{operand} read as {type}")
            return value.view(dtype)
        if operand == "global_smem":
            return np.zeros(1, DTYPES[type])[0]
        return immediate(operand, type)

    def use(self, operand: Operand, type: str, chosen: np.ndarray) -> np.ndarray:
        """What `read` gives, for something that must not depend on chance in these threads."""
        value, missing = self.read(operand, type), self.missing(operand)
        if missing is not None and (unwritten := missing & chosen).any():
            raise Fault(f"{operand} is used in {int(unwritten.sum())} threads that have no value in it")
        return value

    def missing(self, *operands: Operand) -> np.ndarray | None:
        """The threads that have no value in one of the operands; None if there are none."""
        found = [self._missing[each] for each in operands if each in self._missing] if self._missing else []
        return np.logical_or.reduce(found) if found else None

    def missing_from_choice(
        self, first: Operand, second: Operand, predicate: Operand, takes_first: np.ndarray
    ) -> np.ndarray:
        """The threads without a predicate, or without the value that it chooses: the other one is no matter."""
        first, second = self._missing.get(first, False), self._missing.get(second, False)
        return np.where(takes_first, first, second) | self._missing.get(predicate, False)

    def write(
        self, register: Operand, value: np.ndarray, chosen: np.ndarray, missing: np.ndarray | None = None
    ) -> None:
        """`missing`: the threads whose value depends on one that they do not have."""
        if register == "_":
            return
        value = bits(value)
        declared = self._program.register_type(register)
        wanted = np.dtype(bool) if declared == "pred" else BITS[WIDTHS[declared]]
        if value.dtype != wanted:
            raise Unsupported(f"{register} of type {declared} written as {value.dtype}")
        if chosen.all():
            value = np.broadcast_to(value, self._threads)
        else:
            is_new = register not in self._values
            missing = np.where(chosen, missing is not None and missing, is_new or self._missing.get(register, False))
            value = np.where(chosen, value, wanted.type(0) if is_new else self._values[register])
        self._values[register] = value
        if missing is not None and missing.any():
            self._missing[register] = missing
        else:
            self._missing.pop(register, None)
