"""Compile a launch ahead of time, exactly as the launcher specialises it, without a GPU.

Triton must compile, not interpret: it reads TRITON_INTERPRET when it is imported, which must not have been set then.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime import JITFunction

from ..cells import triton as cell
from ..launch.config import use
from ..launch.tables import Config
from .inspect import Figures, inspect
from .launches import Launch, bind

_TYPES = {torch.uint8: "u8", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def target(arch: str) -> GPUTarget:
    """ "sm_90" or "gfx942" as Triton's target."""
    if arch.startswith("sm_"):
        return GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    return GPUTarget("hip", arch, 64)


def interprets() -> bool:
    """Whether Triton interprets the kernels, so that none can be compiled."""
    return not isinstance(cell.gates_forward_kernel, JITFunction)


def compile_launch(launch: Launch, arch: str, config: Config) -> CompiledKernel:
    """The compiled kernel of a launch in this configuration."""
    with _recorded(f"{launch.kernel}_kernel") as (kernel, recorder), use({launch.kernel: config}):
        bind(launch, "meta")()
    source, options = _source(kernel, recorder.arguments)
    return triton.compile(source, target=target(arch), options=options)


def measure(
    tasks: Iterable[tuple[Launch, str, Config]],
    processes: int = 2,
    done: Callable[[], object] = lambda: None,
) -> list[Figures | str]:
    """The figures of `compile_launch` for each (launch, arch, config), or what went wrong, from several processes.

    `done` is called after each. When a compiler ends its process, the results of the other processes are lost too: the
    tasks that may have been at fault are tried again, each in a process of its own.
    """
    tasks = list(tasks)
    found = {}
    waiting = list(range(len(tasks)))
    while waiting:
        found |= _in_processes(tasks, waiting, processes, done)
        left = [index for index in waiting if index not in found]
        # A pool takes its tasks in order, one more than it has processes: the one at fault is among these.
        suspects, waiting = left[: processes + 1], left[processes + 1 :]
        for index in suspects:
            alone = _in_processes(tasks, [index], 1, done)
            if not alone:
                done()
            found[index] = alone.get(index, "BrokenProcessPool: the compiler ended its process")
    return [found[index] for index in range(len(tasks))]


def _in_processes(
    tasks: list[tuple[Launch, str, Config]], chosen: list[int], processes: int, done: Callable[[], object]
) -> dict[int, Figures | str]:
    """The figures of the chosen tasks, by index, without those that were lost when a process ended."""
    found = {}
    # Spawned: a process that is forked off one which uses CUDA or threads may hang.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        futures = {}
        with suppress(BrokenProcessPool):
            for index in chosen:
                futures[index] = pool.submit(_measure, tasks[index])
        for index, future in futures.items():
            with suppress(BrokenProcessPool):
                found[index] = future.result()
                done()
    return found


def _measure(task: tuple[Launch, str, Config]) -> Figures | str:
    try:
        return inspect(compile_launch(*task))
    except Exception as error:  # a compiler may fail in any way, and the others are to be tried all the same
        return f"{type(error).__name__}: {error}"


class _Recorder:
    """Stands in for a kernel and keeps the arguments of its launch."""

    def __getitem__(self, grid: object) -> "_Recorder":
        return self

    def __call__(self, **arguments: object) -> None:
        self.arguments = arguments


@contextmanager
def _recorded(name: str) -> Iterator[tuple[JITFunction, _Recorder]]:
    kernel, recorder = getattr(cell, name), _Recorder()
    setattr(cell, name, recorder)
    try:
        yield kernel, recorder
    finally:
        setattr(cell, name, kernel)


def _source(kernel: JITFunction, arguments: dict[str, object]) -> tuple[ASTSource, dict[str, object]]:
    """A launch's arguments as signature, constants and pointer alignment; what is no argument is a compiler option."""
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = f"*{_TYPES[value.dtype]}"
            is_aligned = value.storage_offset() * value.element_size() % 16 == 0
            if is_aligned and not parameter.do_not_specialize_on_alignment:
                attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "i32"
    options = {name: value for name, value in arguments.items() if name not in signature}
    return ASTSource(kernel, signature, constants, attributes), options
