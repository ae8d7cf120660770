"""Refuses PyTorch's older tracers, which cannot see what these layers do."""

import torch
from torch import Tensor


def check_untraced(input: object, other: object) -> None:
    """Raises RuntimeError under torch.jit.trace and torch.fx, which have no sizes for the loop over time to run on.

    `other` is what torch.fx replaces where the call has no input.
    """
    if torch.jit.is_tracing():
        raise RuntimeError(
            "tritonlstm: torch.jit.trace, which torch.onnx.export(dynamo=False) and TensorBoard's add_graph run, cannot"
            " trace these layers; use torch.export.export, or torch.onnx.export with dynamo=True"
        )
    if not isinstance(input, Tensor) and isinstance(input if input is not None else other, torch.fx.Proxy):
        raise RuntimeError(
            "tritonlstm: torch.fx.symbolic_trace cannot trace these layers; use torch.export.export, or a"
            " torch.fx.Tracer whose is_leaf_module returns True for them"
        )


def refuse_script() -> None:
    """For a module's `__prepare_scriptable__`, which torch.jit.script calls first."""
    raise RuntimeError(
        "tritonlstm: torch.jit.script cannot compile these layers; use torch.compile or torch.export.export"
    )
