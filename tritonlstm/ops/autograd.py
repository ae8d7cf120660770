"""The operators' gradients, twice over the same functions: registered on the operators for torch.compile and
torch.export, and as `autograd.Function` for eager code and torch.func."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function

from ..core.backend import is_exporting
from .registration import register_autograd

TENSORS, STATIC = tuple[Tensor | None, ...], tuple[object, ...]


class Differentiable:
    """Three operators that belong together, as one function that is differentiable once.

        <prefix>inference(*tensors, *static) -> results
        <prefix>training(*tensors, *static) -> (*results, *saved)
        <prefix>backward(*grad_results, *kept, *static, needs) -> the gradients of the tensors that `needs` names

    `keep(tensors, outputs)` chooses what the backward operator gets of the training operator's arguments and outputs;
    `results` is the number of results.
    """

    def __init__(self, prefix: str, results: int, keep: Callable[[TENSORS, tuple[Tensor, ...]], TENSORS]):
        self._prefix, self._results, self._keep = prefix, results, keep
        self._inference, self._training, self._backward = (
            getattr(torch.ops.tritonlstm, prefix + name) for name in ("inference", "training", "backward")
        )
        self._tensors = sum("Tensor" in str(arg.type) for arg in self._inference.default._schema.arguments)
        self._refusing_backward = _refusing_backward(self._backward)
        self._function = self._make_function()
        # What apply does where no transform of torch.func is active, at a third of its cost.
        self._apply = super(Function, self._function).apply
        register_autograd(
            prefix + "training",
            lambda ctx, *grads: self._gradients(ctx, grads, ctx.saved_tensors),
            setup_context=self._setup_training,
        )
        register_autograd(prefix + "inference", self._inference_backward, setup_context=self._setup_inference)

    def __call__(self, tensors: TENSORS, static: STATIC) -> tuple[Tensor, ...]:
        """The results, and behind them what the training operator saves where a gradient is wanted."""
        if is_exporting():
            return self._inference(*tensors, *static)
        if torch.compiler.is_compiling():
            if torch._C._are_functorch_transforms_active():
                raise RuntimeError(
                    "tritonlstm: torch.compile cannot trace torch.func's transforms of this backend; transform the"
                    ' compiled function, or use backend="torch"'
                )
            run = self._training if is_differentiated(tensors) else self._inference
        elif is_differentiated(tensors) or _forward_mode_is_on():
            is_transformed = torch._C._are_functorch_transforms_active()
            run = self._function.apply if is_transformed else self._apply
        else:
            with torch._C._AutoDispatchBelowAutograd():  # spares small steps the operators' layer of autograd
                return self._inference(*tensors, *static)
        return run(*tensors, *static)

    def _setup_training(self, ctx, inputs, output):
        tensors, ctx.static = inputs[: self._tensors], inputs[self._tensors :]
        ctx.mark_non_differentiable(*output[self._results :])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*self._keep(tensors, output))

    def _setup_inference(self, ctx, inputs, output):
        tensors, ctx.static = inputs[: self._tensors], inputs[self._tensors :]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    def _inference_backward(self, ctx, *grads):
        """For an exported graph that is trained: reruns the forward pass as training."""
        tensors = ctx.saved_tensors
        return self._gradients(ctx, grads, self._keep(tensors, self._training(*tensors, *ctx.static)))

    def _gradients(self, ctx, grads, kept):
        """The gradients of all inputs, from those of the results."""
        backward = self._backward
        if not torch.compiler.is_compiling():
            is_differentiated = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
            backward = self._refusing_backward if is_differentiated else backward
        needs = list(ctx.needs_input_grad[: self._tensors])
        wanted = iter(backward(*grads[: self._results], *kept, *ctx.static, needs))
        return (*(next(wanted) if needed else None for needed in needs), *(None for _ in ctx.static))

    def _make_function(self) -> type[Function]:
        family = self

        class Training(Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(*args):
                return family._training(*args)

            setup_context = staticmethod(self._setup_training)

            @staticmethod
            def backward(ctx, *grads):
                return family._gradients(ctx, grads, ctx.saved_tensors)

            @staticmethod
            def jvp(ctx, *tangents):
                raise RuntimeError('tritonlstm: this backend has no forward mode (jvp); use backend="torch" for it')

        return Training


def _refusing_backward(operator: Callable[..., list[Tensor]]) -> Callable[..., tuple[Tensor, ...]]:
    """The backward operator, which refuses to be differentiated rather than be taken for a constant."""

    class Backward(Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args):
            return tuple(operator(*args))

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, *grads):
            raise RuntimeError(
                'tritonlstm: this backend is differentiable once; use backend="torch" for second derivatives'
            )

    return Backward.apply


def is_differentiated(tensors: TENSORS) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _forward_mode_is_on() -> bool:
    # A plain operator would silently drop the tangents; a Function without a jvp refuses them.
    return torch.autograd.forward_ad._current_level >= 0
