"""The registered operators: schema, implementation, fake, batching rule and autograd, in that order.

A whole sequence is one opaque operator, so that a compiler sees neither the time loop nor its length. Training and
inference have one each, so that inference saves nothing. Autograd comes twice, over the same two functions: registered
on the operator for torch.compile and torch.export, and as an `autograd.Function` for eager code and torch.func.
"""

import torch
from torch import Tensor

from . import _gates_aten, _sequence
from ._dtypes import without_autocast
from ._layout import Layout, from_rows
from ._sequence import Needs, Saved
from ._vmap import batching_rule

_ARGUMENTS = (
    "Tensor? input, Tensor h0, Tensor c0, Tensor weight, Tensor? bias, Tensor? peephole,"
    " SymInt steps, str activation, bool triton"
)
_TAGS = (torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)

torch.library.define(
    "tritonlstm::inference",
    f"({_ARGUMENTS}) -> (Tensor output, Tensor h_n, Tensor c_n)",
    tags=_TAGS,
)
torch.library.define(
    "tritonlstm::training",
    f"({_ARGUMENTS}) -> (Tensor output, Tensor h_n, Tensor c_n, Tensor inputs, Tensor cells, Tensor gates)",
    tags=_TAGS,
)
torch.library.define(
    "tritonlstm::backward",
    "(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor inputs, Tensor cells, Tensor gates,"
    " Tensor weight, Tensor? bias, Tensor? peephole, str activation, bool triton, bool[] needs) -> Tensor[]",
    tags=_TAGS,
)


def _pointwise(triton: bool):
    if not triton:
        return _gates_aten
    from . import _launch  # imports Triton, which not every platform has

    return _launch


def _layout(h0: Tensor, weight: Tensor, steps: int, triton: bool) -> Layout:
    return Layout.of(weight, steps, h0.shape[0], h0.shape[2:], triton=triton)


def _saved_layout(saved: Saved, weight: Tensor, triton: bool) -> Layout:
    steps, batch, *spatial, _ = saved.gates.shape
    return Layout.of(weight, steps, batch, spatial, triton=triton)


def _run_forward(input, h0, c0, weight, bias, peephole, steps, activation, triton, *, save):
    with without_autocast(h0), torch.cuda.device_of(h0):
        output, h_n, c_n, saved = _sequence.forward(
            input,
            h0,
            c0,
            weight,
            bias,
            peephole,
            _layout(h0, weight, steps, triton),
            activation=activation,
            pointwise=_pointwise(triton),
            save=save,
        )
    public = from_rows(output, channel_dim=2), from_rows(h_n), from_rows(c_n)
    return (*public, *saved) if save else public


def _inference(*args):
    return _run_forward(*args, save=False)


def _training(*args):
    return _run_forward(*args, save=True)


def _backward(grad_output, grad_h_n, grad_c_n, inputs, cells, gates, weight, bias, peephole, activation, triton, needs):
    saved = Saved(*(tensor.contiguous() for tensor in (inputs, cells, gates)))  # no copy but of a slice under vmap
    with without_autocast(weight), torch.cuda.device_of(weight):
        return _sequence.backward(
            grad_output,
            grad_h_n,
            grad_c_n,
            saved,
            weight,
            bias,
            peephole,
            _saved_layout(saved, weight, triton),
            activation=activation,
            pointwise=_pointwise(triton),
            needs=Needs(*needs),
        )


def _fake_inference(input, h0, c0, weight, bias, peephole, steps, activation, triton):
    layout = _layout(h0, weight, steps, triton)
    return (
        from_rows(weight.new_empty(layout.sequence_shape(layout.channels)), channel_dim=2),
        from_rows(weight.new_empty(layout.step_shape(layout.channels))),
        from_rows(c0.new_empty(layout.step_shape(layout.channels))),
    )


def _fake_training(input, h0, c0, weight, bias, peephole, steps, activation, triton):
    layout = _layout(h0, weight, steps, triton)
    return (
        *_fake_inference(input, h0, c0, weight, bias, peephole, steps, activation, triton),
        weight.new_empty(layout.sequence_shape(layout.width)),
        c0.new_empty(layout.sequence_shape(layout.channels, steps + 1)),
        weight.new_empty(layout.sequence_shape(4 * layout.channels)),
    )


def _fake_backward(
    grad_output, grad_h_n, grad_c_n, inputs, cells, gates, weight, bias, peephole, activation, triton, needs
):
    layout = _saved_layout(Saved(inputs, cells, gates), weight, triton)
    makers = Needs(
        input=lambda: from_rows(weight.new_empty(layout.sequence_shape(layout.in_channels)), channel_dim=2),
        h0=lambda: from_rows(weight.new_empty(layout.step_shape(layout.channels))),
        c0=lambda: from_rows(cells.new_empty(layout.step_shape(layout.channels))),
        weight=lambda: torch.empty_like(weight),
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
    input, h0, c0, weight, bias, peephole, _, activation, triton = inputs
    *_, packed_inputs, cells, gates = output
    ctx.mark_non_differentiable(packed_inputs, cells, gates)
    ctx.set_materialize_grads(False)
    # The gradients depend on these three too, though they are computed from the packed copies: a second derivative must
    # find them. The input is large, so it is kept only where nothing else would tell that there is one.
    others = any(tensor is not None and tensor.requires_grad for tensor in (h0, c0, weight, bias, peephole))
    ctx.save_for_backward(packed_inputs, cells, gates, weight, bias, peephole, h0, c0, None if others else input)
    ctx.activation = activation
    ctx.triton = triton


def _training_backward(ctx, grads, backward):
    """The gradients of all arguments, from those of (output, h_n, c_n), by `backward`."""
    *saved, h0, c0, input = ctx.saved_tensors
    return _gradients(ctx, backward, (*grads[:3], *saved), (h0, c0, input))


def _gradients(ctx, backward, operands, others):
    needs = list(ctx.needs_input_grad[: len(Needs._fields)])
    wanted = iter(backward(*operands, ctx.activation, ctx.triton, needs, *others))
    return (*(next(wanted) if needed else None for needed in needs), None, None, None)


def _backward_by_operator(*args):
    *operands, _, _, _ = args
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
    *tensors, ctx.steps, ctx.activation, ctx.triton = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _inference_backward(ctx, *grads):
    """For an exported graph that is trained all the same: the forward pass again, now saving what it must."""
    input, h0, c0, weight, bias, peephole = ctx.saved_tensors
    arguments = (input, h0, c0, weight, bias, peephole, ctx.steps, ctx.activation, ctx.triton)
    *_, packed_inputs, cells, gates = torch.ops.tritonlstm.training(*arguments)
    operands = (*grads, packed_inputs, cells, gates, weight, bias, peephole)
    backward = _backward_by_operator if torch.compiler.is_compiling() else _Backward.apply
    return _gradients(ctx, backward, operands, (h0, c0, input))


torch.library.register_autograd("tritonlstm::inference", _inference_backward, setup_context=_setup_inference_context)


def _is_differentiated(args: tuple) -> bool:
    tensors = (arg for arg in args if isinstance(arg, Tensor))
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def sequence(
    input: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    steps: int,
    activation: str,
    triton: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """output (T, B, C, *spatial), h_n and c_n (B, C, *spatial) of one layer, differentiable once. Checks nothing."""
    args = (input, h0, c0, weight, bias, peephole, steps, activation, triton)
    differentiable = _is_differentiated(args)
    if torch.compiler._is_exporting_flag:  # is_exporting() is True in all that torch 2.11 compiles
        return torch.ops.tritonlstm.inference(*args)
    if torch.compiler.is_compiling():
        if torch._C._are_functorch_transforms_active():
            raise RuntimeError(
                "tritonlstm: torch.compile cannot trace torch.func's transforms of this backend; transform the compiled"
                ' function, or use backend="torch"'
            )
        return torch.ops.tritonlstm.training(*args)[:3] if differentiable else torch.ops.tritonlstm.inference(*args)
    if differentiable or _forward_mode_is_on():
        return _Training.apply(*args)[:3]
    return torch.ops.tritonlstm.inference(*args)


def _forward_mode_is_on() -> bool:
    # A plain operator would drop the tangents without a word; a Function without a jvp refuses them.
    return torch.autograd.forward_ad._current_level >= 0
