"""The operators of a whole sequence: schemas, implementations, fakes, gradients.

A schema has tensors, the number of steps and one string, the encoded `Spec`: a new option changes none of them.
Training and inference have an operator each, so that inference saves nothing. Sequences with marks have operators of
their own, of the same implementation: those without pay nothing for them, and programs exported before still load.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..cells import cell_type
from ..core.arguments import UNMARKED, Arguments, Results, Saved
from ..core.dtypes import cell_dtype, without_autocast
from ..core.layout import Layout, to_rows
from ..core.spec import Spec
from ..engines import engine
from .autograd import Differentiable
from .registration import define, register_autograd
from .vmap import batching_rule

_RESULTS = ", ".join(f"Tensor {name}" for name in Results._fields)
_GRADS = ", ".join(f"Tensor? grad_{name}" for name in Results._fields)
_SAVED = ", ".join(f"Tensor {name}" for name in Saved._fields)


def _schemas(prefix: str, names: Sequence[str], hidden: str) -> dict[str, str]:
    """Of a family of operators with these arguments; `hidden` is what training returns behind the rest."""
    given = ", ".join(f"Tensor{'' if name == 'weight' else '?'} {name}" for name in names)
    return {
        f"{prefix}inference": f"({given}, SymInt steps, str spec) -> ({_RESULTS})",
        f"{prefix}training": f"({given}, SymInt steps, str spec) -> ({_RESULTS}, Tensor cells, Tensor gates{hidden})",
        f"{prefix}backward": f"({_GRADS}, {given}, {_SAVED}, SymInt steps, str spec, bool[] needs) -> Tensor[]",
    }


SCHEMAS = {
    **_schemas("", Arguments._fields[:UNMARKED], ""),
    **_schemas("marked_", Arguments._fields, ", Tensor hidden"),
}


def split_backward(args: tuple) -> tuple[Results, Arguments, Saved, int, str, list[bool]]:
    """The arguments of a backward operator by what they belong to."""
    rest = 3  # steps, spec and needs
    first, second, third = len(Results._fields), len(args) - rest - len(Saved._fields), len(args) - rest
    return Results(*args[:first]), Arguments(*args[first:second]), Saved(*args[second:third]), *args[third:]


def _decode(args: tuple) -> tuple[Arguments, Spec, Layout]:
    """What the arguments of a forward operator mean."""
    *tensors, steps, text = args
    arguments, spec = Arguments(*tensors), Spec.decode(text)
    return arguments, spec, Layout.of(arguments, steps, spec)


def _forward(args: tuple, *, save: bool) -> tuple[Tensor, ...]:
    arguments, spec, layout = _decode(args)
    with without_autocast(arguments.weight), torch.cuda.device_of(arguments.weight):
        results, saved = engine(arguments, layout, spec).forward(save=save)
    if not save:
        return tuple(results)
    return *results, saved.cells, saved.gates, *([] if arguments.marks is None else [saved.output])


def _inference(*args):
    return _forward(args, save=False)


def _training(*args):
    return _forward(args, save=True)


def _backward(*args):
    grads, arguments, saved, steps, text, needs = split_backward(args)
    spec, weight = Spec.decode(text), arguments.weight
    # Copies only slices from vmap.
    saved = saved._replace(cells=saved.cells.contiguous(), gates=saved.gates.contiguous())
    with without_autocast(weight), torch.cuda.device_of(weight):
        found = engine(arguments, Layout.of(arguments, steps, spec), spec).backward(grads, saved, Arguments(*needs))
    return [grad for grad in found if grad is not None]


def _fake_inference(*args):
    arguments, spec, layout = _decode(args)
    return tuple(layout.new_results(arguments.weight, spec, save=False))


def _fake_training(*args):
    arguments, spec, layout = _decode(args)
    weight, is_marked = arguments.weight, arguments.marks is not None
    results = layout.new_results(weight, spec, save=not is_marked)
    return (
        *results,
        layout.new_sequence(weight, layout.channels, layout.steps + 1, cell_dtype(weight.dtype)),
        cell_type(spec).new_gates(to_rows(results.h_n), 0 if spec.recomputes else layout.steps),
        *([layout.new_images(weight, layout.channels, layout.steps)] if is_marked else []),
    )


def _fake_backward(*args):
    _, arguments, saved, steps, text, needs = split_backward(args)
    layout = Layout.of(arguments, steps, Spec.decode(text))
    images = {
        "input": lambda: layout.new_images(arguments.weight, layout.in_channels, layout.steps),
        "h0": lambda: layout.new_images(arguments.weight, layout.channels),
        "c0": lambda: layout.new_images(saved.cells, layout.channels),
    }
    images["reset_h"], images["reset_c"] = images["h0"], images["c0"]
    return [
        images[name]() if name in images else torch.empty_like(tensor)
        for name, tensor, needed in zip(Arguments._fields[: len(needs)], arguments[: len(needs)], needs, strict=True)
        if needed
    ]


for _prefix in ("", "marked_"):
    for _name, _implementation, _fake in (
        (f"{_prefix}inference", _inference, _fake_inference),
        (f"{_prefix}training", _training, _fake_training),
        (f"{_prefix}backward", _backward, _fake_backward),
    ):
        define(_name, SCHEMAS[_name], _implementation, _fake, batching_rule(_name))

# Inductor elides `clone`, which would alias the output with a saved tensor.
define("copy", "(Tensor output) -> Tensor", torch.clone, torch.clone)
register_autograd("copy", lambda _, grad: grad)


def _keep(tensors, outputs):
    output, _, _, cells, gates, *hidden = outputs
    return *tensors, *(hidden or [output]), cells, gates


_unmarked, _marked = (Differentiable(prefix, results=len(Results._fields), keep=_keep) for prefix in ("", "marked_"))


def copy(output: Tensor) -> Tensor:
    """A copy that stays one under torch.compile."""
    return torch.ops.tritonlstm.copy(output) if torch.compiler.is_compiling() else output.clone()


def sequence(arguments: Arguments, steps: int, spec: Spec, *, shares_output: bool = False) -> Results:
    """One layer over a sequence, with a resolved backend and schedule, differentiable once. Checks nothing.

    A state of None is zero; h0 and c0 come both or neither. The schedule "hoisted", and an input_weight, need an input.
    The results are stored channels last. They may be written to before the backward pass, which keeps an output of its
    own; with `shares_output` it keeps the one that is returned.

    With spec.returns "last" the output is that of the last step, (B, C, *spatial); with "cells" c_n is c at every step.
    """
    if arguments.marks is not None:
        output, h_n, c_n, *_ = _marked(arguments, (steps, spec.encode()))  # which keeps no result of these
        # Past a sample's length the last step's output is zero; the last hidden state is the sample's own.
        return Results(copy(h_n) if spec.returns == "last" else output, h_n, c_n)
    output, h_n, c_n, *saved = _unmarked(arguments[:UNMARKED], (steps, spec.encode()))
    if spec.returns == "last":
        # The output that is kept has every step's h: its gradient would be a sequence of zeros.
        return Results(copy(h_n) if saved else output.squeeze(0), h_n, c_n)
    return Results(copy(output) if saved and not shares_output else output, h_n, c_n)
