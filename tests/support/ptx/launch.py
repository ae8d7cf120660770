"""Stands in for Triton's launcher: specialises a kernel on its arguments, has it compiled, and runs it."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from tritonlstm.cells import triton as cell

from .approximate import Shift
from .compiler import Request, compile_to_ptx
from .fault import Fault
from .machine import Blocks, Machine
from .memory import GlobalMemory
from .outputs import only_written, parts_written
from .parser import parse

_TYPES = {
    torch.uint8: "u8",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}

_THREADS = 8192
"""Threads that run at once: a register of the kernel takes 32 KB, a few hundred of them fit into a cache."""

_LARGEST_GRID = (2**31 - 1, 2**16 - 1, 2**16 - 1)
"""What CUDA allows."""


@dataclass
class Device:
    """How launches run, and which there were. `edit` changes the PTX; `blocks` chooses some of a grid's, by default all
    of them. Blocks that were chosen leave the other blocks' outputs unwritten."""

    shift: Shift = 0.0
    edit: Callable[[str], str] = lambda ptx: ptx
    blocks: Callable[[int], list[int]] | None = None
    launched: list[Request] = field(default_factory=list)


_parse = functools.cache(parse)


class Kernel:
    """A kernel as the package launches it: `kernel[grid](**arguments)`."""

    def __init__(self, kernel: InterpretedFunction, device: Device):
        function = self._function = kernel.fn
        self._device = device
        self._any_alignment = kernel.kwargs.get("do_not_specialize_on_alignment") or ()
        self._parameters = inspect.signature(function).parameters

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *positional: object, **arguments: object) -> None:
        arguments = dict(zip(self._parameters, positional)) | arguments
        request = self._specialise(arguments)
        self._device.launched.append(request)
        ptx, shared_bytes = compile_to_ptx(request)
        program = _parse(self._device.edit(ptx))
        passed = [name for name, type in request.signature if type != "constexpr"]
        tensors = {name: value for name in passed if isinstance(value := arguments[name], torch.Tensor)}
        parts, unread = parts_written(self._function, arguments), only_written(self._function)
        memory = GlobalMemory(tensors, parts, program.threads, unread)
        values = [memory.addresses[name] if name in tensors else arguments[name] for name in passed]
        # The compiler's own parameters follow, for scratch memory that these kernels do not use.
        values += [0] * (len(program.parameters) - len(values))
        parameters, is_early = dict(zip(program.parameters, values)), dict(request.options).get("launch_pdl", False)
        machine = Machine(program, parameters, memory, shared_bytes, self._device.shift, is_early)
        for blocks in self._blocks(grid, program.threads):
            machine.run(blocks)
        memory.check(complete=self._device.blocks is None)

    def _specialise(self, arguments: dict[str, Any]) -> Request:
        """As the launcher does: None is a constant, a pointer is aligned or not, an integer has 32 bits or 64.

        These kernels have no integer specialised.
        """
        signature, constants, aligned = [], [], []
        for position, (name, parameter) in enumerate(self._parameters.items()):
            value = arguments[name]
            if parameter.annotation is tl.constexpr or value is None:
                signature.append((name, "constexpr"))
                constants.append((name, value))
            elif isinstance(value, torch.Tensor):
                signature.append((name, f"*{_TYPES[value.dtype]}"))
                if name not in self._any_alignment and value.data_ptr() % 16 == 0:
                    aligned.append(position)
            else:
                signature.append((name, "i32" if -(2**31) <= value < 2**31 else "i64"))
        options = tuple((name, value) for name, value in arguments.items() if name not in self._parameters)
        function = self._function
        return Request(
            function.__module__, function.__name__, tuple(signature), tuple(constants), tuple(aligned), options
        )

    def _blocks(self, grid: tuple[int, ...], threads: int) -> Iterator[Blocks]:
        """The blocks that run, a few at a time."""
        sizes = (*grid, 1, 1)[:3]
        if any(size > most for size, most in zip(sizes, _LARGEST_GRID)):
            raise Fault(f"a grid of {sizes} blocks, more than {_LARGEST_GRID}")
        count = int(np.prod(sizes, dtype=object))
        chosen = np.arange(count) if self._device.blocks is None else np.array(self._device.blocks(count))
        for first in range(0, len(chosen), at_once := max(1, _THREADS // threads)):
            numbers = chosen[first : first + at_once]
            yield Blocks(np.stack(np.unravel_index(numbers, sizes, order="F"), 1), first)


@contextmanager
def on_machine(**settings: Any) -> Iterator[Device]:
    """Within it, the kernels that the package launches run on the machine. `settings` are those of Device."""
    device = Device(**settings)
    kernels = {name: value for name, value in vars(cell).items() if name.endswith("_kernel")}
    for name, kernel in kernels.items():
        setattr(cell, name, Kernel(kernel, device))
    try:
        yield device
    finally:
        for name, kernel in kernels.items():
            setattr(cell, name, kernel)
