"""Sizes as the constructors take them: one value, one for each dimension, or one for each layer of a stack.

A configuration in JSON or YAML has lists only, so a list may be what was a tuple in Python. For the kernels of a stack
of images:

    3, (5, 3)                       one size, or a tuple of two: for all layers
    [(5, 5), 3], [[5, 5], [3, 3]]   for each layer one
    [5, 3]                          a list of two integers could be a pair or one size for each of two layers. It is
                                    read as what the number of layers allows: the latter for two layers, a pair for one.
                                    A list of two equal sizes is a pair also for more layers. Else it is refused.

The same holds for lists of three integers and volumes. A list of sizes of signals, which have one dimension, is one for
each layer.
"""

from collections.abc import Sequence

from ..core import checks


def is_sequence(value: object) -> bool:
    """Whether a value is a list, a tuple or another sequence of values, such as OmegaConf's ListConfig."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


_GROUPS = {1: "a tuple of one of them", 2: "a pair of them", 3: "a triple of them"}
_NUMBERS = {2: "two", 3: "three"}


def size(name: str, value: object, dims: int = 2) -> tuple[int, ...]:
    """Expand a size to one for each of `dims` dimensions; return a sequence of so many as a tuple."""
    sizes = tuple(value) if is_sequence(value) else (value,) * dims
    if len(sizes) != dims or not all(map(checks.is_integer, sizes)):
        raise TypeError(f"{name}: expected an integer or {_GROUPS[dims]}, got {checks.show(value)}")
    return tuple(checks.check_integer(name, each, minimum=1) for each in sizes)


def count_layers(
    num_layers: int | None, channels: dict[str, object], kernels: dict[str, object] | None = None, dims: int = 2
) -> int:
    """`num_layers` or, if it is None, the common length of what has one value for each layer, or 1.

    Both dictionaries are arguments by name. Two integers are the channels of two layers, but may be the size of one
    kernel of two dimensions.
    """
    if num_layers is not None:
        return checks.check_integer("num_layers", num_layers, minimum=1)
    kernels = kernels or {}
    lengths = {name: len(value) for name, value in channels.items() if is_sequence(value)}
    lengths |= {name: len(value) for name, value in kernels.items() if _is_per_layer(value, dims)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"num_layers: expected lists of one length, got {lengths}")
    if not lengths:
        for name, value in kernels.items():
            if _is_one_size(value, dims) and not isinstance(value, tuple):
                raise ValueError(_both_readings(name, value))
    count = next(iter(lengths.values()), 1)
    return checks.check_integer(f"num_layers (the length of {', '.join(lengths)})", count, minimum=1)


def channels_by_layer(name: str, value: object, num_layers: int) -> list[int]:
    """The channels of each layer, from one number or from a sequence of them."""
    values = list(value) if is_sequence(value) else [value] * num_layers
    _check_length(name, values, num_layers)
    return [checks.check_integer(name, each, minimum=1) for each in values]


def kernels_by_layer(name: str, value: object, num_layers: int, dims: int = 2) -> list[tuple[int, ...] | None]:
    """The kernel size of each layer in `dims` dimensions; None for None."""
    is_one = _is_one_size(value, dims) and (
        isinstance(value, tuple) or num_layers == 1 or (num_layers != dims and len(set(value)) == 1)
    )
    if is_one or not is_sequence(value):
        values = [value] * num_layers
    elif isinstance(value, tuple) and not _is_per_layer(value, dims) and len(value) != num_layers:
        values = [value]  # a kernel of another number of dimensions, which `size` refuses
    else:
        values = list(value)
        number = _NUMBERS.get(dims)
        hint = f"; a tuple of {number} integers is a {'pair' if dims == 2 else 'triple'} for all layers"
        _check_length(name, values, num_layers, hint if number else "")
    return [None if each is None else size(name, each, dims) for each in values]


def _check_length(name: str, values: list, num_layers: int, hint: str = "") -> None:
    if len(values) != num_layers:
        raise ValueError(
            f"{name}: expected one value or {num_layers}, one for each layer, got {checks.show(values)}{hint}"
        )


def _is_one_size(value: object, dims: int) -> bool:
    """Whether a sequence could be the size of one kernel, rather than one for each layer."""
    if not is_sequence(value) or len(value) != dims or not all(map(checks.is_integer, value)):
        return False
    return dims > 1 or isinstance(value, tuple)


def _is_per_layer(value: object, dims: int) -> bool:
    """Whether a kernel size can only be one for each layer: a list, unless it could be one size; a tuple of sizes."""
    if not is_sequence(value):
        return False
    if any(each is None or is_sequence(each) for each in value):
        return True
    return not isinstance(value, tuple) and not _is_one_size(value, dims)


def _both_readings(name: str, value: Sequence[int]) -> str:
    dims, number, got = len(value), _NUMBERS[len(value)], checks.show(value)
    value = [int(each) for each in value]
    one, several = [value], [[each] * dims for each in value]
    what = "dilation" if name == "dilation" else "kernel"
    kernels = " and ".join("×".join([str(each)] * dims) for each in value)
    return (
        f"{name}: expected {one} or num_layers=1 for one layer with a {what} of {'×'.join(map(str, value))}, or"
        f" {several} or num_layers={dims} for {number} layers with {what}s of {kernels}, got {got},"
        f" which could be either; the tuple {tuple(value)} is one {what} for all layers"
    )
