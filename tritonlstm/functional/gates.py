"""The gates of one step, for pre-activations from anywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops, reference
from ..core import checks
from ..core.backend import resolve
from ..core.dtypes import without_autocast
from ..core.spec import Options, Spec, check_keywords
from ..core.state import LSTMState, as_passed

if TYPE_CHECKING:
    from typing_extensions import Unpack

State = tuple[Tensor, Tensor]
"""(h, c), an `LSTMState` or a plain tuple: the hidden state in the input's dtype, and the cell state, in float32 if
that is a half-precision dtype."""


def lstm_gates(
    preact: Tensor,
    c: Tensor,
    *,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    **options: Unpack[Options],
) -> LSTMState:
    """The gates of one LSTM step, for pre-activations from a convolution, product or normalisation of your own.

        i = σ(A_i + w_ci ∘ c)    f = σ(A_f + w_cf ∘ c)    g = φ(A_g)         [A_i A_f A_g A_o] = preact + bias
        c' = f ∘ c + i ∘ g       o = σ(A_o + w_co ∘ c')   h' = o ∘ ψ(c')

    with σ the recurrent activation, φ the activation and ψ the output's (Shi et al. 2015, arXiv 1506.04214, equation
    3). With a cell_clip, c' is clipped before it is read. One Triton kernel on a GPU; on a CPU one operator of ATen
    calls or, where that is faster, plain operations: for small steps, and under torch.compile, which fuses them.

    Args:
        preact: (B, 4C, *spatial), or (B, 4C) for vectors, with the gates in the order i, f, g, o. Any strides;
            channels last is used as it lies, and a GPU copies any other memory format to it.
        c: (B, C, *spatial), the cell state; float32 if preact has a half-precision dtype, else in its dtype.
        bias: (4C), added to preact. A convolution on a CPU adds it at no cost; on a GPU these gates do.
        peephole: (3, C, *ones) or (3, C, *spatial), the weights of c in the gates i, f, o.
        options: `activation`, `recurrent_activation`, `output_activation`, `cell_clip` and `backend` of
            `tritonlstm.Spec`, by keyword; the others have no effect.

    Returns:
        An `LSTMState` (h, c), each (B, C, *spatial), in the memory format of preact where that is channels last or
        contiguous; h has its dtype. Differentiable once; with backend="torch" as often as PyTorch is. For the backward
        pass the operator keeps the gates, 4C channels in preact's dtype, but not preact.

    Raises:
        TypeError, ValueError: for an invalid argument, which the message names, before anything is computed.
    """
    check_keywords("lstm_gates", options, lstm_gates)
    checks.check_gates(preact, c, bias, peephole)
    spec = Spec(**options)
    return as_passed(LSTMState(*gates(preact, c, bias, peephole, spec, resolve(spec.backend, preact))), None)


FEW = 2**17
"""Elements of c up to which a CPU computes in plain operations: there they take no longer than the operator, and a
third of its time in the smallest steps (bench/NOTES.md)."""


def gates(preact: Tensor, c: Tensor, bias: Tensor | None, peephole: Tensor | None, spec: Spec, backend: str) -> State:
    """`lstm_gates` of arguments that were checked, on a resolved backend."""
    return gates_for(c.numel(), c.device, peephole, spec, backend)(preact, c, bias, peephole)


def gates_for(
    elements: int, device: torch.device, peephole: Tensor | None, spec: Spec, backend: str
) -> Callable[[Tensor, Tensor, Tensor | None, Tensor | None], State]:
    """`gates` as a function of (preact, c, bias, peephole), for a c of `elements` elements.

    Other tensors may take the place of these if they have the same shapes, dtypes and device.
    """
    is_compiling = torch.compiler.is_compiling()
    is_plain_faster = spec.backend == "auto" and device.type != "cuda" and (is_compiling or elements <= FEW)
    if backend == "torch" or is_plain_faster:
        return functools.partial(_plain_gates, spec=spec)
    if backend == "triton":
        checks.check_peephole_offsets(peephole)
    encode = _encode if is_compiling else _encode_once
    return functools.partial(ops.gates, spec=encode(spec, backend))


def _plain_gates(preact: Tensor, c: Tensor, bias: Tensor | None, peephole: Tensor | None, spec: Spec) -> State:
    if bias is None and preact.dtype == c.dtype and (peephole is None or peephole.dtype == c.dtype):
        return reference.gates(preact, c, peephole, spec=spec)[:2]
    with without_autocast(preact):
        wide = preact.to(c.dtype)
        if bias is not None:
            wide = wide + bias.to(c.dtype).reshape(-1, *[1] * (wide.dim() - 2))
        h, c, _ = reference.gates(wide, c, None if peephole is None else peephole.to(c.dtype), spec=spec)
        return h.to(preact.dtype), c


def _encode(spec: Spec, backend: str) -> str:
    return replace(spec, backend=backend, memory="save", schedule="concat", reverse=False).encode()


_encode_once = functools.cache(_encode)
