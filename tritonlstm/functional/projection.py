"""An LSTM whose hidden state is projected to fewer channels (Sak et al. 2014, arXiv 1402.1128), as nn.LSTM's proj_size.

    A_t = W_x X_t + W_h H_{t-1} + b        M_t = o_t ∘ ψ(C_t)        H_t = W_r M_t

with H of P channels, and M and C of C channels. Since W_h H_{t-1} = (W_h W_r) M_{t-1}, a sequence is that of an
ordinary layer whose hidden state is M, with the weight [W_x ; W_h W_r], and one product for all H_t. The product
W_h W_r makes a step's weight 4C × C instead of 4C × P, and rounds in another order. A first step that reads a given H
is computed by itself.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import checks
from ..core.arguments import UNMARKED, Arguments
from ..core.backend import resolve
from ..core.dtypes import cell_dtype, compute_dtype, without_autocast
from ..core.spec import Spec
from ..core.state import LSTMState
from .gates import gates
from .sequence import layer


def projected_layer(
    arguments: Arguments, projection: Tensor, steps: int | None, spec: Spec
) -> tuple[Tensor, LSTMState] | tuple[Tensor, LSTMState, Tensor]:
    """`sequence.layer` with a projection (P, C): weight (4C, Cin + P), h0 (B, P), output (T, B, P)."""
    weight, in_channels = arguments.weight, _check(arguments, projection)
    of_input, of_hidden = weight.split([in_channels, len(projection)], 1)
    with without_autocast(weight):
        composed = arguments._replace(weight=torch.cat([of_input, of_hidden @ projection], 1), h0=None, c0=None)
    if arguments.h0 is None:
        m, pair, *cells = layer(composed, steps, spec, (), shares_output=True)
        return _project(m, pair, cells, projection, spec)

    input = arguments.input
    steps = checks.count_steps(steps, input)
    frame = None if input is None else input[-1 if spec.reverse else 0]
    first = _first_step(arguments._replace(input=frame), projection, spec)
    if steps == 1:
        m, every_c = (first.h, []) if spec.returns == "last" else (first.h[None], [first.c[None]])
        return _project(m, first, every_c if spec.returns == "cells" else [], projection, spec)
    frames = None if input is None else (input[:-1] if spec.reverse else input[1:])
    composed = composed._replace(input=frames, h0=first.h, c0=first.c)
    m, pair, *cells = layer(composed, steps - 1 if input is None else None, spec, (), shares_output=True)
    if spec.returns != "last":
        m, cells = _join(first.h, m, spec), [_join(first.c, each, spec) for each in cells]
    return _project(m, pair, cells, projection, spec)


def projected_step(arguments: Arguments, projection: Tensor, spec: Spec) -> LSTMState:
    """`step.step` with a projection: input (B, Cin), h0 (B, P), c0 (B, C), or all without B."""
    in_channels = _check(arguments, projection)
    input, h = arguments.input, arguments.h0
    if input is None and h is None:
        raise ValueError("state: expected (h, c), which alone tells the sizes without input, got None")
    is_batched = checks.is_batched(*(("state[0]", h) if input is None else ("input", input)), ("B", "channels"))
    if not is_batched:
        batched = {
            name: None if getattr(arguments, name) is None else getattr(arguments, name).unsqueeze(0)
            for name in ("input", "h0", "c0")
        }
        arguments = arguments._replace(**batched)
    if arguments.input is not None:
        checks.check_input("input", arguments.input, ("B", "Cin"), in_channels)
    m, c = _first_step(arguments, projection, spec)
    h = F.linear(m, projection.to(m.dtype))
    return LSTMState(h, c) if is_batched else LSTMState(h.squeeze(0), c.squeeze(0))


def _check(arguments: Arguments, projection: Tensor) -> int:
    """Check the sizes of weight and projection. Returns Cin."""
    weight = arguments.weight
    checks.check_tensor("weight", weight)
    checks.check_tensor("projection", projection)
    if weight.dim() != 2:
        raise ValueError(f"weight: expected 2 dimensions, got shape {tuple(weight.shape)}")
    rows, columns = weight.shape
    if projection.dim() != 2 or 4 * projection.shape[1] != rows or not 1 <= projection.shape[0] <= columns:
        raise ValueError(
            f"projection: expected shape (P, C) = (1 … {columns}, {rows // 4}), for a weight of shape (4·C, Cin + P) ="
            f" {tuple(weight.shape)}, got {tuple(projection.shape)}"
        )
    if projection.dtype != weight.dtype:
        raise TypeError(f"projection: expected {weight.dtype}, as weight has, got {projection.dtype}")
    checks.check_device("projection", projection, weight.device)
    return columns - projection.shape[0]


def _first_step(arguments: Arguments, projection: Tensor, spec: Spec) -> LSTMState:
    """M and C after one step from H and C; zeros where there is no state. Of tensors with a batch."""
    input, h, c, weight, _, bias, peephole = arguments[:UNMARKED]
    if input is not None:
        checks.check_dtype("input", input, weight)
        checks.check_device("input", input, weight.device)
    dtype, batch = compute_dtype(weight), len(h if input is None else input)
    channels, projected = projection.shape[1], projection.shape[0]
    if h is not None:
        checks.check_state("state", (h, c), (batch, projected), ("B", "P"), like=weight, c_shape=(batch, channels))
    else:
        h, c = weight.new_zeros(batch, projected), weight.new_zeros(batch, channels, dtype=cell_dtype(dtype))
    columns = [each.to(dtype) for each in (input, h) if each is not None]
    with without_autocast(weight):
        preact = F.linear(torch.cat(columns, 1), weight.to(dtype), None if bias is None else bias.to(dtype))
    return LSTMState(*gates(preact, c, None, peephole, spec, resolve(spec.backend, preact)))


def _join(first: Tensor, rest: Tensor, spec: Spec) -> Tensor:
    """What the first step gave with what the others did, in the order of time."""
    return torch.cat([rest, first[None]] if spec.reverse else [first[None], rest])


def _project(m: Tensor, pair: LSTMState, cells: list[Tensor], projection: Tensor, spec: Spec):
    """The results of a layer, from those with M in the place of H."""
    projection = projection.to(m.dtype)
    with without_autocast(m):
        output = F.linear(m, projection)
        h = output if spec.returns == "last" else output[0 if spec.reverse else -1]
    return output, LSTMState(h.clone(), pair.c), *cells
