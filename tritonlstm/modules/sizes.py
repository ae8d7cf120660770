"""Sizes as the constructors take them: one value, a pair, or one for each layer of a stack.

A configuration in JSON or YAML has lists only, so a list may be what was a tuple in Python. For the kernels of a stack:

    3, (5, 3)                       one size, or a tuple of two: for all layers
    [(5, 5), 3], [[5, 5], [3, 3]]   for each layer one
    [5, 3]                          a list of two integers could be a pair or one size for each of two layers. It is
                                    read as what the number of layers allows: the latter for two layers, a pair for one.
                                    A list of two equal sizes is a pair also for more layers. Else it is refused.
"""

from collections.abc import Sequence

from ..core import checks


def is_sequence(value: object) -> bool:
    """Whether a value is a list, a tuple or another sequence of values, such as OmegaConf's ListConfig."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def pair(name: str, value: object) -> tuple[int, int]:
    """Expand a size to a pair of sizes; return a pair as a tuple."""
    sizes = tuple(value) if is_sequence(value) else (value, value)
    if len(sizes) != 2 or not all(map(checks.is_integer, sizes)):
        raise TypeError(f"{name}: expected an integer or a pair of them, got {checks.show(value)}")
    height, width = (checks.check_integer(name, size, minimum=1) for size in sizes)
    return height, width


def count_layers(num_layers: int | None, channels: dict[str, object], kernels: dict[str, object] | None = None) -> int:
    """`num_layers` or, if it is None, the common length of what has one value for each layer, or 1.

    Both dictionaries are arguments by name. Two integers are the channels of two layers, but may be one kernel's size.
    """
    if num_layers is not None:
        return checks.check_integer("num_layers", num_layers, minimum=1)
    kernels = kernels or {}
    lengths = {name: len(value) for name, value in channels.items() if is_sequence(value)}
    lengths |= {name: len(value) for name, value in kernels.items() if _is_per_layer(value)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"num_layers: expected lists of one length, got {lengths}")
    if not lengths:
        for name, value in kernels.items():
            if _is_two_integers(value) and not isinstance(value, tuple):
                raise ValueError(_both_readings(name, value))
    count = next(iter(lengths.values()), 1)
    return checks.check_integer(f"num_layers (the length of {', '.join(lengths)})", count, minimum=1)


def channels_by_layer(name: str, value: object, num_layers: int) -> list[int]:
    """The channels of each layer, from one number or from a sequence of them."""
    values = list(value) if is_sequence(value) else [value] * num_layers
    _check_length(name, values, num_layers)
    return [checks.check_integer(name, each, minimum=1) for each in values]


def kernels_by_layer(name: str, value: object, num_layers: int) -> list[tuple[int, int] | None]:
    """The kernel size of each layer; None for None."""
    is_pair = _is_two_integers(value) and (
        isinstance(value, tuple) or num_layers == 1 or (num_layers > 2 and value[0] == value[1])
    )
    if is_pair or not is_sequence(value):
        values = [value] * num_layers
    elif isinstance(value, tuple) and not _is_per_layer(value) and len(value) != num_layers:
        values = [value]  # a kernel of another number of dimensions, which `pair` refuses
    else:
        values = list(value)
        _check_length(name, values, num_layers, "; a tuple of two integers is a pair for all layers")
    return [None if each is None else pair(name, each) for each in values]


def _check_length(name: str, values: list, num_layers: int, hint: str = "") -> None:
    if len(values) != num_layers:
        raise ValueError(
            f"{name}: expected one value or {num_layers}, one for each layer, got {checks.show(values)}{hint}"
        )


def _is_two_integers(value: object) -> bool:
    return is_sequence(value) and len(value) == 2 and all(map(checks.is_integer, value))


def _is_per_layer(value: object) -> bool:
    """Whether a kernel size can only be one for each layer: a list, but not of two integers; a tuple, if of pairs."""
    if not is_sequence(value):
        return False
    if any(each is None or is_sequence(each) for each in value):
        return True
    return not isinstance(value, tuple) and not _is_two_integers(value)


def _both_readings(name: str, value: Sequence[int]) -> str:
    first, second = value
    one, two = f"[[{first}, {second}]]", f"[[{first}, {first}], [{second}, {second}]]"
    return (
        f"{name}: expected {one} or num_layers=1 for one layer with a kernel of {first}×{second}, or {two} or"
        f" num_layers=2 for two layers with kernels of {first}×{first} and {second}×{second}, got {checks.show(value)},"
        f" which could be either; the tuple ({first}, {second}) is one kernel for all layers"
    )
