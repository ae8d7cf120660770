"""Keras's `ConvLSTM2D` on JAX, a stack of them under `jit`. No peephole; gates i, f, g, o, as ours.

It convolves for each gate on its own, eight times a step. Its time follows the batch, (B, T, H, W, C).
"""

import os
from functools import partial
from typing import Any

from torch import Tensor

from bench.cases import Problem

from .jax_arrays import SECONDS, join_weight, peak_of, split_weight, to_jax, to_torch, why_absent
from .protocol import Built, Provider, Results

GATES = [0, 1, 2, 3]


def build(problem: Problem) -> Built:
    os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported
    import jax
    import jax.numpy as jnp
    import keras

    case, like = problem.case, problem.input
    dtype = str(like.dtype).removeprefix("torch.")
    layers, variables, in_channels = [], [], case.in_channels
    for channels, parameters in zip(case.channels, problem.layers):
        layer = keras.layers.ConvLSTM2D(
            channels,
            case.kernel,
            padding="same",
            data_format="channels_last",
            recurrent_activation="sigmoid",
            return_sequences=True,
            return_state=True,
            kernel_initializer="zeros",
            recurrent_initializer="zeros",  # its own needs a decomposition that JAX lacks in half types
            dtype=dtype,
        )
        layer.build((case.batch, case.steps, case.height, case.width, in_channels))
        layers.append(layer)
        # In the order of the layer's variables: kernel, recurrent kernel, bias.
        variables.append([*split_weight(parameters.weight, GATES), to_jax(parameters.bias)])
        in_channels = channels
    rests = [[variable.value for variable in layer.non_trainable_variables] for layer in layers]

    def stack(variables: list[Any], frames: Any) -> tuple[Any, list[Any]]:
        states = []
        for layer, own, rest in zip(layers, variables, rests):
            (frames, *state), _ = layer.stateless_call(own, rest, frames)
            states.append(state)
        return frames, states

    def loss(variables: list[Any], frames: Any, cotangent: Any) -> Any:
        return jnp.vdot(stack(variables, frames)[0].astype(jnp.float32), cotangent.astype(jnp.float32))

    infer, train = jax.jit(stack), jax.jit(jax.grad(loss))
    image = (case.batch, case.steps, case.height, case.width)

    def load(tensor: Tensor) -> Any:
        return to_jax(tensor.movedim(2, -1).transpose(0, 1))

    def results(value: Any) -> Results:
        output, states = value
        as_torch = [tuple(to_torch(each, like).movedim(-1, 1) for each in state) for state in states]
        return Results(to_torch(output, like).movedim(-1, 2).transpose(0, 1), as_torch)

    def gradients(value: list[Any]) -> list[Tensor]:
        tensors = []
        for kernel, recurrent, bias in value:
            tensors += [join_weight((kernel, recurrent), GATES, like), to_torch(bias, like)]
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


KERAS = Provider(
    "Keras",
    build,
    partial(why_absent, ("jax", "keras")),
    peephole=False,
    capturable=False,
    seconds=SECONDS,
)
