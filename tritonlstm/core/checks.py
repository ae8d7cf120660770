"""What is checked before any kernel runs. Every message names the argument, what was wanted and what came."""

import operator
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .dtypes import activation_dtypes, cell_dtype

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Result = TypeVar("Result")

_metadata = operator.attrgetter("shape", "dtype", "device")
_passed: dict[tuple, object] = {}
_MOST_PASSED = 1024


def once(check: Callable[..., Result], tensors: Sequence[Tensor | None], *rest: object) -> Result:
    """check(tensors, *rest), or its result from before if it passed with such tensors and the same rest.

    For a check of shapes, dtypes and devices alone, in eager mode. In a loop over small steps it takes longer than the
    step.
    """
    if torch.compiler.is_compiling() or torch._C._is_any_autocast_enabled() or torch._C._get_tracing_state():
        return check(tensors, *rest)
    try:
        key = (check, *rest, *[None if tensor is None else _metadata(tensor) for tensor in tensors])
        if key in _passed:
            return _passed[key]
    except (AttributeError, TypeError):  # an argument that is no tensor; a symbolic size, which has no hash
        return check(tensors, *rest)
    result = check(tensors, *rest)
    if len(_passed) == _MOST_PASSED:
        _passed.clear()
    _passed[key] = result
    return result


def check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a Tensor, got {type(value).__name__}")


def check_untraced(input: object, other: object) -> None:
    """Raises RuntimeError under torch.jit.trace and torch.fx, which have no sizes for the loop over time to run on.

    `other` is what torch.fx replaces where the call has no input.
    """
    if torch.jit.is_tracing():
        raise RuntimeError(
            "tritonlstm: torch.jit.trace, which torch.onnx.export(dynamo=False) and TensorBoard's add_graph run, cannot"
            " trace these layers; use torch.export.export, or torch.onnx.export with dynamo=True"
        )
    if not isinstance(input, Tensor) and isinstance(input if input is not None else other, torch.fx.Proxy):
        raise RuntimeError(
            "tritonlstm: torch.fx.symbolic_trace cannot trace these layers; use torch.export.export, or a"
            " torch.fx.Tracer whose is_leaf_module returns True for them"
        )


def refuse_script() -> None:
    """For a module's `__prepare_scriptable__`, which torch.jit.script calls first."""
    raise RuntimeError(
        "tritonlstm: torch.jit.script cannot compile these layers; use torch.compile or torch.export.export"
    )


def check_shape(name: str, tensor: Tensor, wanted: tuple[int, ...], meaning: str) -> None:
    """`meaning` names the dimensions: "(B, C, H, W)"."""
    if tensor.dim() != len(wanted) or any(got != want for got, want in zip(tensor.shape, wanted)):
        raise ValueError(f"{name}: expected shape {meaning} = {tuple(wanted)}, got {tuple(tensor.shape)}")


def check_device(name: str, tensor: Tensor, wanted: torch.device) -> None:
    if tensor.device != wanted:
        raise ValueError(f"{name}: expected a tensor on {wanted}, as the others, got one on {tensor.device}")


def check_dtype(name: str, tensor: Tensor, like: Tensor) -> None:
    """Of an input or a hidden state: the dtype of `like` or, under autocast, any that autocast casts from and to."""
    wanted = activation_dtypes(like)
    if tensor.dtype not in wanted:
        raise TypeError(f"{name}: expected {' or '.join(map(str, wanted))}, got {tensor.dtype}")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected a bool, got {value!r}")


def check_integer(name: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name}: expected an integer of at least {minimum}, got {value}")


def check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {value!r}")


def check_odd(name: str, sizes: tuple[int, ...]) -> None:
    """An even kernel has no centre, so it cannot keep the image's size with equal padding on both sides."""
    if any(size % 2 == 0 for size in sizes):
        raise ValueError(f'{name}: expected odd sizes, which "same" padding needs, got {tuple(sizes)}')


def check_parameters(
    weight: Tensor, input_weight: Tensor | None, bias: Tensor | None, peephole: Tensor | None, spatial_dims: int
) -> None:
    """weight (4C, Cin + C, *kernel), bias (4C), peephole (3, C, *spatial or ones).

    With input_weight (4C, Cin, *input_kernel), weight is (4C, C, *kernel).
    """
    check_tensor("weight", weight)
    if weight.dim() != 2 + spatial_dims:
        raise ValueError(f"weight: expected {2 + spatial_dims} dimensions, got shape {tuple(weight.shape)}")
    if weight.dtype not in DTYPES:
        raise TypeError(f"weight: expected one of {', '.join(map(str, DTYPES))}, got {weight.dtype}")
    rows, columns, *kernel = weight.shape
    if rows == 0 or rows % 4:
        raise ValueError(f"weight: expected 4·C rows, got shape {tuple(weight.shape)}")
    if columns < rows // 4:
        raise ValueError(
            f"weight: expected at least C = {rows // 4} columns (input and hidden channels), got {tuple(weight.shape)}"
        )
    check_odd("weight (its kernel)", tuple(kernel))
    if input_weight is not None:
        _check_input_weight(input_weight, weight, spatial_dims)
    _check_bias_and_peephole(bias, peephole, "weight", weight, rows)


def _check_bias_and_peephole(
    bias: Tensor | None, peephole: Tensor | None, name_of_like: str, like: Tensor, rows: int
) -> None:
    """bias (rows), peephole (3, rows / 4, …) in as many dimensions as `like`."""
    for name, tensor in (("bias", bias), ("peephole", peephole)):
        if tensor is None:
            continue
        check_tensor(name, tensor)
        check_device(name, tensor, like.device)
        if tensor.dtype not in (like.dtype, torch.float32):
            raise TypeError(
                f"{name}: expected {like.dtype}, as {name_of_like} has, or torch.float32, got {tensor.dtype}"
            )
    if bias is not None:
        check_shape("bias", bias, (rows,), "(4·C)")
    if peephole is not None and (peephole.dim() != like.dim() or tuple(peephole.shape[:2]) != (3, rows // 4)):
        raise ValueError(
            f"peephole: expected shape (3, C, …) = (3, {rows // 4}, …) in {like.dim()} dimensions,"
            f" got {tuple(peephole.shape)}"
        )


def _check_input_weight(input_weight: Tensor, weight: Tensor, spatial_dims: int) -> None:
    check_tensor("input_weight", input_weight)
    rows, columns = weight.shape[:2]
    if columns != rows // 4:
        raise ValueError(
            f"weight: expected C = {rows // 4} columns beside input_weight, for the hidden state alone,"
            f" got {tuple(weight.shape)}"
        )
    if input_weight.dim() != 2 + spatial_dims or input_weight.shape[0] != rows or input_weight.shape[1] == 0:
        raise ValueError(
            f"input_weight: expected shape (4·C, Cin, …) = ({rows}, at least 1, …) in {2 + spatial_dims} dimensions,"
            f" got {tuple(input_weight.shape)}"
        )
    check_device("input_weight", input_weight, weight.device)
    if input_weight.dtype != weight.dtype:
        raise TypeError(f"input_weight: expected {weight.dtype}, as weight has, got {input_weight.dtype}")
    check_odd("input_weight (its kernel)", tuple(input_weight.shape[2:]))


def check_gates(preact: Tensor, c: Tensor, bias: Tensor | None, peephole: Tensor | None) -> None:
    """preact (B, 4C, *spatial), c (B, C, *spatial), bias (4C), peephole (3, C, *spatial or ones)."""
    check_tensor("preact", preact)
    if preact.dtype not in DTYPES:
        raise TypeError(f"preact: expected one of {', '.join(map(str, DTYPES))}, got {preact.dtype}")
    if preact.dim() < 2 or preact.shape[1] == 0 or preact.shape[1] % 4:
        raise ValueError(f"preact: expected (B, 4·C, …) with C of at least 1, got shape {tuple(preact.shape)}")
    batch, rows, *spatial = preact.shape
    check_tensor("c", c)
    check_shape("c", c, (batch, rows // 4, *spatial), "(B, C, …)")
    check_device("c", c, preact.device)
    if c.dtype != cell_dtype(preact.dtype):
        raise TypeError(f"c: expected {cell_dtype(preact.dtype)}, the cell state's dtype, got {c.dtype}")
    _check_bias_and_peephole(bias, peephole, "preact", preact, rows)
    check_peephole_size(peephole, tuple(spatial))


def check_peephole_size(peephole: Tensor | None, spatial: tuple[int, ...]) -> None:
    """A channel peephole fits any image; a full one fits images of its own size."""
    if peephole is None or all(size == 1 for size in peephole.shape[2:]):
        return
    if any(got != want for got, want in zip(peephole.shape[2:], spatial)):
        raise ValueError(
            f"peephole: a full peephole fits images of its own size {tuple(peephole.shape[2:])}, got {tuple(spatial)}"
        )


def check_peephole_offsets(peephole: Tensor | None) -> None:
    """The kernels count an image of a full peephole in 32 bits."""
    most = 2**30
    if peephole is not None and peephole[0].numel() > most:
        raise ValueError(
            f"peephole: expected at most {most} elements for each gate, C×H×W, in Triton, got {tuple(peephole.shape)}"
        )


def check_input(name: str, input: Tensor, dims: tuple[str, ...], in_channels: int) -> None:
    """`dims` names the dimensions: ("T", "B", "Cin", "H", "W")."""
    check_tensor(name, input)
    meaning = f"({', '.join(dims)})"
    if input.dim() != len(dims):
        raise ValueError(f"{name}: expected {len(dims)} dimensions {meaning}, got shape {tuple(input.shape)}")
    if input.shape[dims.index("Cin")] != in_channels:
        raise ValueError(f"{name}: expected {meaning} with Cin = {in_channels}, got shape {tuple(input.shape)}")


def is_batched(name: str, tensor: Tensor, dims: tuple[str, ...]) -> bool:
    """Whether a tensor has all of `dims` rather than all but "B"."""
    check_tensor(name, tensor)
    if tensor.dim() not in (len(dims), len(dims) - 1):
        unbatched = ", ".join(dim for dim in dims if dim != "B")
        raise ValueError(
            f"{name}: expected dimensions ({', '.join(dims)}) or, without a batch, ({unbatched}),"
            f" got shape {tuple(tensor.shape)}"
        )
    return tensor.dim() == len(dims)


def count_steps(steps: int | None, input: Tensor | None) -> int:
    """T, from the input (T, …) or, without one, from `steps`."""
    if steps is not None:
        check_integer("steps", steps, minimum=1)
    elif input is None:
        raise ValueError("steps: expected the number of time steps, which nothing else tells without input, got None")
    if input is None:
        return steps
    if input.shape[0] == 0:
        raise ValueError(f"input: expected at least one time step, got shape {tuple(input.shape)}")
    if steps is not None and steps != input.shape[0]:
        raise ValueError(f"steps: expected the input's {input.shape[0]} or None, got {steps}")
    return input.shape[0]


def check_pair(name: str, state: object) -> None:
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        raise TypeError(f"{name}: expected a pair (h, c), got {describe(state)}")
    for index, tensor in enumerate(state):
        check_tensor(f"{name}[{index}]", tensor)


def check_state(name: str, state: object, shape: tuple[int, ...], dims: tuple[str, ...], like: Tensor) -> None:
    """One layer's (h, c), each of this shape; h has the dtype of `like`, the weight or the input, c its cell dtype."""
    check_pair(name, state)
    meaning = f"({', '.join(dims)})"
    for index, tensor in enumerate(state):
        check_shape(f"{name}[{index}]", tensor, shape, meaning)
        check_device(f"{name}[{index}]", tensor, like.device)
    h, c = state
    check_dtype(f"{name}[0] (h)", h, like)
    wanted = cell_dtype(like.dtype)
    if c.dtype != wanted:
        raise TypeError(f"{name}[1] (c): expected {wanted}, the cell state's dtype, got {c.dtype}")


def describe(value: object) -> str:
    """A value's type and length, for a message."""
    return f"{type(value).__name__} of length {len(value)}" if hasattr(value, "__len__") else type(value).__name__
