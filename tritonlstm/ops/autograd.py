"""The operators' gradients, twice over the same functions: registered on the operators for torch.compile and
torch.export, and as `autograd.Function` for eager code and torch.func."""

import torch
from torch import Tensor

from ..core.arguments import Arguments, Results
from ..core.backend import is_exporting
from ..core.spec import Spec
from . import operators  # noqa: F401  registers them

_COUNT = len(Arguments._fields)


def _setup_training(ctx, inputs, output):
    *arguments, ctx.steps, ctx.spec = inputs
    public_output, _, _, cells, gates = output
    ctx.mark_non_differentiable(cells, gates)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*arguments, public_output, cells, gates)


def _gradients(ctx, backward, grads, tensors):
    """The gradients of all inputs, from those of (output, h_n, c_n), by `backward`."""
    needs = list(ctx.needs_input_grad[:_COUNT])
    wanted = iter(backward(*grads, *tensors, ctx.steps, ctx.spec, needs))
    return (*(next(wanted) if needed else None for needed in needs), None, None)


class _Backward(torch.autograd.Function):
    """The backward operator, which refuses to be differentiated rather than be taken for a constant."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args):
        return tuple(torch.ops.tritonlstm.backward(*args))

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

    setup_context = staticmethod(_setup_training)

    @staticmethod
    def backward(ctx, *grads):
        return _gradients(ctx, _Backward.apply, grads[:3], ctx.saved_tensors)

    @staticmethod
    def jvp(ctx, *tangents):
        raise RuntimeError('tritonlstm: this backend has no forward mode (jvp); use backend="torch" for it')


torch.library.register_autograd(
    "tritonlstm::training",
    lambda ctx, *grads: _gradients(ctx, torch.ops.tritonlstm.backward, grads[:3], ctx.saved_tensors),
    setup_context=_setup_training,
)


def _setup_inference(ctx, inputs, output):
    *arguments, ctx.steps, ctx.spec = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*arguments)


def _inference_backward(ctx, *grads):
    """For an exported graph that is trained: reruns the forward pass as training."""
    arguments = ctx.saved_tensors
    output, _, _, cells, gates = torch.ops.tritonlstm.training(*arguments, ctx.steps, ctx.spec)
    backward = torch.ops.tritonlstm.backward if torch.compiler.is_compiling() else _Backward.apply
    return _gradients(ctx, backward, grads, (*arguments, output, cells, gates))


torch.library.register_autograd("tritonlstm::inference", _inference_backward, setup_context=_setup_inference)


def _copy(output: Tensor) -> Tensor:
    return torch.ops.tritonlstm.copy(output) if torch.compiler.is_compiling() else output.clone()


def _is_differentiated(arguments: Arguments) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in arguments)


def _forward_mode_is_on() -> bool:
    # A plain operator would silently drop the tangents; a Function without a jvp refuses them.
    return torch.autograd.forward_ad._current_level >= 0


def sequence(arguments: Arguments, steps: int, spec: Spec, *, shares_output: bool = False) -> Results:
    """One layer over a sequence, with a resolved backend and schedule, differentiable once. Checks nothing.

    A state of None is zero; h0 and c0 come both or neither. The schedule "hoisted", and an input_weight, need an input.
    The results are stored channels last. They may be written to before the backward pass, which keeps an output of its
    own; with `shares_output` it keeps the one that is returned.
    """
    args = (*arguments, steps, spec.encode())
    differentiable = _is_differentiated(arguments)
    if is_exporting():
        return Results(*torch.ops.tritonlstm.inference(*args))
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
    return Results(_copy(output) if differentiable and not shares_output else output, h_n, c_n)
