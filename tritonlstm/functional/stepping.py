"""A layer over a sequence, step by step: for what lies between the convolution, the gates and the next step.

Each step is `step.step`, which PyTorch differentiates, so that a module may stand between convolution and gates, and
masks on the way from one step to the next. It takes longer than a whole sequence in one operator, keeps more for the
backward pass, and is unrolled by torch.compile.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core import checks
from ..core.arguments import Arguments
from ..core.dtypes import cell_dtype, compute_dtype
from ..core.layout import from_rows, to_rows
from ..core.marks import BLANK, HOLD, RESET, Marks, has
from ..core.spec import Spec
from ..core.state import LSTMState
from .dropout import Zoneout, drop_out_mask
from .gates import State
from .marks import with_marks
from .step import step


def layer_by_steps(
    arguments: Arguments,
    steps: int,
    spec: Spec,
    spatial_dims: tuple[str, ...],
    *,
    norm: Callable[[Tensor], Tensor] | None = None,
    recurrent_dropout: float = 0.0,
    zoneout: Zoneout | None = None,
    training: bool = False,
    generator: torch.Generator | None = None,
    marks: Marks | None = None,
    reset_state: State | None = None,
) -> tuple[Tensor, LSTMState] | tuple[Tensor, LSTMState, Tensor]:
    """`sequence.layer`, step by step.

    `norm` is applied to the pre-activations (B, 4C, *spatial), bias included, before peepholes and gates. In training,
    the hidden state that the convolutions read is dropped out with the probability `recurrent_dropout`, by one mask for
    all steps. With memory "recompute" each step is checkpointed: its gates and pre-activations are not kept. Masks are
    drawn outside of that.
    """
    input = arguments.input
    steps = checks.count_steps(steps, input)
    state = _initial(arguments, spatial_dims)
    h, c = state
    arguments = with_marks(arguments, marks, reset_state, (steps, *h.shape), spatial_dims)
    outputs, cells = [None] * steps, [None] * steps
    mask = drop_out_mask(h, recurrent_dropout, generator) if recurrent_dropout and training else None

    def one(frame: Tensor | None, h: Tensor, c: Tensor) -> LSTMState:
        read = h if mask is None else h * mask
        return step(arguments._replace(input=frame, h0=read, c0=c), spec, spatial_dims, norm=norm)

    recomputes = spec.recomputes and torch.is_grad_enabled()
    for t in range(steps)[:: -1 if spec.reverse else 1]:
        frame = None if input is None else input[t]
        if marks is not None:
            reset, hold, blank = (has(marks.bits[t], mark, h.dim() - 1) for mark in (RESET, HOLD, BLANK))
        if arguments.reset_h is not None:
            h, c = torch.where(reset, arguments.reset_h.to(h.dtype), h), torch.where(reset, arguments.reset_c, c)
        if recomputes:
            new = checkpoint(one, frame, h, c, use_reentrant=False, preserve_rng_state=False)
        else:
            new = one(frame, h, c)
        if zoneout is not None:
            new = zoneout.apply(new, LSTMState(h, c), training, generator)
        h, c = new if marks is None else (torch.where(hold, old, each) for old, each in zip((h, c), new))
        outputs[t], cells[t] = h if marks is None else torch.where(blank, 0, h), c
    pair = LSTMState(h.clone(), c.clone())  # may be written to, unlike what the last step has kept
    if spec.returns == "last":
        return h.clone(), pair  # with marks each sample's own last
    return _stack(outputs), pair, *([_stack(cells)] if spec.returns == "cells" else [])


def _initial(arguments: Arguments, spatial_dims: tuple[str, ...]) -> LSTMState:
    """The state before the first step, in the dtypes that a step computes in."""
    dtype = compute_dtype(arguments.weight)
    if arguments.h0 is not None:
        checks.check_pair("state", (arguments.h0, arguments.c0))
        return LSTMState(arguments.h0.to(dtype), arguments.c0)
    if arguments.input is None:
        raise ValueError("state: expected (h, c), which alone tells the sizes without input, got None")
    checks.check_input("input", arguments.input, ("T", "B", "Cin", *spatial_dims), arguments.in_channels)
    rows = to_rows(arguments.input, channel_dim=2)[0]
    size = (*rows.shape[:-1], arguments.channels)
    h, c = (from_rows(rows.new_zeros(size, dtype=each)) for each in (dtype, cell_dtype(dtype)))
    return LSTMState(h, c)


def _stack(images: list[Tensor]) -> Tensor:
    """(T, B, C, *spatial), stored channels last."""
    return from_rows(torch.stack([to_rows(each) for each in images]), channel_dim=2)
