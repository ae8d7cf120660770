"""Dropout and zoneout: masks that are drawn from a generator, or as PyTorch draws them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.state import LSTMState


def drop_out(x: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    """x with each element zero with probability p, else divided by 1 - p; drawn from `generator`, or as by PyTorch."""
    return F.dropout(x, p) if generator is None else x * drop_out_mask(x, p, generator)


def drop_out_mask(like: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    """0 with probability p, else 1 / (1 - p): a tensor like `like`."""
    kept = torch.empty_like(like, requires_grad=False).bernoulli_(1 - p, generator=generator)
    return kept if p == 1 else kept.div_(1 - p)


@dataclass(frozen=True)
class Zoneout:
    """Zoneout (Krueger et al. 2017, arXiv 1606.01305, equations 4 and 5), as haste has it for h.

        H_t = z_h ∘ H_{t-1} + (1 - z_h) ∘ H~_t        C_t = z_c ∘ C_{t-1} + (1 - z_c) ∘ C~_t

    with H~ and C~ what the gates give, z_h and z_c drawn for each element and step: 1 with the probabilities `h` and
    `c`. In evaluation these probabilities themselves stand for z, its expectation.
    """

    h: float = 0.0
    c: float = 0.0

    def apply(self, new: LSTMState, old: LSTMState, training: bool, generator: torch.Generator | None) -> LSTMState:
        """The state of which some elements stay what they were."""
        return LSTMState(
            _mix(new.h, old.h, self.h, training, generator), _mix(new.c, old.c, self.c, training, generator)
        )


def _mix(new: Tensor, old: Tensor, p: float, training: bool, generator: torch.Generator | None) -> Tensor:
    if p == 0:
        return new
    if not training:
        return torch.lerp(new, old, p)
    stays = torch.empty_like(new, dtype=torch.bool, requires_grad=False).bernoulli_(p, generator=generator)
    return torch.where(stays, old, new)
