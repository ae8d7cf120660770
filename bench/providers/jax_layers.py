"""Flax's `ConvLSTMCell`, scanned over time, and Keras's `ConvLSTM2D` on JAX, each stack under `jit`. No peepholes.

Images are (T, B, H, W, C) in Flax and (B, T, H, W, C) in Keras. Both convolve the input and the hidden state with
kernels of their own, (kh, kw, Cin, 4C), Flax with gates in the order i, g, f, o, and with 1 added to the forget bias.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.cases import Problem, name_of

from .protocol import Built, Provider, Results

# Before JAX is imported: it would take three quarters of the GPU's memory for itself.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

_PLATFORMS = {"cuda": "gpu", "cpu": "cpu"}


def _why_absent(packages: tuple[str, ...], device: torch.device) -> str | None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    import jax

    try:
        jax.devices(_PLATFORMS[device.type])
    except (RuntimeError, KeyError):
        return f"JAX has no {device.type} device"
    return None


def _to_jax(tensor: Tensor) -> Any:
    """A tensor as JAX's own array, through NumPy, which has no bfloat16."""
    import jax
    import jax.numpy as jnp

    device = jax.devices(_PLATFORMS[tensor.device.type])[0]
    return jax.device_put(jnp.asarray(tensor.float().cpu().numpy(), dtype=name_of(tensor.dtype)), device)


def _to_torch(array: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32)).to(like.device, like.dtype)


def _reorder(tensor: Tensor, gates: list[int]) -> Tensor:
    parts = tensor.chunk(4)
    return torch.cat([parts[gate] for gate in gates])


@dataclass(frozen=True)
class _Framework:
    """`run(index, parameters, frames)` applies a layer and returns (frames, (h, c)). `pack` makes a layer's parameters
    of its two kernels and its bias; `unpack` is the inverse, for gradients."""

    run: Callable[[int, Any, Any], tuple[Any, tuple[Any, Any]]]
    pack: Callable[[Any, Any, Any], Any]
    unpack: Callable[[Any], tuple[Any, Any, Any]]
    gates: list[int]
    """Which of our gates is its n-th."""
    forget_bias: float
    """What it adds to the bias of the forget gate."""
    batch_first: bool


def _flax(problem: Problem, dtype: str) -> _Framework:
    import jax.numpy as jnp
    from flax import linen

    kernel = (problem.case.kernel, problem.case.kernel)
    layers = [
        linen.RNN(
            linen.ConvLSTMCell(channels, kernel, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype)),
            time_major=True,
            return_carry=True,
        )
        for channels in problem.case.channels
    ]

    def run(index: int, parameters: Any, frames: Any) -> tuple[Any, tuple[Any, Any]]:
        (c, h), frames = layers[index].apply(parameters, frames)
        return frames, (h, c)

    def pack(of_input: Any, of_hidden: Any, bias: Any) -> Any:
        """Both convolutions have a bias: that of the hidden state's stays zero."""
        input, hidden = {"kernel": of_input, "bias": bias}, {"kernel": of_hidden, "bias": jnp.zeros_like(bias)}
        return {"params": {"cell": {"ih": input, "hh": hidden}}}

    def unpack(parameters: Any) -> tuple[Any, Any, Any]:
        cell = parameters["params"]["cell"]
        return cell["ih"]["kernel"], cell["hh"]["kernel"], cell["ih"]["bias"]

    return _Framework(run, pack, unpack, gates=[0, 2, 1, 3], forget_bias=1.0, batch_first=False)


def _keras(problem: Problem, dtype: str) -> _Framework:
    os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported
    import keras

    case, layers = problem.case, []
    for in_channels, channels in case.layers:
        layer = keras.layers.ConvLSTM2D(
            channels,
            case.kernel,
            padding="same",
            data_format="channels_last",
            recurrent_activation="sigmoid",
            return_sequences=True,
            return_state=True,
            kernel_initializer="zeros",
            recurrent_initializer="zeros",  # the default needs a decomposition that JAX lacks in half types
            dtype=dtype,
        )
        layer.build((case.batch, case.steps, case.height, case.width, in_channels))
        layers.append(layer)

    def run(index: int, parameters: Any, frames: Any) -> tuple[Any, tuple[Any, Any]]:
        others = [variable.value for variable in layers[index].non_trainable_variables]
        (frames, h, c), _ = layers[index].stateless_call(parameters, others, frames)
        return frames, (h, c)

    # In the order of the layer's variables: kernel, recurrent kernel, bias.
    pack, unpack = (lambda *parameters: list(parameters)), tuple
    return _Framework(run, pack, unpack, gates=[0, 1, 2, 3], forget_bias=0.0, batch_first=True)


def _build(framework: Callable[[Problem, str], _Framework], problem: Problem) -> Built:
    import jax
    import jax.numpy as jnp

    case, like = problem.case, problem.input
    dtype = name_of(like.dtype)
    own = framework(problem, dtype)
    back = [own.gates.index(gate) for gate in range(4)]

    def pack(weight: Tensor, bias: Tensor) -> Any:
        channels = len(bias) // 4
        kernels = _reorder(weight, own.gates).permute(2, 3, 1, 0).split([weight.shape[1] - channels, channels], 2)
        bias = bias.clone()
        bias.chunk(4)[1].sub_(own.forget_bias)
        return own.pack(*map(_to_jax, (*kernels, _reorder(bias, own.gates))))

    def stack(parameters: list[Any], frames: Any) -> tuple[Any, list[Any]]:
        states = []
        for index, each in enumerate(parameters):
            frames, state = own.run(index, each, frames)
            states.append(state)
        return frames, states

    def loss(parameters: list[Any], frames: Any, cotangent: Any) -> Any:
        return jnp.vdot(stack(parameters, frames)[0].astype(jnp.float32), cotangent.astype(jnp.float32))

    def load(tensor: Tensor) -> Any:
        return _to_jax((tensor.transpose(0, 1) if own.batch_first else tensor).movedim(2, -1))

    def results(value: Any) -> Results:
        output, states = _to_torch(value[0], like).movedim(-1, 2), value[1]
        as_torch = [tuple(_to_torch(each, like).movedim(-1, 1) for each in state) for state in states]
        return Results(output.transpose(0, 1) if own.batch_first else output, as_torch)

    def gradients(value: list[Any]) -> list[Tensor]:
        tensors = []
        for each in value:
            of_input, of_hidden, bias = (_to_torch(array, like) for array in own.unpack(each))
            weight = torch.cat([of_input, of_hidden], 2).permute(3, 2, 0, 1)
            tensors += [_reorder(weight, back), _reorder(bias, back)]
        return tensors

    parameters = [pack(**layer) for layer in problem.layers]
    infer, train = jax.jit(stack), jax.jit(jax.grad(loss))

    def peak(mode: str) -> int:
        """Bytes of temporaries and results that XLA plans."""
        lead = (case.batch, case.steps) if own.batch_first else (case.steps, case.batch)
        channels = [case.in_channels] if mode == "inference" else [case.in_channels, case.channels[-1]]
        arrays = [jnp.zeros((*lead, case.height, case.width, each), dtype) for each in channels]
        function = infer if mode == "inference" else train
        analysis = function.lower(parameters, *arrays).compile().memory_analysis()
        return analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes

    return Built(
        partial(infer, parameters),
        partial(train, parameters),
        load=load,
        results=results,
        gradients=gradients,
        wait=jax.block_until_ready,
        peak=peak,
    )


def _provider(name: str, framework: Callable[[Problem, str], _Framework], *packages: str) -> Provider:
    build, why_absent = partial(_build, framework), partial(_why_absent, packages)
    return Provider(name, build, why_absent, peephole=False, capturable=False, compiles=True)


FLAX = _provider("Flax", _flax, "jax", "flax")
KERAS = _provider("Keras", _keras, "jax", "keras")
