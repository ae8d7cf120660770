"""The registered operators: schema, implementation, fake, batching rule and autograd, in that order.

A whole sequence is one opaque operator, so that a compiler sees neither the time loop nor its length. Training and
inference have one each, so that inference saves nothing. Autograd comes twice, over the same two functions: registered
on the operator for torch.compile and torch.export, and as an `autograd.Function` for eager code and torch.func.
"""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from . import _gates_aten, _sequence
from ._dtypes import cell_dtype, without_autocast
from ._layout import Layout
from ._schedules import Needs, Saved, Weights, schedule
from ._vmap import batching_rule

_ARGUMENTS = (
    "Tensor? input, Tensor? h0, Tensor? c0, Tensor weight, Tensor? input_weight, Tensor? bias, Tensor? peephole,"
    " SymInt steps, str activation, bool triton, bool hoisted, bool recompute, bool planar"
)
_TAGS = (torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)

torch.library.define(
    "tritonlstm::inference",
    f"({_ARGUMENTS}) -> (Tensor output, Tensor h_n, Tensor c_n)",
    tags=_TAGS,
)
torch.library.define(
    "tritonlstm::training",
    f"({_ARGUMENTS}) -> (Tensor output, Tensor h_n, Tensor c_n, Tensor cells, Tensor gates)",
    tags=_TAGS,
)
torch.library.define(
    "tritonlstm::backward",
    "(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor? input, Tensor? h0, Tensor output, Tensor cells,"
    " Tensor gates, Tensor weight, Tensor? input_weight, Tensor? bias, Tensor? peephole, str activation, bool triton,"
    " bool hoisted, bool recompute, bool planar, bool[] needs) -> Tensor[]",
    tags=_TAGS,
)


def _pointwise(triton: bool):
    if not triton:
        return _gates_aten
    from . import _launch  # imports Triton, which not every platform has

    return _launch


def _layout(input, h0, weights: Weights, steps: int, triton: bool, planar: bool) -> Layout:
    batch, spatial = (input.shape[1], input.shape[3:]) if h0 is None else (h0.shape[0], h0.shape[2:])
    return Layout.of(*weights, steps, batch, spatial, triton=triton, planar=planar)


def _saved_layout(saved: Saved, weights: Weights, triton: bool, planar: bool) -> Layout:
    states, batch, *spatial, _ = saved.cells.shape
    return Layout.of(*weights, states - 1, batch, spatial, triton=triton, planar=planar)


def _run_forward(
    input, h0, c0, weight, input_weight, bias, peephole, steps, activation, triton, hoisted, recompute, planar, *, save
):
    weights = Weights(weight, input_weight)
    with without_autocast(weight), torch.cuda.device_of(weight):
        results, saved = _sequence.forward(
            input,
            h0,
            c0,
            weights,
            bias,
            peephole,
            _layout(input, h0, weights, steps, triton, planar),
            activation=activation,
            pointwise=_pointwise(triton),
            schedule=schedule(hoisted),
            save=save,
            recompute=recompute,
        )
    return (*results, saved.cells, saved.gates) if save else tuple(results)


def _inference(*args):
    return _run_forward(*args, save=False)


def _training(*args):
    return _run_forward(*args, save=True)


def _take(args: Iterator, kind: type[tuple]) -> tuple:
    """The next of the arguments, as a named tuple of this kind."""
    return kind(*islice(args, len(kind._fields)))


def _split_backward(args: tuple) -> tuple:
    """The backward operator's arguments, by what they belong to: gradients, Saved, Weights, and the others."""
    args = iter(args)
    return _take(args, _sequence.Results), _take(args, Saved), _take(args, Weights), *args


def _backward(*args):
    grads, saved, weights, bias, peephole, activation, triton, hoisted, recompute, planar, needs = _split_backward(args)
    layout = _saved_layout(saved, weights, triton, planar)
    # Copies vmap's slices alone.
    saved = saved._replace(cells=layout.dense(saved.cells), gates=layout.dense(saved.gates))
    with without_autocast(weights.weight), torch.cuda.device_of(weights.weight):
        return _sequence.backward(
            *grads,
            saved,
            weights,
            bias,
            peephole,
            layout,
            activation=activation,
            pointwise=_pointwise(triton),
            schedule=schedule(hoisted),
            recompute=recompute,
            needs=Needs(*needs),
        )


def _fake_inference(*args):
    input, h0, _, weight, input_weight, _, _, steps, _, triton, _, _, planar = args
    return tuple(
        _sequence.Results.new(weight, _layout(input, h0, Weights(weight, input_weight), steps, triton, planar))
    )


def _fake_training(*args):
    input, h0, _, weight, input_weight, _, _, steps, _, triton, _, recompute, planar = args
    layout = _layout(input, h0, Weights(weight, input_weight), steps, triton, planar)
    return (
        *_fake_inference(*args),
        layout.new_sequence(weight, layout.channels, steps + 1, cell_dtype(weight.dtype)),
        _pointwise(triton).new_gates(layout, weight, 0 if recompute else steps),
    )


def _fake_backward(*args):
    _, saved, weights, bias, peephole, _, triton, _, _, planar, needs = _split_backward(args)
    layout, weight = _saved_layout(saved, weights, triton, planar), weights.weight
    makers = Needs(
        input=lambda: layout.new_images(weight, layout.in_channels, layout.steps),
        h0=lambda: layout.new_images(weight, layout.channels),
        c0=lambda: layout.new_images(saved.cells, layout.channels),
        weight=lambda: torch.empty_like(weight),
        input_weight=lambda: torch.empty_like(weights.input_weight),
        bias=lambda: torch.empty_like(bias),
        peephole=lambda: torch.empty_like(peephole),
    )
    return [make() for make, needed in zip(makers, needs, strict=True) if needed]


for _name, _implementation, _fake in (
    ("inference", _inference, _fake_inference),
    ("training", _training, _fake_training),
    ("backward", _backward, _fake_backward),
):
    torch.library.impl(f"tritonlstm::{_name}", "CompositeExplicitAutograd", _implementation)
    torch.library.register_fake(f"tritonlstm::{_name}", _fake)
    torch.library.register_vmap(f"tritonlstm::{_name}", batching_rule(getattr(torch.ops.tritonlstm, _name)))


def _setup_context(ctx, inputs, output):
    input, h0, c0, *parameters, _, activation, triton, hoisted, recompute, planar = inputs
    public_output, _, _, *made_here = output
    ctx.mark_non_differentiable(*made_here)
    ctx.set_materialize_grads(False)
    # The gradients are computed from a copy of c0; yet they depend on it, and a second derivative must find it.
    ctx.save_for_backward(input, h0, public_output, *made_here, *parameters, c0)
    ctx.options = activation, triton, hoisted, recompute, planar


def _training_backward(ctx, grads, backward):
    """The gradients of all arguments, from those of (output, h_n, c_n), by `backward`."""
    *saved, c0 = ctx.saved_tensors
    return _gradients(ctx, backward, (*grads[:3], *saved), c0)


def _gradients(ctx, backward, operands, c0):
    needs = list(ctx.needs_input_grad[: len(Needs._fields)])
    wanted = iter(backward(*operands, *ctx.options, needs, c0))
    return (*(next(wanted) if needed else None for needed in needs), *(None,) * (1 + len(ctx.options)))


def _backward_by_operator(*args):
    *operands, _ = args  # c0 is there for autograd alone
    return torch.ops.tritonlstm.backward(*operands)


class _Backward(torch.autograd.Function):
    """The backward operator, which refuses to be differentiated rather than be taken for a constant."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args):
        return tuple(_backward_by_operator(*args))

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(
            'tritonlstm: this backend is differentiable once; use backend="torch" for second derivatives'
        )


class _Training(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args):
        return torch.ops.tritonlstm.training(*args)

    setup_context = staticmethod(_setup_context)

    @staticmethod
    def backward(ctx, *grads):
        return _training_backward(ctx, grads, _Backward.apply)

    @staticmethod
    def jvp(ctx, *tangents):
        raise RuntimeError('tritonlstm: this backend has no forward mode (jvp); use backend="torch" for it')


torch.library.register_autograd(
    "tritonlstm::training",
    lambda ctx, *grads: _training_backward(ctx, grads, _backward_by_operator),
    setup_context=_setup_context,
)


def _setup_inference_context(ctx, inputs, output):
    *tensors, ctx.steps, activation, triton, hoisted, recompute, planar = inputs
    ctx.options = activation, triton, hoisted, recompute, planar
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _inference_backward(ctx, *grads):
    """For an exported graph that is trained all the same: the forward pass again, now saving what it must."""
    input, h0, c0, *parameters = ctx.saved_tensors
    output, _, _, *saved = torch.ops.tritonlstm.training(input, h0, c0, *parameters, ctx.steps, *ctx.options)
    backward = _backward_by_operator if torch.compiler.is_compiling() else _Backward.apply
    return _gradients(ctx, backward, (*grads, input, h0, output, *saved, *parameters), c0)


torch.library.register_autograd("tritonlstm::inference", _inference_backward, setup_context=_setup_inference_context)


torch.library.define("tritonlstm::copy", "(Tensor output) -> Tensor", tags=_TAGS)
torch.library.impl("tritonlstm::copy", "CompositeExplicitAutograd", torch.clone)
torch.library.register_fake("tritonlstm::copy", torch.clone)
torch.library.register_autograd("tritonlstm::copy", lambda _, grad: grad)


def _copy(output: Tensor) -> Tensor:
    # Inductor takes a clone for nothing, and then what is written to and what the backward pass reads are one tensor.
    return torch.ops.tritonlstm.copy(output) if torch.compiler.is_compiling() else output.clone()


def _is_differentiated(args: tuple) -> bool:
    tensors = (arg for arg in args if isinstance(arg, Tensor))
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def sequence(
    input: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    weight: Tensor,
    input_weight: Tensor | None,
    bias: Tensor | None,
    peephole: Tensor | None,
    steps: int,
    activation: str,
    triton: bool,
    hoisted: bool,
    recompute: bool,
    planar: bool,
    *,
    shares_output: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """output (T, B, C, *spatial), h_n and c_n (B, C, *spatial) of one layer, differentiable once. Checks nothing.

    A state of None is zero; h0 and c0 come both or neither. input_weight and `hoisted` need an input, `planar` images
    and gates outside Triton. What it returns is stored channels last or, with `planar`, contiguous. All of it may be
    written to before the backward pass, which keeps an output of its own; with `shares_output` it keeps the one that is
    returned.
    """
    args = (input, h0, c0, weight, input_weight, bias, peephole, steps, activation, triton, hoisted, recompute, planar)
    differentiable = _is_differentiated(args)
    if torch.compiler._is_exporting_flag:  # is_exporting() is True in all that torch 2.11 compiles
        return torch.ops.tritonlstm.inference(*args)
    if torch.compiler.is_compiling():
        if torch._C._are_functorch_transforms_active():
            raise RuntimeError(
                "tritonlstm: torch.compile cannot trace torch.func's transforms of this backend; transform the compiled"
                ' function, or use backend="torch"'
            )
        run = torch.ops.tritonlstm.training if differentiable else torch.ops.tritonlstm.inference
    else:
        run = _Training.apply if differentiable or _forward_mode_is_on() else torch.ops.tritonlstm.inference
    output, h_n, c_n, *_ = run(*args)
    return _copy(output) if differentiable and not shares_output else output, h_n, c_n


def _forward_mode_is_on() -> bool:
    # A plain operator would drop the tangents without a word; a Function without a jvp refuses them.
    return torch.autograd.forward_ad._current_level >= 0
