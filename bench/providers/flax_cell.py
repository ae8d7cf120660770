"""Flax's `ConvLSTMCell` under `jit`, each layer a `scan` over time. No peephole; gates i, g, f, o; forget bias 1 added.

Its two convolutions a step each have a bias: ours goes to the input's, the other stays zero.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.cases import Problem

from .jax_arrays import (
    SECONDS,
    inverse,
    join_weight,
    peak_of,
    reorder,
    split_weight,
    to_jax,
    to_torch,
    why_absent,
)
from .protocol import Built, Provider, Results

GATES = [0, 2, 1, 3]


def _forget_bias(bias: Tensor, value: float) -> Tensor:
    """`bias` with `value` added to the forget gate's part, the second of ours."""
    added = torch.zeros_like(bias)
    added.chunk(4)[1].fill_(value)
    return bias + added


def build(problem: Problem) -> Built:
    import jax
    import jax.numpy as jnp
    from flax import linen

    case, like = problem.case, problem.input
    dtype = jnp.dtype(str(like.dtype).removeprefix("torch."))
    layers = []
    for channels in case.channels:
        cell = linen.ConvLSTMCell(channels, (case.kernel, case.kernel), dtype=dtype, param_dtype=dtype)
        layers.append(linen.RNN(cell, time_major=True, return_carry=True))

    def parameters_of(weight: Tensor, bias: Tensor) -> Any:
        kernels = split_weight(weight, GATES)
        bias = to_jax(reorder(_forget_bias(bias, -1.0), GATES))
        biases = bias, jnp.zeros_like(bias)
        names = zip(("ih", "hh"), kernels, biases)
        return {"params": {"cell": {name: {"kernel": kernel, "bias": bias} for name, kernel, bias in names}}}

    variables = [parameters_of(layer.weight, layer.bias) for layer in problem.layers]

    def stack(variables: list[Any], frames: Any) -> tuple[Any, list[Any]]:
        carries = []
        for layer, own in zip(layers, variables):
            carry, frames = layer.apply(own, frames)
            carries.append(carry)
        return frames, carries

    def loss(variables: list[Any], frames: Any, cotangent: Any) -> Any:
        return jnp.vdot(stack(variables, frames)[0].astype(jnp.float32), cotangent.astype(jnp.float32))

    infer, train = jax.jit(stack), jax.jit(jax.grad(loss))
    image = (case.steps, case.batch, case.height, case.width)

    def load(tensor: Tensor) -> Any:
        return to_jax(tensor.movedim(2, -1))

    def results(value: Any) -> Results:
        output, carries = value
        states = [tuple(to_torch(each, like).movedim(-1, 1) for each in (h, c)) for c, h in carries]
        return Results(to_torch(output, like).movedim(-1, 2), states)

    def gradients(value: list[Any]) -> list[Tensor]:
        tensors = []
        for own in value:
            cell = own["params"]["cell"]
            tensors.append(join_weight((cell["ih"]["kernel"], cell["hh"]["kernel"]), GATES, like))
            tensors.append(reorder(to_torch(cell["ih"]["bias"], like), inverse(GATES)))
        return tensors

    def peak(mode: str) -> int:
        frames, cotangent = (jnp.zeros((*image, n), dtype) for n in (case.in_channels, case.channels[-1]))
        return (
            peak_of(infer, variables, frames) if mode == "inference" else peak_of(train, variables, frames, cotangent)
        )

    return Built(
        partial(infer, variables),
        partial(train, variables),
        load_input=load,
        load_cotangent=load,
        results=results,
        gradients=gradients,
        wait=jax.block_until_ready,
        peak=peak,
    )


FLAX = Provider(
    "Flax",
    build,
    partial(why_absent, ("jax", "flax")),
    peephole=False,
    capturable=False,
    seconds=SECONDS,
)
