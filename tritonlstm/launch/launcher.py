"""Launches a layer's kernels at little cost to the host.

At each launch Triton's launcher binds the arguments, derives from them what the kernel is specialised on, and looks up
what it compiled for that. From step to step of a layer hardly anything changes but addresses. So a `Launcher` keeps
what Triton compiled, and calls it with addresses for as long as nothing else changes.

What it has not seen yet, it leaves to Triton's launcher, and with it everything that this does besides: an interpreter,
hooks, as profilers set them, AMD's GPUs, where a kernel is specialised on the memory behind each tensor too, and
versions of Triton whose compiled kernels may be called in another way.
"""

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
    """A launch that was prepared: `masks` has the bits that no address of a tensor of rows may have for ALIGNED;
    `direct` what is called, by whether that holds and by the device."""

    launch: LaunchArguments
    masks: tuple[int, ...]
    direct: dict[tuple[bool, int], _Direct]


_compiled: dict[Hashable, object] = {}
"""What Triton compiled, by all that it was specialised on: another layer's, and the next call's, need not ask again."""


class Launcher:
    """The launches of one kernel in one call of a layer: `launcher(kernel, tensors, variant, prepare)` is one.

    kernel: as Triton's decorator made it, or what stands in for it. Its first arguments are the tensors.
    tensors: by the arguments' names, in their order; None where there is none. Of those that are no rows, each has
        the same alignment at every launch, or the kernel is not specialised on it.
    variant: all that the launch follows from beside the addresses of its tensors.
    prepare: gives the launch for this variant; it is asked once. What it gives has no ALIGNED: that is told from the
        addresses, and says whether each tensor of rows begins where wide accesses are possible (kernels/tiles.py).
    """

    def __init__(self) -> None:
        self._variants: dict[Hashable, _Variant] = {}
        self._calls_directly: bool | None = None

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
        is_aligned = math.gcd(WIDEST, *addresses) == WIDEST or not any(map(operator.and_, addresses, known.masks))
        if type(kernel) is not JITFunction or not self._may_call_directly() or _is_watched():
            kernel[known.launch.grid](**tensors, **known.launch.arguments, ALIGNED=is_aligned)
            return
        device = driver.active.get_current_device()
        direct = known.direct.get((is_aligned, device))
        if direct is None or direct.kernel is not kernel:
            arguments = known.launch.arguments | {"ALIGNED": is_aligned}
            key = _specialisation(kernel, device, tensors, arguments)
            compiled = _compiled.get(key)
            if compiled is None:
                compiled = kernel[known.launch.grid](**tensors, **arguments)
                if key is not None and compiled is not None:
                    _compiled[key] = compiled
                return
            direct = _direct(kernel, compiled, known.launch.grid, arguments, len(tensors))
            known.direct[is_aligned, device] = direct
        stream = driver.active.get_current_stream(device)
        direct.run(*direct.grid, stream, direct.function, direct.metadata, None, None, None, *addresses, *direct.others)

    def _may_call_directly(self) -> bool:
        """Whether this Triton, for this GPU, is one whose kernels may be called as here."""
        if self._calls_directly is None:
            is_known = triton.__version__.startswith(VERSIONS)
            self._calls_directly = is_known and driver.active.get_current_target().backend == "cuda"
        return self._calls_directly


def _masks(tensors: dict[str, Tensor | None], strides: dict[str, int]) -> tuple[int, ...]:
    return tuple(
        math.gcd(WIDEST, strides[name] * tensor.element_size()) - 1 if name in strides and tensor is not None else 0
        for name, tensor in tensors.items()
    )


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
