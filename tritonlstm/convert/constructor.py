"""The code that builds a layer, for people whose weights have been converted to a file."""

import dataclasses

import torch
from torch import nn

from ..core.spec import Spec
from ..modules.conv_lstm import ConvLSTM
from ..modules.stack import RecurrentStack

_OF_THE_CALL = ("returns", "dilation", "reverse")
"""Fields of Spec that are no option of a layer, or are written by themselves."""


def constructor(layer: RecurrentStack) -> str:
    """The call that builds a layer like this one, as "ConvLSTM2d(1, [64, 64], 3, peephole='none')"."""
    cells = list(layer.layers)
    first = cells[0]
    arguments = [repr(first.in_channels), repr(_of_all([cell.hidden_channels for cell in cells]))]
    options: dict[str, object] = {}
    if isinstance(layer, ConvLSTM):
        arguments.append(repr(_sizes(list(layer.kernel_size))))
        if any(size is not None for size in layer.input_kernel_size):
            options["input_kernel_size"] = _sizes(list(layer.input_kernel_size))
        peephole = first.peephole
        if peephole is None:
            options["peephole"] = "none"
        elif any(size != 1 for size in peephole.shape[2:]):
            options |= {"peephole": "full", "spatial_size": tuple(peephole.shape[2:])}
    else:
        options |= {"peephole": False} if first.peephole is None else {}
        options |= {"proj_size": first.proj_size} if first.proj_size else {}
    options |= {"bias": False} if first.bias is None else {}
    options |= {name: True for name in ("batch_first", "bidirectional", "reverse") if getattr(layer, name)}
    options |= {"dropout": layer.dropout} if layer.dropout else {}
    options |= _regularisation(first.regularisation)
    dilations = [cell.spec.dilation for cell in cells]
    if any(each != 1 for each in dilations):
        options["dilation"] = dilations[0] if len(set(dilations)) == 1 else dilations
    for field in dataclasses.fields(Spec):
        value = getattr(first.spec, field.name)
        if field.name not in _OF_THE_CALL and value != field.default:
            options[field.name] = value
    if first.weight.dtype != torch.float32:
        options["dtype"] = first.weight.dtype
    arguments += [f"{name}={value!r}" for name, value in options.items()]
    arguments += [f"norm={_norm(first.norm)}"] if first.norm is not None else []
    return f"{type(layer).__name__}({', '.join(arguments)})"


def _norm(module: nn.Module) -> str:
    """What makes such a module, one of those of `norms`."""
    kind = type(module).__name__
    if isinstance(module, nn.GroupNorm):
        return f"lambda channels: torch.nn.{kind}(channels // {module.num_channels // module.num_groups}, channels)"
    return f"torch.nn.{kind}"


def _of_all(values: list) -> object:
    """One layer's value by itself, else the list."""
    return values[0] if len(values) == 1 else values


def _sizes(kernels: list[tuple[int, ...] | None]) -> object:
    """A size for all layers and dimensions if there is one, else a tuple for each layer."""
    if len(set(kernels)) > 1:
        return kernels
    return kernels[0][0] if len(set(kernels[0])) == 1 else kernels[0]


def _regularisation(values) -> dict[str, object]:
    options = {name: getattr(values, name) for name in ("input_dropout", "recurrent_dropout")}
    options["zoneout"] = values.zoneout and (values.zoneout.h, values.zoneout.c)
    return {name: value for name, value in options.items() if value}
