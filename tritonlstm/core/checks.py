"""What is checked before any kernel runs. Every message names the argument, what was wanted and what came."""

import math
import numbers
import operator
import re
from collections.abc import Collection

import torch
from torch import Tensor

from .arguments import Arguments
from .dtypes import activation_dtypes, cell_dtype

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_STRIDED = torch.strided


def is_dense(value: object) -> bool:
    """Whether a value is a tensor, and neither sparse, nor in oneDNN's layout, nor nested."""
    return isinstance(value, Tensor) and value.layout is _STRIDED and not value.is_nested


def check_tensor(name: str, value: object) -> None:
    if is_dense(value):
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a Tensor, got {type(value).__name__}")
    kind = "a nested tensor" if value.is_nested else f"layout {value.layout}"
    raise TypeError(f"{name}: expected a dense tensor (torch.strided), got {kind}")


def check_shape(name: str, tensor: Tensor, wanted: tuple[int, ...], dims: tuple[str, ...]) -> None:
    """`dims` names the dimensions: ("B", "C", "H", "W")."""
    if tensor.shape != wanted:
        raise ValueError(f"{name}: expected shape ({', '.join(dims)}) = {wanted}, got {tuple(tensor.shape)}")


def check_device(name: str, tensor: Tensor, wanted: torch.device) -> None:
    if tensor.device != wanted:
        raise ValueError(f"{name}: expected a tensor on {wanted}, as the others, got one on {tensor.device}")


def check_dtype(name: str, tensor: Tensor, like: Tensor) -> None:
    """Of an input or a hidden state: the dtype of `like` or, under autocast, any that autocast casts from and to."""
    wanted = activation_dtypes(like)
    if tensor.dtype not in wanted:
        raise TypeError(f"{name}: expected {' or '.join(map(str, wanted))}, got {tensor.dtype}")


def check_choice(name: str, value: object, choices: Collection[str | None]) -> None:
    if not isinstance(value, (str, type(None))) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {show(value)}")


def check_bool(name: str, value: object) -> bool:
    """The value as a bool; NumPy's are accepted."""
    if not isinstance(value, bool) and not _is_numpy_bool(value):
        raise TypeError(f"{name}: expected a bool, got {show(value)}")
    return bool(value)


def _is_numpy_bool(value: object) -> bool:
    return type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_")  # without importing NumPy


def is_integer(value: object) -> bool:
    """Whether a value is an int or may be used as one, as NumPy's integers; not a bool, and not a tensor."""
    return hasattr(type(value), "__index__") and not isinstance(value, (bool, Tensor)) and not _is_numpy_bool(value)


def check_integer(name: str, value: object, minimum: int) -> int:
    """The value as an int; what has `__index__`, such as NumPy's integers, is accepted."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        value = _index(name, value)
    if value < minimum:
        raise ValueError(f"{name}: expected an integer of at least {minimum}, got {show(value)}")
    return value


def _index(name: str, value: object) -> int:
    try:
        if is_integer(value):
            return int(operator.index(value))
    except TypeError:
        pass
    raise TypeError(f"{name}: expected an integer, got {show(value)}")


def check_number(name: str, value: object, largest: float = math.inf) -> float:
    """The value as a finite float, in size at most `largest`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {show(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or abs(number) > largest:
        limit = "" if largest == math.inf else f", in size at most {largest:g}"
        raise ValueError(f"{name}: expected a finite number{limit}, got {show(value)}")
    return number


def check_probability(name: str, value: object) -> float:
    """The value as a float between 0 and 1."""
    number = check_number(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a probability, between 0 and 1, got {show(value)}")
    return number


def check_float_dtype(name: str, value: object) -> None:
    if not isinstance(value, torch.dtype) or value not in DTYPES:
        raise TypeError(f"{name}: expected one of {', '.join(map(str, DTYPES))}, got {show(value)}")


def check_odd(name: str, sizes: tuple[int, ...]) -> None:
    """An even kernel has no centre, so it cannot keep the image's size with equal padding on both sides."""
    if any(size % 2 == 0 for size in sizes):
        padding = tuple(each for size in reversed(sizes) for each in (1 - size % 2, 0))
        raise ValueError(
            f'{name}: expected odd sizes, which "same" padding needs, got {tuple(sizes)}; a kernel of even size is one'
            f" of the next odd size that begins with zeros, as torch.nn.functional.pad(weight, {padding}) makes it"
        )


SPATIAL_DIMS = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
"""The names of the spatial dimensions of signals, images and volumes."""


def spatial_dims(weight: Tensor) -> tuple[str, ...]:
    """The names of the spatial dimensions for which the weight of a convolution is made."""
    check_tensor("weight", weight)
    if weight.dim() - 2 not in SPATIAL_DIMS:
        raise ValueError(f"weight: expected 3 to 5 dimensions, got shape {tuple(weight.shape)}")
    return SPATIAL_DIMS[weight.dim() - 2]


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
        check_shape("bias", bias, (rows,), ("4·C",))
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
    check_shape("c", c, (batch, rows // 4, *spatial), ("B", "C", *("…",) * len(spatial)))
    check_device("c", c, preact.device)
    if c.dtype != cell_dtype(preact.dtype):
        raise TypeError(f"c: expected {cell_dtype(preact.dtype)}, the cell state's dtype, got {c.dtype}")
    _check_bias_and_peephole(bias, peephole, "preact", preact, rows)
    check_peephole_size(peephole, tuple(spatial))


def check_channels(arguments: Arguments, in_channels: int, channels: int, projected: int | None = None) -> None:
    """Weights that were replaced since the layer was made must have the layer's channels.

    `projected` are those of h, if they are others than c's.
    """
    weight, input_weight = arguments.weight, arguments.input_weight
    if isinstance(weight, Tensor):
        hidden = channels if projected is None else projected
        wanted = (4 * channels, hidden if input_weight is not None else in_channels + hidden)
        if weight.shape[:2] != wanted:
            meaning = "(4·C, Cin + C, …)" if input_weight is None else "(4·C, C, …)"
            of_h = "" if projected is None else f", with P = {projected} in place of C for the hidden state"
            raise ValueError(
                f"weight: expected shape {meaning} = ({wanted[0]}, {wanted[1]}, …), from the layer's Cin ="
                f" {in_channels} and C = {channels}{of_h}, got {tuple(weight.shape)}"
            )
    if isinstance(input_weight, Tensor) and input_weight.shape[:2] != (4 * channels, in_channels):
        raise ValueError(
            f"input_weight: expected shape (4·C, Cin, …) = ({4 * channels}, {in_channels}, …), from the layer's"
            f" Cin = {in_channels} and C = {channels}, got {tuple(input_weight.shape)}"
        )


def check_peephole_size(peephole: Tensor | None, spatial: tuple[int, ...]) -> None:
    """A channel peephole fits any image; a full one fits images of its own size."""
    if peephole is None or all(size == 1 for size in peephole.shape[2:]):
        return
    if any(got != want for got, want in zip(peephole.shape[2:], spatial)):
        raise ValueError(
            f"peephole: a full peephole fits images of its own size {tuple(peephole.shape[2:])}, got {tuple(spatial)}"
        )


def check_pixels(input: Tensor | None, spatial: tuple[int, ...], name: str = "input") -> None:
    """PyTorch's convolutions take no image without pixels; the operators of sequences do."""
    if any(size == 0 for size in spatial):
        name, got = ("state", spatial) if input is None else (name, tuple(input.shape))
        raise ValueError(f'{name}: expected at least one pixel, which a step and backend="torch" need, got {got}')


def check_peephole_offsets(peephole: Tensor | None) -> None:
    """The kernels count an image of a full peephole in 32 bits."""
    most = 2**30
    if peephole is not None and peephole[0].numel() > most:
        raise ValueError(
            f"peephole: expected at most {most} elements for each gate, C×H×W, in Triton, got {tuple(peephole.shape)}"
        )


def check_input(name: str, input: Tensor, dims: tuple[str, ...], in_channels: int) -> None:
    """`dims` names the dimensions: ("T", "B", "Cin", "H", "W"), with "4·C" for "Cin" in pre-activations."""
    channels = "Cin" if "Cin" in dims else "4·C"
    check_tensor(name, input)
    shape = input.shape
    if len(shape) != len(dims):
        raise ValueError(f"{name}: expected {len(dims)} dimensions ({', '.join(dims)}), got shape {tuple(shape)}")
    if shape[dims.index(channels)] != in_channels:
        raise ValueError(
            f"{name}: expected ({', '.join(dims)}) with {channels} = {in_channels}, got shape {tuple(shape)}"
        )


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


def count_steps(steps: int | None, input: Tensor | None, name: str = "input") -> int:
    """T, from the input (T, …) of this name or, without one, from `steps`."""
    if steps is not None:
        steps = check_integer("steps", steps, minimum=1)
    elif input is None:
        raise ValueError("steps: expected the number of time steps, which nothing else tells without input, got None")
    if input is None:
        return steps
    if input.shape[0] == 0:
        raise ValueError(f"{name}: expected at least one time step, got shape {tuple(input.shape)}")
    if steps is not None and steps != input.shape[0]:
        raise ValueError(f"steps: expected the input's {input.shape[0]} or None, got {steps}")
    return input.shape[0]


def check_pair(name: str, state: object) -> None:
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        raise TypeError(f"{name}: expected a pair (h, c), got {describe(state)}")
    for index, tensor in enumerate(state):
        if not is_dense(tensor):
            check_tensor(f"{name}[{index}]", tensor)


def check_state(
    name: str,
    state: object,
    shape: tuple[int, ...],
    dims: tuple[str, ...],
    like: Tensor,
    c_shape: tuple[int, ...] | None = None,
) -> None:
    """One layer's (h, c), each of this shape; h has the dtype of `like`, the weight or the input, c its cell dtype.

    `c_shape` is c's where h is projected.
    """
    check_pair(name, state)
    device = like.device
    for index, (tensor, size) in enumerate(zip(state, (shape, c_shape or shape))):
        if tensor.shape != size:
            check_shape(f"{name}[{index}]", tensor, size, dims)
        if tensor.device != device:
            check_device(f"{name}[{index}]", tensor, device)
    h, c = state
    if h.dtype != like.dtype:
        check_dtype(f"{name}[0] (h)", h, like)
    wanted = cell_dtype(like.dtype)
    if c.dtype != wanted:
        raise TypeError(f"{name}[1] (c): expected {wanted}, the cell state's dtype, got {c.dtype}")


def describe(value: object) -> str:
    """What a value is, for a message: a tensor's shape, a list's length, else its type."""
    if isinstance(value, Tensor):
        return f"Tensor of shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{name} of length {len(value)}" if isinstance(value, (tuple, list, dict, set, str)) else name


def show(value: object) -> str:
    """A value's repr for a message, in one line and not too long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of a value that cannot be shown, such as an int of more digits than Python writes
        return type(value).__name__
    return text if len(text) <= 100 else f"{text[:99]}…"


def name_layer(error: Exception, index: int, name: str, state_index: int, input_name: str = "input") -> None:
    """Make the message of a check, raised by the layer `index` of a stack, say which layer it is about.

    `name` is the module's, "layers[0]", `state_index` that of its state, and `input_name` what the stack calls its
    input. What is not a message of these checks stays as it is: the error of a user's hook or wrapper.
    """
    message, ours = str(error), r"(weight|input_weight|bias|peephole|projection|input|state|reset_state)\b"
    if not _is_ours(error) or not re.match(ours, message):
        return
    if message.startswith(("state", "reset_state")):
        argument = "state" if message.startswith("state") else "reset_state"
        error.args = (f"{argument}[{state_index}]{message.removeprefix(argument)}",)
    elif index or not message.startswith("input:"):
        error.args = (f"{name}.{message}",)
    else:  # the first layer's input is what the caller passed
        error.args = (f"{input_name}{message.removeprefix('input')}",)


def _is_ours(error: Exception) -> bool:
    """Whether code of this package raised the error."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    package = __name__.partition(".")[0]
    return traceback is not None and traceback.tb_frame.f_globals.get("__name__", "").partition(".")[0] == package
