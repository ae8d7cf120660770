"""The marks of a layer's call among its arguments."""

from collections.abc import Sequence

from ..core import checks
from ..core.arguments import Arguments
from ..core.dtypes import cell_dtype
from ..core.marks import Marks
from .gates import State


def with_marks(
    arguments: Arguments,
    marks: Marks | None,
    reset_state: State | None,
    sizes: tuple[int, ...],
    spatial_dims: Sequence[str],
) -> Arguments:
    """The arguments with marks and, where samples are reset, each one's reset state; sizes (T, B, C, *spatial)."""
    if reset_state is not None and (marks is None or not marks.resets):
        raise ValueError(f"reset_state: expected None without reset, got {checks.describe(reset_state)}")
    if marks is None:
        return arguments
    checks.check_shape("marks", marks.bits, sizes[:2], ("T", "B"))
    arguments = arguments._replace(marks=marks.bits)
    if not marks.resets:
        return arguments
    weight, (batch, *rest) = arguments.weight, sizes[1:]
    if reset_state is None:
        zeros = weight.new_zeros(1, *rest)
        reset_state = zeros, zeros.to(cell_dtype(weight.dtype))
    checks.check_pair("reset_state", reset_state)
    h, c = reset_state
    outer = 1 if h.dim() and len(h) == 1 else batch
    checks.check_state("reset_state", reset_state, (outer, *rest), ("B or 1", "C", *spatial_dims), like=weight)
    return arguments._replace(reset_h=h.expand(batch, *rest), reset_c=c.expand(batch, *rest))
