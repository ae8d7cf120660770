"""What the contenders on JAX share: whether JAX is there, and how its tensors become torch's and back.

Images are (B, T, H, W, C) or (T, B, H, W, C) there, and kernels (kh, kw, Cin, 4C), the input's and the hidden state's
apart, with gates in an order of their own.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Before JAX is imported: it would take three quarters of the GPU's memory for itself.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

SECONDS = 60.0
"""Of compiling one case, inference and training together."""

_PLATFORMS = {"cuda": "gpu", "cpu": "cpu"}


def why_absent(packages: tuple[str, ...], device: torch.device) -> str | None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    import jax

    try:
        jax.devices(_PLATFORMS[device.type])
    except (RuntimeError, KeyError):
        return f"JAX has no {device.type} device"
    return None


def to_jax(tensor: Tensor) -> Any:
    """A tensor as JAX's own array, through NumPy, which has no bfloat16."""
    import jax
    import jax.numpy as jnp

    device = jax.devices(_PLATFORMS[tensor.device.type])[0]
    dtype = jnp.dtype(str(tensor.dtype).removeprefix("torch."))
    values = tensor.detach().cpu()
    values = values.float() if tensor.dtype == torch.bfloat16 else values
    return jax.device_put(jnp.asarray(np.ascontiguousarray(values.numpy()), dtype=dtype), device)


def to_torch(array: Any, like: Tensor) -> Tensor:
    values = np.asarray(array)
    if values.dtype.name == "bfloat16":
        values = values.astype(np.float32)
    return torch.from_numpy(np.array(values)).to(device=like.device, dtype=like.dtype)


def split_weight(weight: Tensor, gates: list[int]) -> tuple[Any, Any]:
    """weight (4C, Cin + C, kh, kw), gates i, f, g, o → kernels (kh, kw, Cin, 4C) and (kh, kw, C, 4C), gates reordered.

    `gates[n]` says which of ours is their n-th.
    """
    channels = weight.shape[0] // 4
    columns = torch.cat([weight.chunk(4)[gate] for gate in gates]).permute(2, 3, 1, 0)
    return tuple(to_jax(part) for part in columns.split([weight.shape[1] - channels, channels], 2))


def join_weight(kernels: tuple[Any, Any], gates: list[int], like: Tensor) -> Tensor:
    """The inverse of `split_weight`, for gradients."""
    columns = torch.cat([to_torch(kernel, like) for kernel in kernels], 2).permute(3, 2, 0, 1)
    return reorder(columns, inverse(gates))


def reorder(tensor: Tensor, gates: list[int]) -> Tensor:
    parts = tensor.chunk(4)
    return torch.cat([parts[gate] for gate in gates])


def inverse(gates: list[int]) -> list[int]:
    return [gates.index(gate) for gate in range(4)]


def peak_of(function: Callable[..., Any], *arguments: Any) -> int:
    """Bytes that XLA has planned for a jitted function: its temporaries and its results."""
    analysis = function.lower(*arguments).compile().memory_analysis()
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
