"""Layers from the tensors of other code, and back."""

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from .. import modules
from ..core import checks
from ..core.spec import Spec
from ..modules.cell import RecurrentCell
from ..modules.stack import RecurrentStack
from .formats import DepthwiseSeparable, Format, Ignored, Native
from .layer import LayerTensors
from .sources import find_format
from .trees import flatten, nest, to_tensor

_CLASSES = {0: "PeepholeLSTM", 1: "ConvLSTM1d", 2: "ConvLSTM2d", 3: "ConvLSTM3d"}
"""By number of spatial dimensions."""

_TOLD = (
    "in_channels",
    "hidden_channels",
    "kernel_size",
    "input_kernel_size",
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "peephole",
    "spatial_size",
    "proj_size",
    "bidirectional",
    "device",
    "dtype",
)
"""Arguments of the layers that the weights tell."""

_COMPUTATION = ("backend", "memory", "schedule", "returns")
"""Options that change how a layer computes or what it returns, but not its equations."""

_FOREIGN = {
    "*_reverse": "bidirectional: the weights of a second direction, which this source does not have",
    "*weight_hr_l*": "proj_size: a projection, which this source does not have",
    "*reset_gate*": "a ConvGRU, which is another cell",
    "*update_gate*": "a ConvGRU, which is another cell",
    "*running_mean": "normalisation: batch normalisation inside the layer, which is not converted",
    "*running_var": "normalisation: batch normalisation inside the layer, which is not converted",
}
"""Keys that are told apart in any source, with the option or the cell that they belong to."""


def rename(
    state_dict: Mapping[str, object],
    source: str | Format,
    target: str | Format = "tritonlstm",
    *,
    prefix: str = "",
    target_prefix: str = "",
    missing_peephole: str | None = None,
    without_input: bool = False,
    dense: bool = False,
) -> dict[str, Tensor]:
    """The tensors of `source` under the keys, and in the shapes and gate order, of `target`.

    Only keys and tensors are looked at: whether both compute the same with them is for the caller to know. Everything
    is differentiable, so that gradients with respect to the source's tensors are those in its own coordinates:

        output, _ = torch.func.functional_call(layer, convert.rename(theirs, "ndrplz"), (input,))

    Args:
        state_dict: tensors or arrays by key. Nested dictionaries are one, with their keys joined by ".".
        source, target: a name, one of `convert.SOURCES`, or a description. "tritonlstm" is this package's own.
        prefix: with which the keys of the source begin. Keys that begin otherwise are left out.
        target_prefix: with which the keys that are returned begin.
        missing_peephole: "zeros" to take peepholes that are absent for zero; there are none then if None.
        without_input: whether to leave out the columns of the first layer's input, for a layer that was only ever given
            zeros, as forecasters are.
        dense: whether to compute the dense convolution in place of a depthwise one.

    Raises:
        ValueError: that names the key, if one is absent, or is neither used nor known to be unnecessary, if shapes do
            not fit together, or if the target cannot hold what the source has.
        TypeError: for what is no tensor.
    """
    stacks = read(
        state_dict, source, prefix, missing_peephole=missing_peephole, without_input=without_input, dense=dense
    )
    return _write(stacks, target, target_prefix)


def from_state_dict(
    state_dict: Mapping[str, object] | Sequence[object],
    source: str | Format,
    prefix: str = "",
    *,
    missing_peephole: str | None = None,
    without_input: bool = False,
    dense: bool = False,
    **options: object,
) -> RecurrentStack:
    """Build the layer that computes the same as the source's, with its weights.

    Sizes, bias, peepholes, projection and directions follow from the tensors, dtype and device are the tensors',
    activations and normalisation follow from the source. Tensors are copied.

    Args:
        state_dict: as in `rename`; for Keras also the list that `get_weights()` returns.
        source, prefix, missing_peephole, without_input, dense: as in `rename`.
        options: arguments of the layer that the weights do not tell, such as `batch_first=True` or `memory`. For
            "keras" and "mxnet", `padding` must be given, for Keras's cells `recurrent_activation` too; for this
            package's own layers their `norm`, if they have one.

    Returns:
        `ConvLSTM1d`, `ConvLSTM2d` or `ConvLSTM3d` by the kernels' dimensions, or `PeepholeLSTM` for matrices.

    Raises:
        ValueError, TypeError: as `rename`; also if the source needs an option that the layer does not have, which the
            message names.
    """
    name, format = find_format(source)
    options = _check_asked(name, format, options)
    stacks = read(
        state_dict, source, prefix, missing_peephole=missing_peephole, without_input=without_input, dense=dense
    )
    layer = _build(name, format, stacks, {**format.options, **options})
    tensors = _write(stacks, Native(), "")
    state = {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
    layer.load_state_dict(state, assign=True)
    return layer


def to_state_dict(layer: nn.Module, source: str | Format, prefix: str = "") -> dict[str, object]:
    """The weights of a layer as the source has them; the inverse of `from_state_dict`.

    Args:
        layer: `ConvLSTM1d` to `ConvLSTM3d`, `PeepholeLSTM`, or one of their cells.
        source: as in `rename`.
        prefix: with which the keys begin.

    Returns:
        Tensors by key; for "flax" and "haiku" the tree of dictionaries that they use. They are new or views, and share
        no gradient with the layer.

    Raises:
        ValueError: that names what the source cannot represent: an activation, peepholes that are not zero, a bias,
            an input kernel of a different size, no input, a second direction, a projection, a norm, zoneout.
    """
    name, format = find_format(source)
    cells, reverse_cells = _cells(layer)
    if not isinstance(format, Native):
        for cell in cells:
            _check_represented(name, format, cell, cell.spec)
        for cell in reverse_cells:
            _check_represented(name, format, cell, dataclasses.replace(cell.spec, reverse=False))
    own = Native("") if isinstance(layer, RecurrentCell) else Native()
    tensors = {key: tensor.detach() for key, tensor in layer.state_dict().items()}
    stacks = read(tensors, own)
    if not isinstance(format, Native) and not any(group.role == "peephole" for group in format.groups(False)):
        stacks = [[_without_zero_peephole(name, each) for each in layers] for layers in stacks]
    written = _write(stacks, source, prefix)
    return nest(written) if format.nested else written


def read(
    state_dict: Mapping[str, object] | Sequence[object],
    source: str | Format,
    prefix: str = "",
    *,
    missing_peephole: str | None = None,
    without_input: bool = False,
    dense: bool = False,
) -> list[list[LayerTensors]]:
    """The layers of a source, from the lowest, for each direction. The arguments and errors are those of `rename`."""
    name, format = find_format(source)
    if missing_peephole not in (None, "zeros"):
        raise ValueError(f"missing_peephole: expected None or 'zeros', got {checks.show(missing_peephole)}")
    dense = checks.check_bool("dense", dense)
    without_input = checks.check_bool("without_input", without_input)
    if isinstance(format, DepthwiseSeparable):
        format = dataclasses.replace(format, dense=format.dense or dense)
    tensors = _under(prefix, _named(name, format, state_dict))
    for key in tensors:
        _check_not_refused(name, format, prefix, key)
    numbers = format.layers(tensors)
    if not numbers:
        raise ValueError(_nothing_found(name, format, prefix, _named(name, format, state_dict)))
    wanted = list(range(format.first, format.first + len(numbers)))
    if numbers != wanted:
        raise ValueError(
            f"state_dict: expected the layers {wanted[0]} to {numbers[-1]} of {name}, got those of the numbers"
            f" {', '.join(map(str, numbers))}"
        )
    tensors = {key: to_tensor(prefix + key, value) for key, value in tensors.items()}
    stacks, used = [], set()
    for direction in range(format.directions_of(tensors)):
        stacks.append([])
        for number in numbers:
            try:
                layer, keys = format.read(tensors, number, direction)
            except (TypeError, ValueError) as error:
                where = f" under {prefix!r}" if prefix else ""
                raise type(error)(f"{error}, in the weights of {name}{where}") from None
            used.update(keys)
            stacks[-1].append(_with_peephole(name, format, prefix, number, layer, missing_peephole))
    for key in sorted(tensors.keys() - used):
        _check_ignored(name, format, prefix, key, tensors[key])
    if without_input:
        for layers in stacks:
            layers[0] = layers[0]._replace(input=None)
    _check_sizes(stacks, format.first)
    return stacks


def _check_sizes(stacks: Sequence[Sequence[LayerTensors]], first: int) -> None:
    """Each layer must read what the one below has, in both directions the same."""
    for number, directions in enumerate(zip(*stacks), first):
        sizes = [(each.in_channels, each.channels, each.out_channels, each.kernel) for each in directions]
        sizes = [(*each, layer.input_kernel) for each, layer in zip(sizes, directions)]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"state_dict: expected both directions of layer {number} with the same Cin, C and kernels, got"
                f" {' and '.join(str((cin, c, *kernels)) for cin, c, _, *kernels in sizes)}"
            )
    for number, (below, above) in enumerate(pairwise(stacks[0]), first):
        wanted = len(stacks) * below.out_channels
        if above.in_channels != wanted:
            raise ValueError(
                f"state_dict: expected layer {number + 1} to read the {wanted} channels of layer {number},"
                f" got a weight for {above.in_channels}"
            )


def _named(name: str, format: Format, state_dict: object) -> dict[str, object]:
    """The values by key, of a tree or of a list whose order the format knows."""
    if isinstance(state_dict, Mapping):
        return flatten(state_dict)
    if isinstance(state_dict, Sequence) and not isinstance(state_dict, str):
        if format.order is None:
            raise TypeError(f"state_dict: expected a dictionary for {name}, got {checks.describe(state_dict)}")
        return named(format.order, state_dict)
    raise TypeError(f"state_dict: expected a dictionary of tensors, got {checks.describe(state_dict)}")


def named(order: Sequence[str], tensors: Sequence[object]) -> dict[str, object]:
    """The tensors of a list by name, of this order, or of those that are no bias."""
    without_bias = [key for key in order if not key.endswith("bias")]
    for names in (order, without_bias):
        if len(tensors) == len(names):
            return dict(zip(names, tensors))
    raise ValueError(
        f"state_dict: expected the {len(order)} tensors {', '.join(order)} of one layer, or the {len(without_bias)}"
        f" without a bias, got {len(tensors)}"
    )


def _under(prefix: object, values: Mapping[str, object]) -> dict[str, object]:
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a string, got {checks.show(prefix)}")
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


def prefixes(format: Format, keys: Sequence[str]) -> list[str]:
    """The prefixes with which some of the keys would be this format's."""
    anchor = "\\d+".join(map(re.escape, format.anchor().split("{layer}")))
    pattern = re.compile((r"(?<![A-Za-z0-9_])" if anchor[0].isalnum() else "") + anchor + "$")
    return sorted({key[: match.start()] for key in keys if (match := pattern.search(key))})


def _nothing_found(name: str, format: Format, prefix: str, values: Mapping[str, object]) -> str:
    message = f"prefix: expected keys as {prefix}{format.anchor()} of {name} under {prefix!r}, got none"
    found = prefixes(format, list(values))
    if found:
        return f"{message}; there are some under {' and '.join(map(repr, found[:5]))}"
    keys = ", ".join(list(values)[:5])
    return f"{message}; the keys are {keys}{', …' if len(values) > 5 else ''}" if values else f"{message}; it is empty"


def _check_not_refused(name: str, format: Format, prefix: str, key: str) -> None:
    """Tell apart keys of an option or a cell that the layer does not have."""
    patterns = format.refused if format.owns(key) or _ignored(format, key) else {**format.refused, **_FOREIGN}
    for pattern, reason in patterns.items():
        if fnmatchcase(key, pattern):
            raise ValueError(f"{prefix}{key}: {reason}, in the weights of {name}")


def _ignored(format: Format, key: str) -> Ignored | None:
    for each in format.ignore:
        ignored = Ignored(each, "the description says so") if isinstance(each, str) else each
        if fnmatchcase(key, ignored.pattern):
            return ignored
    return None


def _check_ignored(name: str, format: Format, prefix: str, key: str, value: Tensor) -> None:
    """Raise a ValueError for a key that was not used, unless it is known not to be needed."""
    ignored = _ignored(format, key)
    if ignored is None:
        raise ValueError(
            f"{prefix}{key}: expected only keys that {name} has, got another; a prefix leaves out keys that do not"
            " begin with it, and the `ignore` of a description those that are not needed"
        )
    initial = ignored.initial
    if initial is not None and not value.is_meta and not bool((value == initial).all()):
        raise ValueError(f"{prefix}{key}: expected {initial:g}, since {ignored.reason}, got values that were trained")


def _with_peephole(
    name: str, format: Format, prefix: str, number: int, layer: LayerTensors, missing: str | None
) -> LayerTensors:
    """The layer with peepholes of zero if it has none and `missing` says so."""
    if layer.peephole is not None:
        return layer
    has_lost = format.peephole is not None and format.absent_peephole != "none"
    key = f"{prefix}{format.peephole}".replace("{layer}", str(number)) if has_lost else ""
    if has_lost and format.absent_peephole == "random":
        raise ValueError(
            f"{key}: {name} starts its peepholes at random and its checkpoint has lost them; it is incomplete"
        )
    if missing is None:
        if has_lost:
            raise ValueError(
                f"{key}: expected the peepholes of {name}, got none; missing_peephole='zeros' takes them for zero, as"
                " they start and stay where they are not trained"
            )
        return layer
    ones = [1] * (layer.hidden.dim() - 2)
    return layer._replace(peephole=layer.hidden.new_zeros(3, layer.channels, *ones))


def _write(stacks: Sequence[Sequence[LayerTensors]], target: str | Format, prefix: str) -> dict[str, Tensor]:
    name, format = find_format(target)
    if not isinstance(prefix, str):
        raise TypeError(f"target_prefix: expected a string, got {checks.show(prefix)}")
    if len(stacks[0]) > 1 and "{layer}" not in format.anchor():
        raise ValueError(f"num_layers: expected one layer, which {name} has, got {len(stacks[0])}")
    if len(stacks) > 1 and not format.has_directions:
        raise ValueError(f"bidirectional: expected False, since {name} has one direction, got True")
    written = {}
    for direction, layers in enumerate(stacks):
        for number, layer in enumerate(layers, format.first):
            try:
                tensors = format.write(layer, number, direction)
            except ValueError as error:
                raise ValueError(f"{error}, in {name}") from None
            written |= {prefix + key: tensor for key, tensor in tensors.items()}
    return written


def _check_asked(name: str, format: Format, options: dict[str, object]) -> dict[str, object]:
    """The options without "padding", which only "same" can be, once all are there that must be given."""
    for option, choices in format.asks.items():
        if option not in options:
            raise ValueError(f"{option}: expected the one that {name} was used with, {choices}, got none")
    if "padding" not in format.asks:
        return options
    options = dict(options)
    padding = options.pop("padding")
    if padding != "same":
        raise ValueError(
            f"padding: expected 'same', got {checks.show(padding)}; the layer does not shrink images, which the rest of"
            " the model would rely on"
        )
    return options


def _build(
    name: str, format: Format, stacks: Sequence[Sequence[LayerTensors]], options: dict[str, object]
) -> RecurrentStack:
    """A layer of these sizes, without memory for its parameters."""
    layers = [layer for stack in stacks for layer in stack]
    dims = layers[0].hidden.dim() - 2
    kind = getattr(modules, _CLASSES.get(dims, ""), None)
    if kind is None:
        raise ValueError(
            f"{_CLASSES.get(dims, f'{dims} dimensions')}: {name} needs it, and this version does not have it"
        )
    known = {*_keywords(kind), *(each.name for each in dataclasses.fields(Spec))}
    for option, value in options.items():
        if option in _TOLD:
            raise ValueError(f"{option}: expected none, since the weights tell it, got {checks.show(value)}")
        if option not in known:
            raise ValueError(f"{option}: {name} needs {option}={value!r}, an option that {kind.__name__} does not have")
    has_bias = {layer.bias is not None for layer in layers}
    peepholes = {None if layer.peephole is None else tuple(layer.peephole.shape[2:]) for layer in layers}
    if len(has_bias) > 1 or len(peepholes) > 1:
        raise ValueError("state_dict: expected a bias in all layers or in none, and peepholes of one kind")
    (has_bias,), (spatial,) = has_bias, peepholes
    first, channels = layers[0], [layer.channels for layer in stacks[0]]
    sizes: dict[str, object] = {
        "num_layers": len(channels),
        "bias": has_bias,
        "bidirectional": len(stacks) > 1,
        "device": "meta",
        "dtype": first.hidden.dtype,
    }
    norm = _norm_of(name, format, layers, dims, options)
    options = {**options, "norm": norm} if norm is not None else options
    if dims == 0:
        projected = {0 if layer.projection is None else layer.out_channels for layer in layers}
        if len(projected) > 1:
            raise ValueError(
                f"state_dict: expected one size of projection in all layers, got {', '.join(map(str, projected))}"
            )
        sizes |= {"peephole": spatial is not None, "proj_size": projected.pop()}
        return kind(first.in_channels, channels, **sizes, **options)
    is_full = spatial is not None and math.prod(spatial) > 1
    sizes["peephole"] = "none" if spatial is None else "full" if is_full else "channel"
    if is_full:
        sizes["spatial_size"] = spatial
    kernels = [layer.kernel for layer in stacks[0]]
    input_kernels = None if all(map(LayerTensors.is_joint, layers)) else [layer.input_kernel for layer in stacks[0]]
    return kind(first.in_channels, channels, kernels, input_kernel_size=input_kernels, **sizes, **options)


def _norm_of(
    name: str, format: Format, layers: Sequence[LayerTensors], dims: int, options: Mapping[str, object]
) -> Callable[[int], nn.Module] | None:
    """What makes the layers' normalisation: the source's, or the one that the options give for our own layers."""
    given = options.get("norm")
    has_norm = {layer.norm is not None for layer in layers}
    if len(has_norm) > 1:
        raise ValueError("state_dict: expected a normalisation in all layers or in none")
    if not has_norm.pop():
        if given is not None:
            raise ValueError(f"norm: expected None, since the weights of {name} have none, got {checks.show(given)}")
        return None
    if format.norm is None:
        if given is None:
            raise ValueError("norm: expected the one of the layer, since its weights do not tell it, got none")
        return given
    if given is not None:
        raise ValueError(f"norm: expected none, since {name} has its own, got {checks.show(given)}")
    return partial(format.norm.make, dims=dims)


def _keywords(kind: type) -> list[str]:
    return [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "options")]


def _cells(layer: object) -> tuple[list[RecurrentCell], list[RecurrentCell]]:
    """The cells, and those of the second direction."""
    if isinstance(layer, RecurrentCell):
        return [layer], []
    if isinstance(layer, RecurrentStack):
        cells = list(layer.layers), list(layer.reverse_layers or ())
        if all(isinstance(cell, RecurrentCell) for each in cells for cell in each):
            return cells
    raise TypeError(f"layer: expected a layer of this package, got {checks.describe(layer)}")


def _check_represented(name: str, format: Format, cell: RecurrentCell, spec: Spec) -> None:
    for each in dataclasses.fields(Spec):
        if each.name in _COMPUTATION or each.name in format.free:
            continue
        value, wanted = getattr(spec, each.name), format.options.get(each.name, each.default)
        if each.name == "output_activation" and wanted is None:  # that of the candidate, which may be said, too
            wanted = value if spec.activation_of_c == spec.activation else None
        if value != wanted:
            raise ValueError(f"{each.name}: expected {wanted!r}, the only one that {name} has, got {value!r}")
    if cell.regularisation.zoneout is not None:
        raise ValueError(f"zoneout: expected 0, since {name} has none, got {cell.regularisation.zoneout}")
    if cell.norm is not None:
        wanted = (
            "None" if format.norm is None else repr(format.norm.make(4 * cell.hidden_channels, cell.weight.dim() - 2))
        )
        if repr(cell.norm) != wanted:
            raise ValueError(f"norm: expected {wanted}, as {name} has, got {cell.norm!r}")


def _without_zero_peephole(name: str, layer: LayerTensors) -> LayerTensors:
    if layer.peephole is not None and bool((layer.peephole != 0).any()):
        raise ValueError(f"peephole: expected zeros or none, since {name} has no peepholes, got some that are not zero")
    return layer._replace(peephole=None)
