"""The gates and their gradients on a CPU, compiled by Inductor: one loop over the elements forward, one backward.

The equations are the reference's. Each function is compiled once for any T, B, image and number of channels, when it is
first called, and runs on any number of threads. Where that fails, most likely for want of a C++ compiler, `AtenCell`
computes the same from the same saved tensors.

Dynamo is left out. It compiled such a function anew for each relation between the views that it is called with, up to
its limit of recompilations, and a user's `torch._dynamo.reset` or stance would reach it. `torch._inductor.compile`
takes a graph that was traced without it.
"""

import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from .. import reference
from ..core.dtypes import cell_dtype
from ..core.layout import Layout, to_rows
from ..core.spec import Spec
from .aten import AtenCell
from .step import BackwardStep, ForwardStep

OPTIONS = {
    "cpp.dynamic_threads": True,  # else the number of threads is a constant of the code
    "cpp_wrapper": False,
    "size_asserts": False,  # the examples' sizes of 2 and more stand for 1, too
}
"""Inductor's configuration."""

NARROW_CHANNELS = 8
"""Rows of so many channels at most fill half a vector of 512 bits: 8 channels took 174 µs with those, 130 with 256
bits (bench/NOTES.md)."""

_IMAGES, _PIXELS, _CHANNELS, _GAP = 5, 1013, 37, 19
"""The sizes of the examples, and what lies between two rows of a slot. No two sizes or strides are alike by chance,
since equal ones become one symbol; there are enough rows that it pays to share them among threads."""


def _tanh(x: Tensor) -> Tensor:
    """tanh of a float32 within 3 ulp, in half the time of torch.tanh: Cephes's polynomial near 0, else from exp."""
    s = x * x
    p = (((-5.70498872745e-3 * s + 2.06390887954e-2) * s - 5.37397155531e-2) * s + 1.33314422036e-1) * s
    near = (p - 3.33332819422e-1) * s * x + x
    return torch.where(x.abs() < 0.625, near, 1 - 2 / (torch.exp(2 * x) + 1))


_FLOAT32_ACTIVATIONS = reference.ACTIVATIONS | {"tanh": reference.ACTIVATIONS["tanh"]._replace(apply=_tanh)}
"""The reference's, with a faster tanh."""


@dataclass(frozen=True)
class Function:
    """What the code of a compiled function depends on.

    Tensors are rows (M, C), or (B, H·W, C) with peepholes for each pixel, and rows may lie apart.
    """

    spec: Spec  # its pointwise part
    peephole: str  # "none", "channel" or "full"
    dtype: torch.dtype
    narrow: bool  # whether vectors have 256 bits where the CPU has 512

    def _take_peepholes(self, tensors: Iterator[Tensor]) -> list[Tensor] | None:
        return None if self.peephole == "none" else list(islice(tensors, 3))

    def _activations(self) -> Mapping[str, reference.Activation]:
        return _FLOAT32_ACTIVATIONS if cell_dtype(self.dtype) == torch.float32 else reference.ACTIVATIONS

    def _example(self, *, gap: int = 0, dtype: torch.dtype | None = None) -> Tensor:
        """Rows with so many numbers between them."""
        sizes = (_IMAGES, _PIXELS) if self.peephole == "full" else (_IMAGES * _PIXELS,)
        return torch.zeros(*sizes, _CHANNELS + gap, dtype=dtype or self.dtype)[..., :_CHANNELS]

    def _example_preacts(self) -> list[Tensor]:
        return [self._example(gap=3 * _CHANNELS) for _ in range(4)]

    def _example_peepholes(self) -> list[Tensor]:
        if self.peephole == "none":
            return []
        sizes = (_PIXELS, _CHANNELS) if self.peephole == "full" else (_CHANNELS,)
        return [torch.zeros(sizes, dtype=cell_dtype(self.dtype)) for _ in range(3)]


@dataclass(frozen=True)
class Forward(Function):
    """(A_i, A_f, A_g, A_o, as many addends, peepholes, C_{t-1}) → (C_t, gates, H_t, H_t), which are written to. With
    `in_place` C_t takes the place of C_{t-1}."""

    has_addend: bool
    saves_gates: bool
    in_place: bool

    def __call__(self, *tensors: Tensor) -> None:
        rest = iter(tensors)
        preacts = list(islice(rest, 4))
        addends = list(islice(rest, 4 if self.has_addend else 0))
        peepholes = self._take_peepholes(rest)
        c_prev = next(rest)
        preacts = [preact.to(c_prev.dtype) for preact in preacts]
        if addends:
            preacts = [preact + addend for preact, addend in zip(preacts, addends)]
        h, c, gates = reference.cell(preacts, c_prev, peepholes, self.spec, self._activations())
        (c_prev if self.in_place else next(rest)).copy_(c)
        if self.saves_gates:
            for gate, value in zip(islice(rest, 4), gates):
                gate.copy_(value)
        for result in rest:
            result.copy_(h)

    def examples(self) -> list[Tensor]:
        cell = cell_dtype(self.dtype)
        return [
            *self._example_preacts(),
            *(self._example_preacts() if self.has_addend else ()),
            *self._example_peepholes(),
            *(self._example(dtype=cell) for _ in range(1 if self.in_place else 2)),
            *(self._example() for _ in range(4 if self.saves_gates else 0)),
            self._example(),
            self._example(gap=_GAP),
        ]


@dataclass(frozen=True)
class Backward(Function):
    """(dH_t in two parts, or the second alone; C_{t-1}, C_t, peepholes, dC, gates) → dC and (dA_i, dA_f, dA_g, dA_o).
    dC_t is overwritten by dC_{t-1}. Without `saved`, pre-activations take the place of the gates, and the gradients
    theirs."""

    has_grad_output: bool
    saved: bool

    def __call__(self, *tensors: Tensor) -> None:
        rest, dtype, activations = iter(tensors), cell_dtype(self.dtype), self._activations()
        dh = next(rest).to(dtype)
        if self.has_grad_output:
            dh = dh + next(rest).to(dtype)
        c_prev, c = islice(rest, 2)
        peepholes, grad_c = self._take_peepholes(rest), next(rest)
        given = list(islice(rest, 4))
        gates = reference.Gates(*(each.to(dtype) for each in given))
        if not self.saved:
            _, c, gates = reference.cell(gates, c_prev, peepholes, self.spec, activations)
        grads, dc = reference.cell_backward(dh, grad_c, gates, c_prev, c, peepholes, self.spec, activations)
        grad_c.copy_(dc)
        for result, grad in zip(rest if self.saved else given, grads):
            result.copy_(grad)

    def examples(self) -> list[Tensor]:
        cell = cell_dtype(self.dtype)
        return [
            self._example(gap=_GAP),
            *(self._example() for _ in range(self.has_grad_output)),
            *(self._example(dtype=cell) for _ in range(2)),
            *self._example_peepholes(),
            self._example(dtype=cell),
            *(self._example() for _ in range(4 if self.saved else 0)),
            *self._example_preacts(),
        ]


_lock = threading.Lock()
_compiled: dict[Forward | Backward, Callable[..., object] | None] = {}


def compiled(function: Forward | Backward) -> Callable[..., object] | None:
    """The function compiled; None where that fails. The first failure of the process warns."""
    if function in _compiled:
        return _compiled[function]
    if torch._guards.TracingContext.try_get() is not None:
        return None  # a compiler runs this operator, to fold constants say, and holds its lock
    error = None
    with _lock:
        if function not in _compiled:
            # A thread of its own has neither the modes nor the dispatch keys under which an operator runs.
            with ThreadPoolExecutor(1) as pool:
                future = pool.submit(_compile, function)
            error = future.exception()
            _compiled[function] = future.result() if error is None else None
    if error is not None:
        _warn(error)
    return _compiled[function]


def _compile(function: Forward | Backward) -> Callable[..., object]:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # from inside the compiler
        from torch import _inductor  # takes a second

        graph = make_fx(function, tracing_mode="symbolic")(*function.examples())
        examples = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
        options = {**OPTIONS, "cpp.simdlen": 256} if function.narrow else OPTIONS
        return _inductor.compile(graph, examples, options=options)


_warned = False


def _warn(error: BaseException) -> None:
    global _warned
    if not _warned:
        _warned = True
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"tritonlstm: the gates could not be compiled and run in ATen calls, which are slower: {reason}. Inductor"
            ' needs a C++ compiler on the PATH or in the environment variable CXX; backend="aten" does without',
            stacklevel=2,
        )


class CompiledCell(AtenCell):
    def __init__(self, layout: Layout, spec: Spec, like: Tensor, bias: Tensor | None, peephole: Tensor | None):
        super().__init__(layout, spec, like, bias, peephole)
        kind, self._rows, self._w = "none", _flatten, []
        if peephole is not None:
            pixels = math.prod(self._peephole.shape[1:-1])  # H·W, or 1
            packed = self._peephole.view(3, pixels, layout.channels)
            kind = "channel"
            if packed.shape[1] > 1:
                kind, self._rows = "full", _flatten_images
            self._w = list((packed if kind == "full" else packed[:, 0]).unbind())
        narrow = layout.channels <= NARROW_CHANNELS and torch.backends.cpu.get_cpu_capability() == "AVX512"
        self._code = spec.pointwise, kind, like.dtype, narrow

    @staticmethod
    def rows(images: Tensor) -> Tensor:
        """Dense rows: of others `_flatten` would be a copy."""
        return to_rows(images).contiguous()

    def forward(self, step: ForwardStep) -> None:
        if step.marks is not None:
            super().forward(step)  # which comes back with unmarked ones
            return
        has_addend, saves_gates, in_place = step.addend is not None, step.gates is not None, step.c is step.c_prev
        run = compiled(Forward(*self._code, has_addend, saves_gates, in_place))
        if run is None:
            super().forward(step)
            return
        rows = self._rows
        h = rows(step.h)
        run(
            *rows(step.preact).chunk(4, -1),
            *(rows(step.addend).chunk(4, -1) if has_addend else ()),
            *self._w,
            *((rows(step.c),) if in_place else (rows(step.c_prev), rows(step.c))),
            *(map(rows, step.gates.unbind()) if saves_gates else ()),
            h,
            h if step.h_next is None else rows(step.h_next),
        )

    def backward(self, step: BackwardStep) -> None:
        if step.marks is not None:
            super().backward(step)
            return
        run = compiled(Backward(*self._code, step.grad_output is not None, not self._recomputes))
        if run is None:
            super().backward(step)
            return
        rows = self._rows
        run(
            rows(step.grad_h),
            *(() if step.grad_output is None else (rows(step.grad_output.contiguous()),)),
            rows(step.c_prev),
            rows(step.c),
            *self._w,
            rows(step.grad_c),
            *(() if self._recomputes else map(rows, step.gates.unbind())),
            *rows(step.grad_preact).chunk(4, -1),
        )


def _flatten(tensor: Tensor) -> Tensor:
    """(B, *spatial, channels) as (M, channels), without a copy."""
    return tensor.flatten(0, -2)


def _flatten_images(tensor: Tensor) -> Tensor:
    """(B, H, W, channels) as (B, H·W, channels), without a copy."""
    return tensor.flatten(1, -2)
