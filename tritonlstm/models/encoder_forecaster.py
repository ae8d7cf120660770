"""The encoder–forecaster of Shi et al. 2015 (arXiv 1506.04214, section 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..core import checks
from ..core.spec import check_keywords
from ..modules import ConvLSTM2d
from ..modules.sizes import channels_by_layer, is_sequence, kernels_by_layer

_FIXED = {
    "batch_first": "the model's sequences are (T, B, …)",
    "num_layers": "hidden_channels has one value for each layer",
    "bidirectional": "the forecast goes forward in time",
    "reverse": "the forecast goes forward in time",
    "dropout": "the forecaster's layers are called one by one",
}


class EncoderForecaster(nn.Module):
    """Reads a sequence of images with one ConvLSTM stack and continues it with another.

    The forecaster mirrors the encoder. Its first layer has no input and starts from the final state of the encoder's
    last layer; its last layer starts from that of the encoder's first. A 1×1 convolution over the hidden states of all
    its layers gives the forecast. With 16 channels in and out, the parameter counts are those of table 1 in the paper.

    Args:
        in_channels: channels of the input frames, at least 1.
        hidden_channels: a sequence with one value per encoder layer.
        kernel_size: an odd size or a tuple of two odd sizes, the same for all layers. Lists are read as by
            `ConvLSTM2d`.
        out_channels: channels of the forecast frames; if None, `in_channels`.
        **options: keyword arguments of `ConvLSTM2d` (peephole, input_kernel_size, memory, …), except batch_first,
            num_layers, bidirectional, reverse and dropout.

    Call:
        model(input, steps) → (steps, B, out_channels, H, W), from input (T, B, in_channels, H, W). The model applies no
        activation to its output: for frames in [0, 1] it is logits.

    Raises:
        TypeError, ValueError: for an invalid argument, which the message names, before anything is computed.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: Sequence[int],
        kernel_size: int | Sequence[int],
        out_channels: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: object,
    ):
        super().__init__()
        for name, reason in _FIXED.items():
            if name in options:
                raise TypeError(f"{name}: expected nothing, for {reason}, got {options[name]!r}")
        check_keywords(type(self).__name__, options, EncoderForecaster.__init__, ConvLSTM2d.__init__, excluded=_FIXED)
        in_channels = checks.check_integer("in_channels", in_channels, minimum=1)
        if not is_sequence(hidden_channels):
            raise TypeError(f"hidden_channels: expected a list, one for each layer, got {checks.show(hidden_channels)}")
        checks.check_integer("hidden_channels (its length)", len(hidden_channels), minimum=1)
        hidden_channels = channels_by_layer("hidden_channels", hidden_channels, len(hidden_channels))
        kernel_size = _one_kernel("kernel_size", kernel_size, len(hidden_channels))
        input_kernel_size = _one_kernel("input_kernel_size", options.get("input_kernel_size"), len(hidden_channels))
        if "dilation" in options:
            options["dilation"] = _one_kernel("dilation", options["dilation"], len(hidden_channels))
        if out_channels is not None:
            out_channels = checks.check_integer("out_channels", out_channels, minimum=1)
        self.in_channels = in_channels
        options |= {"input_kernel_size": input_kernel_size, "device": device, "dtype": dtype}
        self.encoder = ConvLSTM2d(in_channels, hidden_channels, kernel_size, **options)
        mirrored = hidden_channels[::-1]
        self.forecaster = nn.ModuleList(
            ConvLSTM2d(below, above, kernel_size, **options) for below, above in zip([0, *mirrored], mirrored)
        )
        out_channels = in_channels if out_channels is None else out_channels
        self.head = nn.Conv2d(sum(mirrored), out_channels, 1, device=device, dtype=dtype)

    def forward(self, input: Tensor, steps: int) -> Tensor:
        steps = checks.check_integer("steps", steps, minimum=1)
        checks.check_input("input", input, ("T", "B", "Cin", "H", "W"), self.in_channels)
        _, states = self.encoder(input)
        output, hidden = None, []
        for layer, state in zip(self.forecaster, reversed(states)):
            output, _ = layer(output, (state,), steps=steps)
            hidden.append(output)
        frames = self.head(torch.cat(hidden, 2).flatten(0, 1))
        return frames.unflatten(0, (steps, -1))


def _one_kernel(name: str, value: object, num_layers: int) -> tuple[int, int] | None:
    kernels = kernels_by_layer(name, value, num_layers)
    if len(set(kernels)) > 1:
        raise TypeError(f"{name}: expected one for all layers, an integer or a tuple, got {checks.show(value)}")
    return kernels[0]
