"""Launches a layer's kernels at little cost to the host.

At each launch Triton's launcher binds the arguments, derives from them what the kernel is specialised on, and looks up
what it compiled for that. From step to step and from call to call of a layer, usually only addresses change. So a
`Launcher` keeps what Triton compiled, and calls it with addresses for as long as nothing else changes.

What it has not seen yet, it leaves to Triton's launcher, and with it everything that this does besides: an interpreter,
hooks, as profilers set them, AMD's GPUs, where a kernel is specialised on the memory behind each tensor too, and
versions of Triton whose compiled kernels may be called in another way. Triton's settings for its compiler count as they
are when a launch is made for the first time.
"""

import functools
import math
import operator
from collections.abc import Callable, Hashable
from typing import NamedTuple

import triton
from torch import Tensor
from triton import knobs
from triton.runtime import JITFunction, driver

VERSIONS = ("3.6.", "3.7.", "3.8.", "3.9.")
"""The versions of Triton in which a compiled kernel is called as `_Direct` does."""

WIDEST = 16
"""Bytes of the widest access."""


class LaunchArguments(NamedTuple):
    """All of a launch but its tensors.

    `strides` has the elements between two rows of each tensor of rows, by its argument's name.
    """

    grid: tuple[int, ...]
    strides: dict[str, int]
    arguments: dict[str, object]


class _Direct(NamedTuple):
    """A compiled kernel, and what it is called with beside addresses."""

    kernel: JITFunction
    run: Callable[..., None]
    grid: tuple[int, int, int]
    function: int
    metadata: object
    others: tuple


class _Variant(NamedTuple):
    """A launch that was prepared. `masks` has the bits that tell from an address whether the tensor is misaligned;
    `direct` what is called, by the device and by which tensors are misaligned, () for none."""

    launch: LaunchArguments
    masks: tuple[int, ...]
    direct: dict[tuple[int, tuple[bool, ...]], _Direct]


_compiled: dict[Hashable, object] = {}
"""What Triton compiled, by all that it was specialised on: another layer's, and the next call's, need not ask again."""


class Launcher:
    """Launches kernels for layers of the same sizes, dtypes and options: `launcher(kernel, tensors, variant, prepare)`.

    kernel: as Triton's decorator made it, or what stands in for it. Its first arguments are the tensors.
    tensors: by the arguments' names, in their order; None where there is none. At every launch of a variant each has
        the same dtype, and those of rows the same strides.
    variant: the kernel's name, and what else may differ between launches beside the addresses of the tensors.
    prepare: gives the launch for this variant; it is asked once. What it gives has no ALIGNED: that is told from the
        addresses, and says whether each tensor of rows begins where wide accesses are possible (kernels/tiles.py).
    """

    def __init__(self) -> None:
        self._variants: dict[Hashable, _Variant] = {}

    def __call__(
        self,
        kernel: object,
        tensors: dict[str, Tensor | None],
        variant: Hashable,
        prepare: Callable[[], LaunchArguments],
    ) -> None:
        known = self._variants.get(variant)
        if known is None:
            launch = prepare()
            known = self._variants[variant] = _Variant(launch, _masks(tensors, launch.strides), {})
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors.values()]
        misaligned = ()
        if math.gcd(WIDEST, *addresses) < WIDEST:
            misaligned = tuple(map(bool, map(operator.and_, addresses, known.masks)))
        if type(kernel) is not JITFunction or kernel.pre_run_hooks or _is_watched():
            kernel[known.launch.grid](**tensors, **_all_arguments(tensors, known.launch, misaligned))
            return
        device = driver.active.get_current_device()
        direct = known.direct.get((device, misaligned))
        if direct is None or direct.kernel is not kernel:
            arguments = _all_arguments(tensors, known.launch, misaligned)
            key = _specialisation(kernel, device, tensors, arguments) if _may_call_directly(device) else None
            compiled = _compiled.get(key)
            if compiled is None:
                compiled = kernel[known.launch.grid](**tensors, **arguments)
                if key is not None and compiled is not None:
                    _compiled[key] = compiled
                return
            direct = _direct(kernel, compiled, known.launch.grid, arguments, len(tensors))
            known.direct[device, misaligned] = direct
        stream = driver.active.get_current_stream(device)
        direct.run(*direct.grid, stream, direct.function, direct.metadata, None, None, None, *addresses, *direct.others)


KEPT = 1024
"""The most launchers that are kept, the most recently used. Not measured."""


@functools.lru_cache(KEPT)
def launcher_of(*agreed: Hashable) -> Launcher:
    """The launcher of all layers that agree in these sizes, dtypes and options."""
    return Launcher()


def forget() -> None:
    """As in a process that has launched nothing."""
    launcher_of.cache_clear()
    _is_nvidia.cache_clear()
    _compiled.clear()


def _masks(tensors: dict[str, Tensor | None], strides: dict[str, int]) -> tuple[int, ...]:
    """Of rows, the bits below the widest access that their distance allows; of others, below the widest of all."""
    return tuple(
        math.gcd(WIDEST, strides[name] * tensor.element_size() if tensor is not None and name in strides else 0) - 1
        for name, tensor in tensors.items()
    )


def _all_arguments(
    tensors: dict[str, Tensor | None], launch: LaunchArguments, misaligned: tuple[bool, ...]
) -> dict[str, object]:
    """All arguments but the tensors."""
    is_aligned = not any(is_off and name in launch.strides for name, is_off in zip(tensors, misaligned))
    return launch.arguments | {"ALIGNED": is_aligned}


def _may_call_directly(device: int) -> bool:
    """Whether this Triton, for this GPU, is one whose kernels may be called as here."""
    return triton.__version__.startswith(VERSIONS) and _is_nvidia(device)


@functools.cache
def _is_nvidia(device: int) -> bool:
    return driver.active.get_current_target().backend == "cuda"


def _is_watched() -> bool:
    """Whether there are hooks before or behind each launch."""
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    # A chain of hooks, which is empty by default, or a function.
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))


def _specialisation(
    kernel: JITFunction, device: int, tensors: dict[str, Tensor | None], arguments: dict[str, object]
) -> Hashable:
    """All that Triton distinguishes compiled kernels by; None where something may make it do so by more than that."""
    runtime = knobs.runtime
    if kernel.pre_run_hooks or getattr(runtime, "add_stages_inspection_hook", None) is not None:
        return None
    if kernel.arg_names[: len(tensors)] != list(tensors):
        return None
    key = [id(kernel), kernel.cache_key, device, runtime.debug, knobs.compilation.instrumentation_mode]
    for parameter, tensor in zip(kernel.params, tensors.values()):
        if tensor is None:
            key.append(None)
        else:
            key.append(tensor.dtype)
            key.append(parameter.do_not_specialize_on_alignment or tensor.data_ptr() % WIDEST == 0)
    for parameter in kernel.params[len(tensors) :]:
        value = arguments[parameter.name]
        if parameter.is_constexpr:
            key.append(value)
        elif parameter.do_not_specialize:  # but for the type, which follows from the value
            key.append("i32" if -(2**31) <= value < 2**31 else "i64" if value < 2**63 else "u64")
        else:
            return None
    key += [(name, value) for name, value in arguments.items() if name not in kernel.signature.parameters]
    return tuple(key)


def _direct(kernel: JITFunction, compiled, grid: tuple[int, ...], arguments: dict[str, object], count: int) -> _Direct:
    others = tuple(arguments[name] for name in kernel.arg_names[count:])
    return _Direct(kernel, compiled.run, (*grid, 1, 1)[:3], compiled.function, compiled.packed_metadata, others)
