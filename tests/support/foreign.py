"""Layers of other code, written anew from their equations, with their keys, shapes and gate orders."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

T, B, CIN, H, W = 3, 2, 2, 5, 4
CHANNELS = (3, 4)

Params = dict[str, Tensor]
Step = Callable[[Params, int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Foreign:
    """A source, the shapes of its parameters, and one step of one of its layers: (params, layer, x, h, c) → (h, c)."""

    source: str
    shapes: dict[str, tuple[int, ...]]
    step: Step
    channels: tuple[int, ...] = CHANNELS
    is_vector: bool = False
    reverse: Step | None = None  # that of the second direction
    arguments: dict[str, object] = field(default_factory=dict)
    not_kept: tuple[str, ...] = ()  # keys that come back with other values or sizes, such as one of two biases

    def params(self, dtype: torch.dtype = torch.float64) -> Params:
        return {key: self._param(key, shape, dtype) for key, shape in self.shapes.items()}

    def _param(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if key.endswith("num_batches_tracked"):
            return torch.tensor(7)
        values = 0.4 * torch.randn(shape, dtype=dtype)
        return values.abs() + 0.5 if key.endswith("running_var") else values

    def input(self) -> Tensor:
        return torch.randn(T, B, CIN, *(() if self.is_vector else (H, W)), dtype=torch.float64)

    def run(self, params: Params, input: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The last layer's h at every step, and the states; of both directions side by side, if there are two."""
        states = []
        for layer, channels in enumerate(self.channels):
            directions = []
            for step in (self.step, self.reverse) if self.reverse else (self.step,):
                h = c = input.new_zeros(B, channels, *input.shape[3:])
                outputs = []
                for x in input.flip(0) if step is self.reverse else input:
                    h, c = step(params, layer, x, h, c)
                    outputs.append(h)
                directions.append(torch.stack(outputs[::-1] if step is self.reverse else outputs))
                states.append((h, c))
            input = torch.cat(directions, 2)
        return input, states


def lstm(gates: dict[str, Tensor], c: Tensor, peephole: Callable[[str], Tensor | float] = lambda gate: 0.0):
    """One step from the pre-activations by gate."""
    i = torch.sigmoid(gates["i"] + peephole("i") * c)
    f = torch.sigmoid(gates["f"] + peephole("f") * c)
    c = f * c + i * torch.tanh(gates["g"])
    o = torch.sigmoid(gates["o"] + peephole("o") * c)
    return o * torch.tanh(c), c


def same(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution that preserves the size, with one pixel more behind if the kernel's size is even; a product."""
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    pads = [pad for size in reversed(weight.shape[2:]) for pad in ((size - 1) // 2, size // 2)]
    return F.conv2d(F.pad(x, pads), weight, bias)


def last_to_first(weight: Tensor) -> Tensor:
    """(kh, kw, in, out) or (in, out) to PyTorch's layout."""
    return weight.permute(3, 2, 0, 1) if weight.dim() == 4 else weight.t()


def by(order: str, rows: Tensor) -> dict[str, Tensor]:
    return dict(zip(order, rows.chunk(4, 1)))


def sizes(channels: tuple[int, ...], directions: int = 1, cin: int = CIN) -> list[tuple[int, int, int]]:
    """(layer, in, out) of each layer."""
    below = (cin, *(directions * each for each in channels))
    return [(layer, below, above) for layer, (below, above) in enumerate(zip(below, channels))]


def joint(
    source: str,
    key: str,
    order: str,
    peephole: str | None = None,
    shape: Callable[[int], tuple[int, ...]] = lambda c: (c, H, W),
    channels: tuple[int, ...] = CHANNELS,
    first: int = 0,
    norm: Callable[[Params, Tensor], Tensor] = lambda params, rows: rows,
    norm_names: tuple[str, ...] = (),
    bias: bool = True,
    cell: Callable = lstm,
    cin: int = CIN,
    **options: object,
) -> Foreign:
    """One convolution of [x ; h], and what `norm` makes of it; `%d` in a key is the layer."""

    def at(key: str, layer: int) -> str:
        return key % (layer + first) if "%d" in key else key

    shapes: dict[str, tuple[int, ...]] = {}
    for layer, below, above in sizes(channels, cin=cin):
        shapes[at(key, layer) + ".weight"] = (4 * above, below + above, 3, 3)
        if bias:
            shapes[at(key, layer) + ".bias"] = (4 * above,)
        if peephole:
            shapes |= {at(peephole, layer) + gate: shape(above) for gate in "ifo"}
        shapes |= {name: () if name.endswith("tracked") else (4 * above,) for name in norm_names}

    def step(params: Params, layer: int, x: Tensor, h: Tensor, c: Tensor):
        name = at(key, layer)
        rows = norm(params, same(torch.cat([x, h], 1), params[f"{name}.weight"], params.get(f"{name}.bias")))
        return cell(by(order, rows), c, lambda gate: params[at(peephole, layer) + gate] if peephole else 0.0)

    return Foreign(source, shapes, step, channels, **options)


def group_norm(params: Params, rows: Tensor) -> Tensor:
    return F.group_norm(rows, rows.shape[1] // 32, params["conv.1.weight"], params["conv.1.bias"])


def batch_norm(params: Params, rows: Tensor) -> Tensor:
    """In evaluation."""
    scale = params["conv.1.weight"] * torch.rsqrt(params["conv.1.running_var"] + 1e-5)
    return (rows - params["conv.1.running_mean"][:, None, None]) * scale[:, None, None] + params["conv.1.bias"][
        :, None, None
    ]


def linear_candidate(gates: dict[str, Tensor], c: Tensor, peephole: object = None):
    c = torch.sigmoid(gates["f"]) * c + torch.sigmoid(gates["i"]) * gates["g"]
    return torch.sigmoid(gates["o"]) * torch.tanh(c), c


def rvos() -> Foreign:
    """Columns [x ; h ; t], where t is the hidden state of another recurrence: here the last three channels of x."""
    channels, x_channels = 2, 3
    shapes = {"Gates.weight": (4 * channels, x_channels + 2 * channels, 3, 3), "Gates.bias": (4 * channels,)}

    def step(params: Params, layer: int, x: Tensor, h: Tensor, c: Tensor):
        x, t = torch.cat([x, x[:, :1]], 1), x
        rows = same(torch.cat([x, h, t], 1), params["Gates.weight"], params["Gates.bias"])
        return lstm(by("ifog", rows), c)

    return Foreign("rvos", shapes, step, (channels,))


def openstl() -> Foreign:
    shapes: dict[str, tuple[int, ...]] = {"conv_last.weight": (4, CHANNELS[-1], 1, 1)}
    for layer, below, above in sizes(CHANNELS):
        key = f"cell_list.{layer}."
        shapes[key + "conv_x.0.weight"] = (4 * above, below, 5, 5)
        shapes[key + "conv_h.0.weight"] = (4 * above, above, 5, 5)
        shapes[key + "conv_o.0.weight"] = (above, 2 * above, 5, 5)
        shapes[key + "conv_last.weight"] = (above, 2 * above, 1, 1)

    def step(params: Params, layer: int, x: Tensor, h: Tensor, c: Tensor):
        key = f"cell_list.{layer}.conv_"
        return lstm(by("ifgo", same(x, params[key + "x.0.weight"]) + same(h, params[key + "h.0.weight"])), c)

    return Foreign("OpenSTL", shapes, step)


def per_gate(source: str, peephole: bool, name: str = "cell", first: int = 0, mode: str = "constant") -> Foreign:
    """A convolution for each gate; keys count layers from `first`; `mode` is that of `F.pad`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, below, above in sizes(CHANNELS):
        cell = f"{name}{layer + first}"
        for gate in "ifco":
            shapes[f"{cell}.Wx{gate}.weight"] = (above, below, 3, 3)
            shapes[f"{cell}.Wx{gate}.bias"] = (above,)
            shapes[f"{cell}.Wh{gate}.weight"] = (above, above, 3, 3)
            if peephole and gate != "c":
                shapes[f"{cell}.Wc{gate}"] = (1, above, H, W)

    def step(params: Params, layer: int, x: Tensor, h: Tensor, c: Tensor):
        cell = f"{name}{layer + first}"

        def convolve(value: Tensor, key: str) -> Tensor:
            padded = F.pad(value, (1, 1, 1, 1), mode)
            return F.conv2d(padded, params[f"{cell}.{key}.weight"], params.get(f"{cell}.{key}.bias"))

        def rows(gate: str) -> Tensor:
            return convolve(x, f"Wx{gate}") + convolve(h, f"Wh{gate}")

        gates = {"i": rows("i"), "f": rows("f"), "g": rows("c"), "o": rows("o")}
        return lstm(gates, c, lambda gate: params[f"{cell}.Wc{gate}"] if peephole else 0.0)

    return Foreign(source, shapes, step)


def two_biases(
    source: str,
    keys: Callable[[str, str, int], str],
    kernel: tuple[int, ...],
    peephole: str | None = None,
    channels: tuple[int, ...] = CHANNELS,
    directions: int = 1,
    **options: object,
) -> Foreign:
    """A product or convolution of x and one of h, each with a bias, in the order i, f, g, o.

    keys: (name, "ih" or "hh", layer) → key; peephole: key of (3C), i, f, o.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, below, above in sizes(channels, directions):
        shapes[keys("weight", "ih", layer)] = (4 * above, below, *kernel)
        shapes[keys("weight", "hh", layer)] = (4 * above, above, *kernel)
        shapes[keys("bias", "ih", layer)] = shapes[keys("bias", "hh", layer)] = (4 * above,)
        if peephole:
            shapes[peephole % layer] = (3 * above,)

    def step(params: Params, layer: int, x: Tensor, h: Tensor, c: Tensor):
        def rows(side: str, value: Tensor) -> Tensor:
            return same(value, params[keys("weight", side, layer)], params[keys("bias", side, layer)])

        gates = by("ifgo", rows("ih", x) + rows("hh", h))
        if not peephole:
            return lstm(gates, c)
        weights = dict(zip("ifo", params[peephole % layer].chunk(3)))
        return lstm(gates, c, weights.__getitem__)

    lost = tuple(keys("bias", side, layer) for side in ("ih", "hh") for layer in range(len(channels)))
    return Foreign(source, shapes, step, channels, not kernel, not_kept=lost, **options)


def both_directions(
    source: str, keys: Callable[[str], Callable[[str, str, int], str]], names: tuple[str, str], **options: object
) -> Foreign:
    """`two_biases` in both directions, whose keys `keys` gives for each of the two `names`."""
    one, other = (two_biases(source, keys(name), directions=2, **options) for name in names)
    return replace(one, shapes=one.shapes | other.shapes, reverse=other.step, not_kept=one.not_kept + other.not_kept)


def channels_last_split(
    source: str,
    order: str,
    keys: tuple[str, str, str, str],
    kernel: tuple[int, ...],
    adds: float = 0.0,
    peephole: str | None = None,
    **options: object,
) -> Foreign:
    """Kernels (*kernel, in, 4C). keys: those of both kernels and of both biases, "" for no second bias."""
    channels, kernel_x, kernel_h, bias_x, bias_h = 3, *keys
    shapes: dict[str, tuple[int, ...]] = {
        kernel_x: (*kernel, CIN, 4 * channels),
        kernel_h: (*kernel, channels, 4 * channels),
        bias_x: (4 * channels,),
    }
    if bias_h:
        shapes[bias_h] = (4 * channels,)
    names = {"i": "input", "f": "forget", "o": "output"}
    if peephole:
        shapes |= {peephole % name: (channels,) for name in names.values()}

    def step(params: Params, layer: int, x: Tensor, h: Tensor, c: Tensor):
        rows = same(x, last_to_first(params[kernel_x]), params[bias_x]) + same(h, last_to_first(params[kernel_h]))
        if bias_h:
            rows = rows + params[bias_h].reshape(-1, *[1] * len(kernel))
        gates = by(order, rows)
        gates["f"] = gates["f"] + adds
        return lstm(gates, c, lambda gate: params[peephole % names[gate]] if peephole else 0.0)

    lost = [key for key in (bias_x, bias_h) if key and (bias_h or adds)]
    lost += [kernel_x, kernel_h] if any(size % 2 == 0 for size in kernel) else []
    return Foreign(source, shapes, step, (channels,), not kernel, not_kept=tuple(lost), **options)


def channels_last_joint(
    source: str, order: str, kernel_key: str, bias_key: str, size: int, peephole: str | None = None
) -> Foreign:
    """One kernel (kh, kw, Cin + C, 4C), and 1 added to f at run time; full peepholes (H, W, C)."""
    channels = 3
    shapes: dict[str, tuple[int, ...]] = {
        kernel_key: (size, size, CIN + channels, 4 * channels),
        bias_key: (4 * channels,),
    }
    if peephole:
        shapes |= {peephole + gate: (H, W, channels) for gate in "ifo"}

    def step(params: Params, layer: int, x: Tensor, h: Tensor, c: Tensor):
        gates = by(order, same(torch.cat([x, h], 1), last_to_first(params[kernel_key]), params[bias_key]))
        gates["f"] = gates["f"] + 1
        return lstm(gates, c, lambda gate: params[peephole + gate].permute(2, 0, 1) if peephole else 0.0)

    return Foreign(source, shapes, step, (channels,), not_kept=(bias_key, kernel_key) if size % 2 == 0 else (bias_key,))


def rvt(only_hidden: bool) -> Foreign:
    channels = CIN
    depth = channels if only_hidden else 2 * channels
    shapes: dict[str, tuple[int, ...]] = {
        "conv1x1.weight": (4 * channels, 2 * channels, 1, 1),
        "conv1x1.bias": (4 * channels,),
        "conv3x3_dws.weight": (depth, 1, 3, 3),
        "conv3x3_dws.bias": (depth,),
    }

    def step(params: Params, layer: int, x: Tensor, h: Tensor, c: Tensor):
        def depthwise(value: Tensor) -> Tensor:
            return F.conv2d(value, params["conv3x3_dws.weight"], params["conv3x3_dws.bias"], padding=1, groups=depth)

        both = torch.cat([x, depthwise(h)], 1) if only_hidden else depthwise(torch.cat([x, h], 1))
        return lstm(by("fiog", F.conv2d(both, params["conv1x1.weight"], params["conv1x1.bias"])), c)

    return Foreign("RVT", shapes, step, (channels,), arguments={"dense": True}, not_kept=tuple(shapes))


def keras_keys(recurrent: str = "recurrent_kernel") -> tuple[str, str, str, str]:
    return "kernel", recurrent, "bias", ""


def kimuyen_keys(direction: str) -> Callable[[str, str, int], str]:
    return lambda name, side, layer: f"cell_{direction}.{'input' if side == 'ih' else 'rnn'}_conv.{name}"


def lstm_keys(direction: str) -> Callable[[str, str, int], str]:
    return lambda name, side, layer: f"{name}_{side}_l{layer}{direction}"


_KERAS = {"padding": "same", "recurrent_activation": "sigmoid"}


def keras_both() -> Foreign:
    one, other = (
        channels_last_split(
            "keras.Bidirectional",
            "ifgo",
            tuple(f"{name}_layer/cell/{key}" if key else "" for key in keras_keys()),
            (3, 3),
            arguments=_KERAS,
        )
        for name in ("forward", "backward")
    )
    return replace(one, shapes=one.shapes | other.shapes, reverse=other.step)


SOURCES: dict[str, Foreign] = {
    "ndrplz": joint("ndrplz", "cell_list.%d.conv", "ifog"),
    "aserdega": joint("aserdega", "cell_list.%d.conv", "ifog", "cell_list.%d.Wc"),
    "holmdk": joint("holmdk", "_%d_convlstm.conv", "ifog", first=1),
    "HandyRL": joint("HandyRL", "conv", "ifog", channels=(2,)),
    "snntorch": joint("snntorch", "conv", "ifog", channels=(3,)),
    "e2vid": joint("e2vid", "Gates", "ifog", channels=(2,)),
    "rvos": rvos(),
    "Hzzone": joint("Hzzone", "_conv", "ifgo", "Wc", lambda c: (1, c, H, W), (3,)),
    "Hzzone of one channel": joint("Hzzone", "_conv", "ifgo", "Wc", lambda c: (1, c, H, W), (1,)),
    "SA-ConvLSTM": joint("SA-ConvLSTM", "ConvLSTMCell.conv", "ifgo", "ConvLSTMCell.W_c", channels=(3,)),
    "SA-ConvLSTM of one channel": joint("SA-ConvLSTM", "ConvLSTMCell.conv", "ifgo", "ConvLSTMCell.W_c", channels=(1,)),
    "OpenSTL": openstl(),
    "automan000": per_gate("automan000", True),
    "Winsolider": per_gate("Winsolider", False),
    "PhyCRNet": per_gate("PhyCRNet", False, name="convlstm", first=3, mode="circular"),
    "KimUyen": two_biases("KimUyen", kimuyen_keys("fw"), (3, 3), channels=(3,)),
    "KimUyen, both directions": both_directions("KimUyen", kimuyen_keys, ("fw", "bw"), kernel=(3, 3), channels=(3,)),
    "kamo": two_biases("kamo", lstm_keys(""), (3, 5)),
    "kamo, both directions": both_directions("kamo", lstm_keys, ("", "_reverse"), kernel=(3, 5)),
    "jhhuang96": joint(
        "jhhuang96",
        "conv.0",
        "ifgo",
        channels=(16,),
        norm=group_norm,
        norm_names=("conv.1.weight", "conv.1.bias"),
    ),
    "jhhuang96 without its norm": joint("jhhuang96", "conv.0", "ifgo", channels=(3,)),
    "czifan": joint(
        "czifan",
        "conv.0",
        "ifgo",
        channels=(3,),
        norm=batch_norm,
        norm_names=tuple(
            f"conv.1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        ),
        bias=False,
        cell=linear_candidate,
    ),
    "RVT": rvt(True),
    "RVT, both": rvt(False),
    "keras": channels_last_split("keras", "ifgo", keras_keys(), (3, 3), arguments=_KERAS),
    "keras, even": channels_last_split("keras", "ifgo", keras_keys(), (2, 4), arguments=_KERAS),
    "keras.Bidirectional": keras_both(),
    "flax": channels_last_split("flax", "igfo", ("ih.kernel", "hh.kernel", "ih.bias", "hh.bias"), (3, 3), 1.0),
    "flax, even": channels_last_split("flax", "igfo", ("ih.kernel", "hh.kernel", "ih.bias", "hh.bias"), (2, 3), 1.0),
    "haiku": channels_last_split(
        "haiku",
        "igfo",
        ("input_to_hidden.w", "hidden_to_hidden.w", "input_to_hidden.b", "hidden_to_hidden.b"),
        (3, 3),
        1.0,
    ),
    "torchrecurrent": two_biases(
        "torchrecurrent", lambda name, side, layer: f"cells.{layer}.{name}_{side}", (), "cells.%d.weight_ph"
    ),
    "nn.LSTM": two_biases("nn.LSTM", lstm_keys(""), ()),
    "nn.LSTM, both directions": both_directions("nn.LSTM", lstm_keys, ("", "_reverse"), kernel=()),
    "nn.LSTMCell": two_biases("nn.LSTMCell", lambda name, side, layer: f"{name}_{side}", (), channels=(3,)),
    "haste": channels_last_split("haste", "igfo", keras_keys(), ()),
    "tf-contrib": channels_last_joint("tf-contrib", "igfo", "kernel", "biases", 3),
    "SRN": channels_last_joint("SRN", "igfo", "LSTM_conv/weights", "LSTM_conv/biases", 2),
    "RLVC": channels_last_joint("RLVC", "gifo", "kernel", "bias", 3, "W_c"),
    "tf-addons": channels_last_split("tf-addons", "ifgo", keras_keys(), (), peephole="%s_gate_peephole_weights"),
    "mxnet": two_biases(
        "mxnet",
        lambda name, side, layer: f"{'i2h' if side == 'ih' else 'h2h'}_{name}",
        (3, 3),
        channels=(3,),
        arguments={"padding": "same"},
    ),
}
