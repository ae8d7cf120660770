"""Samples that end before others, are reset or held: what a stack's caller passes, and what its cells get."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..core import checks
from ..core.marks import Marks, make_marks
from ..core.state import check_layers
from ..functional import State


class Masks(NamedTuple):
    """The arguments of a call as they were passed; all None where samples are alike."""

    lengths: Tensor | Sequence[int] | None
    reset: Tensor | None
    reset_state: Sequence[State] | None
    hold: Tensor | None

    @property
    def given(self) -> bool:
        return any(each is not None for each in self)

    def refuse(self, why: str) -> None:
        """Raise a ValueError for the first that was passed."""
        for name, value in self._asdict().items():
            if value is not None:
                raise ValueError(f"{name}: expected None {why}, got {checks.describe(value)}")

    def marks(
        self,
        steps: int,
        batch: int,
        device: torch.device,
        *,
        batched: bool,
        batch_first: bool,
        bidirectional: bool,
        num_layers: int,
    ) -> Marks | None:
        """The marks (T, B) of the call, checked; a mask is (B, T) with `batch_first`, and (T) without a batch."""
        if self.reset is None and self.reset_state is not None:
            raise ValueError(f"reset_state: expected None without reset, got {checks.describe(self.reset_state)}")
        if self.reset is not None and bidirectional:
            raise ValueError(
                "reset: expected None with bidirectional=True, whose second direction would be reset a step too early;"
                " use two layers, one of them with reverse=True and a mask with reverse_mask[t - 1] = reset[t]"
            )
        if self.reset_state is not None:
            check_layers(self.reset_state, num_layers, name="reset_state")
        if self.lengths is not None and not batched:
            raise ValueError(
                f"lengths: expected None without a batch dimension, got {checks.describe(self.lengths)}; cut the input"
            )
        masks = {"reset": self.reset, "hold": self.hold}
        for name, mask in masks.items():
            if mask is None:
                continue
            checks.check_tensor(name, mask)
            wanted, dims = ((batch, steps), ("B", "T")) if batch_first else ((steps, batch), ("T", "B"))
            if not batched:
                wanted, dims = (steps,), ("T",)
            checks.check_shape(name, mask, wanted, dims)
            masks[name] = mask.unsqueeze(1) if not batched else mask.t() if batch_first else mask
        return make_marks(self.lengths, **masks, steps=steps, batch=batch, device=device)

    def check_reset_state(
        self,
        channels: Sequence[tuple[int, int] | None],
        like: Tensor,
        spatial_dims: tuple[str, ...],
        *,
        batched: bool,
    ) -> None:
        """Check the state that samples are reset to against cells with these channels of h and c, where they tell them.

        like: a frame of the input, or h of the state, (B, channels, *spatial) in any case.
        """
        spatial = like.shape[2:]
        for index, (pair, known) in enumerate(zip(self.reset_state, channels)):
            name = f"reset_state[{index}]"
            checks.check_pair(name, pair)
            if known is None:
                continue
            outer, dims = (), ("C", *spatial_dims)
            if batched:
                h = pair[0]
                outer, dims = (1 if h.dim() and len(h) == 1 else len(like),), ("B or 1", *dims)
            of_h, of_c = ((*outer, each, *spatial) for each in known)
            checks.check_state(name, pair, of_h, dims, like=like, c_shape=of_c)
