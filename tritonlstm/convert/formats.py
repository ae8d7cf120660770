"""How other code names and orders the tensors of its layers.

A key may have placeholders: `{layer}`, the layer's number in a stack; `{name}`, which becomes "weight" or "bias";
`{gate}`, which becomes the letter of a gate; and `{direction}`, where a stack may have both. A key without `{name}` is
a module's, "conv" for "conv.weight" and "conv.bias".
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..core import checks
from . import gates as gate_orders
from .gates import ORDER, PEEPHOLE_ORDER
from .layer import LayerTensors, add_to_forget_gate, check_layer, without_even_sizes
from .norms import Norm, read_norm

COLUMNS = ("xh", "hx", "xht")
BIASES = ("both", "input", "none")
LAYOUTS = ("torch", "channels_last")
PEEPHOLE_SHAPES = ("C", "CHW", "1CHW")
ABSENT_PEEPHOLES = ("zeros", "random", "none")


class Ignored(NamedTuple):
    """Keys that a checkpoint has and a layer does not need."""

    pattern: str  # "*" stands for anything
    reason: str
    initial: float | None = None
    """If given, the keys are ignored only where all values are this one: parameters that were never trained."""


class Group(NamedTuple):
    """The tensors that together have one role, with the gates that each of them holds, in order."""

    role: str  # "joint", "input", "hidden", "bias" or "peephole"
    gates: Mapping[str, str]  # by key
    is_required: bool


@dataclass(frozen=True, kw_only=True)
class Format:
    """What the formats have in common. All arguments are given by keyword.

    Args:
        names: what `{name}` becomes for weights and for biases.
        layout: of the weights. "torch": (4C, Cin, *kernel). "channels_last", as in TensorFlow and JAX:
            (*kernel, Cin, 4C), and full peepholes (*spatial, C).
        peephole: key of the peepholes; None if the code has none. With `{gate}` there is one tensor for each of i, f
            and o; without, one tensor has all three, in this order.
        peephole_shape: of a gate's peephole when it is written: "C", one weight per channel, "CHW" or "1CHW". All of
            them are read.
        absent_peephole: what it means that a checkpoint has no peepholes. "none": the layer has none. "zeros": that
            the code starts them at zero and has lost them; they are taken for zero if `missing_peephole="zeros"` says
            so. "random": that the code starts them at random and has lost them; the checkpoint is refused.
        gate_names: what `{gate}` becomes, where it is not the letter: {"g": "c"}.
        forget_bias: what the code adds to the pre-activation of f at run time, beside the bias.
        even_kernels: whether kernels of even sizes are possible: those of frameworks whose "same" padding puts one
            pixel more behind than before. They are embedded in the next odd sizes.
        options: options of the layer that follow from the code, as {"activation": "relu"}.
        asks: options that must be given, because a checkpoint does not tell them, with what they may be.
        ignore: keys that are not needed: patterns, or `Ignored` with a reason.
        refused: patterns of keys that belong to something else, with what it is.
        free: options of the layer that the code has as well, so that a layer with any of their values can be written.
        directions: what `{direction}` becomes, in the keys of the first direction and of the second, which reads a
            sequence from its end, as nn.LSTM's: ("", "_reverse"). None if the code has one direction.
        projection: key of a projection of the hidden state, as nn.LSTM's with a proj_size; None if the code has none.
        first: the number of the first layer.
        nested: whether what is written is a tree of dictionaries, the keys split at each ".".
        order: names of the tensors of a list, as Keras returns them.
    """

    names: tuple[str, str] = ("weight", "bias")
    layout: str = "torch"
    peephole: str | None = None
    peephole_shape: str = "CHW"
    absent_peephole: str = "zeros"
    gate_names: Mapping[str, str] = field(default_factory=dict)
    forget_bias: float = 0.0
    even_kernels: bool = False
    options: Mapping[str, object] = field(default_factory=dict)
    asks: Mapping[str, str] = field(default_factory=dict)
    ignore: Sequence[str | Ignored] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    free: Sequence[str] = ()
    directions: tuple[str, str] | None = None
    projection: str | None = None
    first: int = 0
    nested: bool = False
    order: Sequence[str] | None = None

    def __post_init__(self):
        checks.check_choice("layout", self.layout, LAYOUTS)
        checks.check_choice("peephole_shape", self.peephole_shape, PEEPHOLE_SHAPES)
        checks.check_choice("absent_peephole", self.absent_peephole, ABSENT_PEEPHOLES)
        for name, key in self._keys().items():
            if key is not None and not isinstance(key, str):
                raise TypeError(f"{name}: expected a key, got {checks.show(key)}")
        if isinstance(self.ignore, str):
            raise TypeError(f"ignore: expected a sequence of patterns, got {self.ignore!r}")
        if self.directions is not None:
            _check_directions(self.directions)
        if self.directions is None and any("{direction}" in str(key) for key in self._keys().values()):
            raise ValueError("directions: expected what {direction} becomes, got None")

    def _keys(self) -> dict[str, object]:
        """The keys among the arguments."""
        return {"peephole": self.peephole, "projection": self.projection}

    def groups(self, is_split: bool) -> list[Group]:
        """The groups of a layer; `is_split`: whether input and hidden state have kernels of their own in `Native`."""
        raise NotImplementedError

    @property
    def norm(self) -> Norm | None:
        """The normalisation of the pre-activations, if the code has one."""
        return None

    def anchor(self) -> str:
        """The key that every layer has, but for the layer's number."""
        return self._in_direction(self._anchor(), 0)

    def _anchor(self) -> str:
        return next(key for group in self.groups(False) if group.is_required for key in group.gates)

    @property
    def has_directions(self) -> bool:
        """Whether a stack may have a second direction."""
        return self.directions is not None and "{direction}" in self._anchor()

    def _in_direction(self, key: str, direction: int) -> str:
        return key.replace("{direction}", self.directions[direction]) if self.directions else key

    def at(self, key: str, number: int, direction: int = 0) -> str:
        """A key with the layer's number, in a direction: 0, or 1 for the second."""
        return self._in_direction(key, direction).replace("{layer}", str(number))

    # Reading

    def layers(self, keys: Iterable[str]) -> list[int]:
        """The numbers of the layers that have keys; [first] for a format without `{layer}`, if its key is there."""
        pattern = _pattern(self.anchor(), "(\\d+)")
        matches = [match for match in map(pattern.fullmatch, keys) if match]
        return sorted({int(match[1]) for match in matches}) if pattern.groups else [self.first] * bool(matches)

    def owns(self, key: str, direction: int | None = None) -> bool:
        """Whether a key is one of this format's; with a direction, one of it."""
        choices = range(1 + self.has_directions) if direction is None else [direction]
        return any(pattern.fullmatch(key) for each in choices for pattern in self._patterns[each])

    @cached_property
    def _patterns(self) -> list[list[re.Pattern]]:
        """Those of the keys, by direction."""
        keys = [key for is_split in (False, True) for group in self.groups(is_split) for key in group.gates]
        keys += [key for key in (self.projection, *self._norm_keys()) if key is not None]
        return [
            [_pattern(self._in_direction(key, direction), "\\d+") for key in dict.fromkeys(keys)]
            for direction in range(1 + self.has_directions)
        ]

    def _norm_keys(self) -> list[str]:
        """Those of a normalisation, where "*" stands for anything."""
        return []

    def directions_of(self, keys: Iterable[str]) -> int:
        """1, or 2 where there are keys of a second direction."""
        return 1 + (self.has_directions and any(self.owns(key, 1) for key in keys))

    def read(self, tensors: Mapping[str, Tensor], number: int, direction: int = 0) -> tuple[LayerTensors, list[str]]:
        """The tensors of a layer, and the keys that they came from. Raises ValueError where some do not fit."""
        used: list[str] = []
        parts: dict[str, Tensor] = {}
        for group in self.groups(self._is_split(tensors, number, direction)):
            found = self._read_group(tensors, group, number, direction, used)
            if found is not None:
                parts[group.role] = parts[group.role] + found if group.role in parts else found
        if self.projection is not None:
            key = self.at(self.projection, number, direction)
            if key in tensors:
                checks.check_tensor(key, tensors[key])
                if tensors[key].dim() != 2:
                    raise ValueError(f"{key}: expected shape (P, C), got {tuple(tensors[key].shape)}")
                parts["projection"] = tensors[key]
                used.append(key)
        name = f"layer {number}" if "{layer}" in self.anchor() else "the layer"
        layer = self._assemble(name, parts)
        check_layer(name, layer)
        layer = layer._replace(norm=self._read_norm(tensors, layer, number, direction, used))
        return add_to_forget_gate(layer, self.forget_bias), used

    def _read_norm(
        self, tensors: Mapping[str, Tensor], layer: LayerTensors, number: int, direction: int, used: list[str]
    ) -> dict[str, Tensor] | None:
        return None

    def _is_split(self, tensors: Mapping[str, Tensor], number: int, direction: int) -> bool:
        """Whether the tensors of this layer have a weight of the input's own, where both is possible."""
        return False

    def _read_group(
        self, tensors: Mapping[str, Tensor], group: Group, number: int, direction: int, used: list[str]
    ) -> Tensor | None:
        """The group's tensor with the gates in our order; None where an optional group is absent."""
        keys = {self.at(key, number, direction): order for key, order in group.gates.items()}
        missing = [key for key in keys if key not in tensors]
        if missing and not group.is_required and len(missing) == len(keys):
            return None
        if missing:
            raise ValueError(f"{missing[0]}: expected a tensor, got none")
        found: dict[str, Tensor] = {}
        for key, order in keys.items():
            checks.check_tensor(key, tensors[key])
            tensor = self._from_layout(key, tensors[key], group.role)
            if tensor.dim() == 0 or tensor.shape[0] % len(order):
                raise ValueError(
                    f"{key}: expected {len(order)}·C rows for {len(order)} gates, got shape {tuple(tensors[key].shape)}"
                )
            found |= gate_orders.split(tensor, order)
            used.append(key)
        if len({each.shape for each in found.values()}) > 1:
            shapes = ", ".join(str(tuple(each.shape)) for each in found.values())
            raise ValueError(f"{', '.join(keys)}: expected gates of one shape, got {shapes}")
        if group.role == "peephole":
            return torch.stack([found[gate] for gate in PEEPHOLE_ORDER])
        return gate_orders.merge(found, ORDER)

    def _from_layout(self, key: str, tensor: Tensor, role: str) -> Tensor:
        if role in ("bias", "peephole"):
            return tensor
        if tensor.dim() < 2:
            raise ValueError(f"{key}: expected a weight of at least two dimensions, got shape {tuple(tensor.shape)}")
        if self.layout == "channels_last":
            tensor = tensor.permute(-1, -2, *range(tensor.dim() - 2))
        if any(size % 2 == 0 for size in tensor.shape[2:]):
            if not self.even_kernels:
                raise ValueError(
                    f"{key}: expected odd kernel sizes, which preserve the image's size, got {tuple(tensor.shape[2:])}"
                )
            tensor = without_even_sizes(tensor)
        return tensor

    def _assemble(self, name: str, parts: Mapping[str, Tensor]) -> LayerTensors:
        input, hidden, projection = parts.get("input"), parts.get("hidden"), parts.get("projection")
        if "joint" in parts:
            joint = parts["joint"]
            input, hidden = self.split_columns(
                name, joint, joint.shape[0] // 4 if projection is None else projection.shape[0]
            )
        if input is not None and input.shape[1] == 0:
            input = None
        peephole = parts.get("peephole")
        if peephole is not None:
            peephole = self._peephole_from_layout(peephole, hidden.dim())
        return LayerTensors(input, hidden, parts.get("bias"), peephole, projection)

    def _peephole_from_layout(self, peephole: Tensor, dims: int) -> Tensor:
        """From (3, C), (3, C, *spatial), (3, *spatial, C) or (3, 1, C, *spatial) to `dims` dimensions."""
        if peephole.dim() == dims + 1 and peephole.shape[1] == 1:
            return peephole.squeeze(1)
        if peephole.dim() == 2:
            return peephole[(..., *[None] * (dims - 2))]
        return peephole.movedim(-1, 1) if self.layout == "channels_last" else peephole

    def split_columns(self, name: str, joint: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The columns of the input and the `count` ones of the hidden state."""
        if joint.shape[0] % 4 or joint.shape[1] < count:
            raise ValueError(
                f"{name}: expected a weight of shape (4·C, Cin + C, …) in PyTorch's layout, got {tuple(joint.shape)}"
            )
        return joint[:, :-count], joint[:, -count:]

    # Writing

    def write(self, layer: LayerTensors, number: int, direction: int = 0) -> dict[str, Tensor]:
        """The inverse of `read`. Raises ValueError for what the format cannot hold."""
        layer = add_to_forget_gate(layer, -self.forget_bias)
        groups = self.groups(is_split=not layer.is_joint())
        roles = [group.role for group in groups]
        for role in ("bias", "peephole"):
            if getattr(layer, role) is not None and role not in roles:
                raise ValueError(f"{role}: the layer has one, which this format cannot hold")
        written = self._write_norm(layer, number, direction)
        if layer.projection is not None:
            if self.projection is None:
                raise ValueError("proj_size: the layer has a projection, which this format cannot hold")
            written[self.at(self.projection, number, direction)] = layer.projection
        values = layer._asdict()
        for group in groups:
            tensor = self._joint(layer) if group.role == "joint" else values[group.role]
            if tensor is None:
                if group.role == "input":
                    raise ValueError("in_channels: the layer has no input, which this format cannot hold")
                continue
            order = PEEPHOLE_ORDER if group.role == "peephole" else ORDER
            parts = gate_orders.split(tensor, order)
            if group.role == "peephole":
                parts = {gate: self._peephole_to_layout(part) for gate, part in parts.items()}
            for key, own in group.gates.items():
                written[self.at(key, number, direction)] = self._to_layout(gate_orders.merge(parts, own), group.role)
            if group.role == "bias":  # further biases, which are added to this one
                values["bias"] = torch.zeros_like(tensor)
        return written

    def _write_norm(self, layer: LayerTensors, number: int, direction: int) -> dict[str, Tensor]:
        if layer.norm is not None:
            raise ValueError("norm: the layer has a normalisation, which this format cannot hold")
        return {}

    def _joint(self, layer: LayerTensors) -> Tensor:
        if not layer.is_joint():
            raise ValueError(
                f"input_kernel_size: the layer has kernels of {layer.input_kernel} for the input and {layer.kernel} for"
                " the hidden state, which this format cannot hold"
            )
        return layer.hidden if layer.input is None else self.join_columns(layer.input, layer.hidden)

    def join_columns(self, input: Tensor, hidden: Tensor) -> Tensor:
        """The inverse of `split_columns`."""
        return torch.cat([input, hidden], 1)

    def _peephole_to_layout(self, peephole: Tensor) -> Tensor:
        """A gate's peephole from (1, C, *spatial or ones)."""
        is_full = any(size != 1 for size in peephole.shape[2:])
        shape = tuple(peephole.shape[1:])
        if self.peephole_shape == "C":
            if is_full:
                raise ValueError(
                    f"peephole: the layer has a weight for each pixel, {shape}, and this format one for each channel"
                )
            return peephole.flatten()
        if not is_full and peephole.dim() > 2:
            raise ValueError(
                f'peephole: this format has a weight for each pixel, as a layer with peephole="full", got {shape}'
            )
        if self.layout == "channels_last":
            return peephole.squeeze(0).movedim(0, -1)
        return peephole if self.peephole_shape == "1CHW" else peephole.squeeze(0)

    def _to_layout(self, tensor: Tensor, role: str) -> Tensor:
        if self.layout == "torch" or role in ("bias", "peephole"):
            return tensor
        return tensor.permute(*range(2, tensor.dim()), 1, 0)

    # Shared by the subclasses

    def _named(self, key: str, index: int) -> str:
        """A module's key with the name of its weight (0) or bias (1)."""
        name = self.names[index]
        return key.replace("{name}", name) if "{name}" in key else f"{key}.{name}" if key else name

    def _by_gate(self, key: str, gates: str) -> dict[str, str]:
        return {key.replace("{gate}", self.gate_names.get(gate, gate)): gate for gate in gates}

    def _peephole_groups(self) -> list[Group]:
        if self.peephole is None:
            return []
        by_gate = self._by_gate(self.peephole, PEEPHOLE_ORDER)
        return [Group("peephole", by_gate if len(by_gate) == 3 else {self.peephole: PEEPHOLE_ORDER}, False)]


def _check_directions(directions: object) -> None:
    is_pair = isinstance(directions, (tuple, list)) and len(directions) == 2
    if not is_pair or not all(isinstance(each, str) for each in directions):
        raise TypeError(f"directions: expected a pair of strings, got {checks.show(directions)}")
    if directions[0] == directions[1]:
        raise ValueError(f"directions: expected two that differ, got {checks.show(directions)}")


def _pattern(key: str, number: str) -> re.Pattern:
    """Of keys with the number of a layer as this pattern, and "*" for anything."""
    return re.compile(re.escape(key).replace(re.escape("{layer}"), number).replace(re.escape("*"), ".+"))


@dataclass(frozen=True)
class Joint(Format):
    """One convolution over input and hidden state, `key`, with all gates.

    Args:
        key: the convolution's, "cell_list.{layer}.conv".
        gates: the order of the gates in its rows, "ifog".
        columns: the order of its columns. "xh": input, then hidden state; "hx"; or "xht": input, hidden state, and C
            channels of another hidden state, which the layer reads as the last channels of its input.
        norm: a `GroupNorm` or `BatchNorm` of the pre-activations, with its key; None if the code has none. A checkpoint
            may be without it.
        others: as in `Format`.
    """

    key: str
    gates: str = field(kw_only=True)
    columns: str = field(default="xh", kw_only=True)
    norm: Norm | None = field(default=None, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        gate_orders.check_order("gates", self.gates)
        checks.check_choice("columns", self.columns, COLUMNS)
        if self.norm is not None and not isinstance(self.norm, Norm):
            raise TypeError(f"norm: expected a GroupNorm or BatchNorm of convert, got {checks.show(self.norm)}")

    def _keys(self) -> dict[str, object]:
        return super()._keys() | {"key": self.key}

    def _norm_keys(self) -> list[str]:
        norm = self.norm
        return [] if norm is None else [f"{norm.key}.{name}" for name in (*norm.required, *norm.optional)]

    def _read_norm(
        self, tensors: Mapping[str, Tensor], layer: LayerTensors, number: int, direction: int, used: list[str]
    ) -> dict[str, Tensor] | None:
        if self.norm is None:
            return None
        found = read_norm(self.norm, self.at(self.norm.key, number, direction), tensors, 4 * layer.channels)
        if found is None:
            return None
        used += [self.at(key, number, direction) for key in self._norm_keys()]
        return self.norm.reorder(found, self.gates, ORDER)

    def _write_norm(self, layer: LayerTensors, number: int, direction: int) -> dict[str, Tensor]:
        if self.norm is None or layer.norm is None:
            return super()._write_norm(layer, number, direction)
        tensors = self.norm.reorder(layer.norm, ORDER, self.gates)
        return {f"{self.at(self.norm.key, number, direction)}.{name}": tensor for name, tensor in tensors.items()}

    def groups(self, is_split: bool) -> list[Group]:
        weight, bias = (self._named(self.key, index) for index in (0, 1))
        return [
            Group("joint", {weight: self.gates}, True),
            Group("bias", {bias: self.gates}, False),
            *self._peephole_groups(),
        ]

    def split_columns(self, name: str, joint: Tensor, count: int) -> tuple[Tensor, Tensor]:
        first, last = super().split_columns(name, joint, count)
        if self.columns == "hx":
            return joint[:, count:], joint[:, :count]
        if self.columns == "xht":
            if first.shape[1] < count:
                raise ValueError(f"{name}: expected a weight of shape (4·C, Cin + 2·C, …), got {tuple(joint.shape)}")
            return torch.cat([first[:, :-count], last], 1), first[:, -count:]
        return first, last

    def join_columns(self, input: Tensor, hidden: Tensor) -> Tensor:
        if self.columns == "hx":
            return torch.cat([hidden, input], 1)
        if self.columns == "xht":
            channels = hidden.shape[1]
            if input.shape[1] < channels:
                raise ValueError(f"in_channels: expected at least C = {channels} channels, got {input.shape[1]}")
            return torch.cat([input[:, :-channels], hidden, input[:, -channels:]], 1)
        return super().join_columns(input, hidden)


@dataclass(frozen=True)
class Split(Format):
    """A convolution or matrix product of the input, and another of the hidden state, each with all gates.

    Args:
        input, hidden: their keys, "cell_list.{layer}.conv_x.0" and "cell_list.{layer}.conv_h.0".
        gates: the order of the gates in their rows, "ifgo".
        biases: which of them have a bias: "both", whose biases add up, "input" or "none". A bias may be absent.
        others: as in `Format`.
    """

    input: str
    hidden: str
    gates: str = field(kw_only=True)
    biases: str = field(default="both", kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        gate_orders.check_order("gates", self.gates)
        checks.check_choice("biases", self.biases, BIASES)

    def _keys(self) -> dict[str, object]:
        return super()._keys() | {"input": self.input, "hidden": self.hidden}

    def groups(self, is_split: bool) -> list[Group]:
        modules = {"input": self.input, "hidden": self.hidden}
        weights = [Group(role, {self._named(key, 0): self.gates}, True) for role, key in modules.items()]
        with_bias = {"both": ("input", "hidden"), "input": ("input",), "none": ()}[self.biases]
        biases = [Group("bias", {self._named(modules[role], 1): self.gates}, False) for role in with_bias]
        return [*weights, *biases, *self._peephole_groups()]


@dataclass(frozen=True)
class PerGate(Format):
    """A convolution of the input and another of the hidden state for each gate.

    Args:
        input, hidden: their keys with `{gate}`, "cell{layer}.Wx{gate}" and "cell{layer}.Wh{gate}".
        biases: which of them have a bias: "both", whose biases add up, "input" or "none". A bias may be absent.
        others: as in `Format`; `gate_names` where the candidate is not called g.
    """

    input: str
    hidden: str
    biases: str = field(default="both", kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        checks.check_choice("biases", self.biases, BIASES)
        for name, key in {"input": self.input, "hidden": self.hidden}.items():
            if "{gate}" not in key:
                raise ValueError(f"{name}: expected a key with {{gate}}, got {key!r}")

    def _keys(self) -> dict[str, object]:
        return super()._keys() | {"input": self.input, "hidden": self.hidden}

    def groups(self, is_split: bool) -> list[Group]:
        modules = {"input": self.input, "hidden": self.hidden}
        weights = [Group(role, self._by_gate(self._named(key, 0), ORDER), True) for role, key in modules.items()]
        with_bias = {"both": ("input", "hidden"), "input": ("input",), "none": ()}[self.biases]
        biases = [Group("bias", self._by_gate(self._named(modules[role], 1), ORDER), False) for role in with_bias]
        return [*weights, *biases, *self._peephole_groups()]


@dataclass(frozen=True)
class Native(Format):
    """This package's own: weight, input_weight where the input's kernel has another size, bias, peephole, projection,
    and the parameters and buffers of a norm.

    Args:
        key: of a layer's cell: "{direction}layers.{layer}" in a stack, "" in a cell by itself.
    """

    key: str = "{direction}layers.{layer}"
    absent_peephole: str = field(default="none", kw_only=True)
    directions: tuple[str, str] | None = field(default=("", "reverse_"), kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "projection", self._of("projection"))

    def _keys(self) -> dict[str, object]:
        return super()._keys() | {"key": self.key}

    def groups(self, is_split: bool) -> list[Group]:
        return [
            Group("hidden" if is_split else "joint", {self._of("weight"): ORDER}, True),
            *([Group("input", {self._of("input_weight"): ORDER}, True)] if is_split else []),
            Group("bias", {self._of("bias"): ORDER}, False),
            Group("peephole", {self._of("peephole"): PEEPHOLE_ORDER}, False),
        ]

    def _of(self, name: str) -> str:
        return f"{self.key}.{name}" if self.key else name

    def _is_split(self, tensors: Mapping[str, Tensor], number: int, direction: int) -> bool:
        return self.at(self._of("input_weight"), number, direction) in tensors

    def _norm_keys(self) -> list[str]:
        return [self._of("norm.*")]

    def _read_norm(
        self, tensors: Mapping[str, Tensor], layer: LayerTensors, number: int, direction: int, used: list[str]
    ) -> dict[str, Tensor] | None:
        start = self.at(self._of("norm."), number, direction)
        found = {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}
        used += [start + name for name in found]
        return found or None

    def _write_norm(self, layer: LayerTensors, number: int, direction: int) -> dict[str, Tensor]:
        start = self.at(self._of("norm."), number, direction)
        return {start + name: tensor for name, tensor in (layer.norm or {}).items()}

    def _peephole_to_layout(self, peephole: Tensor) -> Tensor:
        return peephole


@dataclass(frozen=True)
class DepthwiseSeparable(Format):
    """A depthwise convolution of the hidden state, or of input and hidden state, and a 1×1 convolution of both.

    It is read only, as the dense convolution that computes the same, with `dense=True`: its weight has about 4·C times
    as many elements as the depthwise one, and they are trained independently from then on.

    Args:
        depthwise, pointwise: the convolutions' keys.
        gates: the order of the gates in the rows of the 1×1 convolution.
    """

    depthwise: str
    pointwise: str
    gates: str = field(kw_only=True)
    dense: bool = field(default=False, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        gate_orders.check_order("gates", self.gates)

    def _keys(self) -> dict[str, object]:
        return super()._keys() | {"depthwise": self.depthwise, "pointwise": self.pointwise}

    def groups(self, is_split: bool) -> list[Group]:
        return Joint(self.pointwise, gates=self.gates, names=self.names).groups(is_split)

    def read(self, tensors: Mapping[str, Tensor], number: int, direction: int = 0) -> tuple[LayerTensors, list[str]]:
        layer, used = super().read(tensors, number, direction)
        weight, bias = (self.at(self._named(self.depthwise, index), number, direction) for index in (0, 1))
        if weight not in tensors:
            return layer, used
        if not self.dense:
            raise ValueError(
                f"{weight}: a depthwise convolution, which the layer does not have; dense=True computes the dense"
                f" convolution that is the same, with about {4 * layer.channels} times as many weights in its place"
            )
        used += [key for key in (weight, bias) if key in tensors]
        depthwise, channels = tensors[weight], layer.channels  # (C or Cin + C, 1, *kernel)
        columns = depthwise.shape[0]
        if depthwise.dim() != layer.hidden.dim() or columns not in (channels, layer.in_channels + channels):
            raise ValueError(
                f"{weight}: expected shape (C, 1, …) or (Cin + C, 1, …) with Cin = {layer.in_channels} and"
                f" C = {channels}, got {tuple(depthwise.shape)}"
            )
        pointwise = layer.hidden if columns == channels else torch.cat([layer.input, layer.hidden], 1)
        dense = pointwise * depthwise.movedim(1, 0)
        hidden, input = dense[:, -channels:], layer.input if columns == channels else dense[:, :-channels]
        total = layer.bias
        if bias in tensors:
            carried = pointwise.flatten(1) @ tensors[bias]
            total = carried if total is None else total + carried
        layer = LayerTensors(input, hidden, total, None)
        check_layer(weight, layer)
        return layer, used

    def write(self, layer: LayerTensors, number: int, direction: int = 0) -> dict[str, Tensor]:
        raise ValueError("a dense convolution cannot be written as a depthwise separable one")
