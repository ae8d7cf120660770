"""How an operator is registered: schema, implementation for every device, fake, and batching rule."""

from collections.abc import Callable

import torch

from .vmap import batching_rule

TAGS = (torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)


def register(name: str, schema: str, implementation: Callable, fake: Callable) -> None:
    """Register `tritonlstm::<name>`, which returns several tensors, none of which aliases an input or another."""
    qualified = f"tritonlstm::{name}"
    torch.library.define(qualified, schema, tags=TAGS)
    torch.library.impl(qualified, "CompositeExplicitAutograd", implementation)
    torch.library.register_fake(qualified, fake)
    torch.library.register_vmap(qualified, batching_rule(getattr(torch.ops.tritonlstm, name)))
