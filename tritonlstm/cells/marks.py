"""Steps with marks (see `core.marks`), for cells without them: passes over h and c before and after such a cell.

A held sample's numbers are computed too, and thrown away.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from ..core.marks import BLANK, HOLD, RESET, RESET_NEXT, has
from .step import BackwardStep, ForwardStep


def forward_marked(run: Callable[[ForwardStep], None], step: ForwardStep) -> None:
    """A step forward, of which `run` computes that of an unmarked one."""
    marks, c_prev = step.marks, step.c_prev
    dims = c_prev.dim() - 1
    hold = has(marks.marks, HOLD, dims)
    if marks.reset_c is None:
        c_prev = c_prev.clone() if step.c is c_prev else c_prev
    else:
        c_prev = torch.where(has(marks.marks, RESET, dims), marks.reset_c, c_prev)
    h = torch.empty_like(step.h)
    run(replace(step, c_prev=c_prev, h=h, h_next=None, marks=None))
    torch.where(hold, c_prev, step.c, out=step.c)
    torch.where(hold, marks.h_prev, h, out=h)
    marks.output.copy_(h).masked_fill_(has(marks.marks, BLANK, dims), 0)
    if marks.reset_h is not None:
        torch.where(has(marks.marks, RESET_NEXT, dims), marks.reset_h, h, out=h)
    step.h.copy_(h)
    if step.h_next is not None:
        step.h_next.copy_(h)


def backward_marked(run: Callable[[BackwardStep], None], step: BackwardStep) -> None:
    """A step backward, of which `run` computes that of an unmarked one."""
    marks, c_prev, grad_output = step.marks, step.c_prev, step.grad_output
    dims = c_prev.dim() - 1
    hold = has(marks.marks, HOLD, dims)
    grad_h = marks.grad_held.add_(step.grad_h)
    if marks.reset_c is not None:
        reset, reset_next = has(marks.marks, RESET, dims), has(marks.marks, RESET_NEXT, dims)
        c_prev = torch.where(reset, marks.reset_c, c_prev)
        if marks.grad_reset_h is not None:
            marks.grad_reset_h.add_(torch.where(reset_next, grad_h, 0))
        grad_h.masked_fill_(reset_next, 0)
    if grad_output is not None:
        grad_output = grad_output.masked_fill(has(marks.marks, BLANK, dims), 0)
    grad_c = step.grad_c.clone()
    unmarked = replace(step, c_prev=c_prev, grad_output=grad_output, grad_h=grad_h.to(step.grad_h.dtype), marks=None)
    run(unmarked)
    step.grad_preact.masked_fill_(hold, 0)
    if grad_output is not None:
        grad_h.add_(grad_output)
    grad_h.masked_fill_(~hold, 0)
    torch.where(hold, grad_c, step.grad_c, out=step.grad_c)
    if marks.reset_c is not None:
        if marks.grad_reset_c is not None:
            marks.grad_reset_c.add_(torch.where(reset, step.grad_c, 0))
        step.grad_c.masked_fill_(reset, 0)
