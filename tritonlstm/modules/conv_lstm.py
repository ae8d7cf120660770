"""The ConvLSTM layer and its cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..core import checks
from ..core.spec import Options, Spec
from .recurrent import RecurrentCell, RecurrentStack, count_layers, per_layer

if TYPE_CHECKING:
    from typing_extensions import Unpack

PEEPHOLES = ("none", "channel", "full")


class ConvLSTM2dCell(RecurrentCell):
    """One ConvLSTM layer, one time step at a time (Shi et al. 2015, arXiv 1506.04214, equation 3).

        i = σ(A_i + w_ci ∘ c)    f = σ(A_f + w_cf ∘ c)    g = φ(A_g)         [A_i A_f A_g A_o] = W * [x ; h] + b
        c' = f ∘ c + i ∘ g       o = σ(A_o + w_co ∘ c')   h' = o ∘ φ(c')

    with σ the recurrent activation and φ the activation.

    Args:
        in_channels: Cin; may be 0, for a cell that runs on its state alone.
        hidden_channels: C.
        kernel_size: an odd size, or a pair (kh, kw) of them; padding always keeps H and W.
        bias: whether there is a bias.
        peephole: "channel" as in the paper, one weight for each gate and channel; "full", one for each gate, channel
            and pixel; or "none".
        spatial_size: (H, W), for peephole="full" and only then.
        input_kernel_size: the same for the convolution of the input, where its kernel has another size.
        forget_bias: where the forget gate's bias starts; without a bias it has no effect.
        device, dtype: of the parameters.
        options: activation="tanh", recurrent_activation="sigmoid", backend="auto", memory="save", schedule="auto"; see
            `tritonlstm.Spec`.

    Call:
        cell(input, state=None) → (h, c). input (B, Cin, H, W), or None where Cin = 0; state (h, c), each (B, C, H, W),
        zeros if None; h has the input's dtype, c is float32 where that is a half type. All may come without B.
        cell(input, state, steps) → (output, (h, c)) takes all T = steps of them: input (T, B, Cin, H, W), output
        (T, B, C, H, W). So the stack calls it.

    Parameters:
        weight (4C, Cin + C, kh, kw): input channels first; gates in the order i, f, g, o. Starts as U(±√(3/fan_in)):
            with a variance of 1/fan_in, the gates' pre-activations vary as much as what they see.
        input_weight (4C, Cin, kh', kw'), only with another input_kernel_size: starts alike; weight is then
            (4C, C, kh, kw), of the hidden state alone, and fan_in counts both.
        bias (4C): starts at zero, its forget part at `forget_bias`.
        peephole (3, C, 1, 1) or (3, C, H, W): in the order i, f, o. Starts at zero.

    Raises:
        TypeError, ValueError: that name the argument, before anything is computed.
    """

    spatial_dims = ("H", "W")

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        bias: bool = True,
        peephole: str = "channel",
        spatial_size: tuple[int, int] | None = None,
        input_kernel_size: int | tuple[int, int] | None = None,
        forget_bias: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ):
        checks.check_integer("in_channels", in_channels, minimum=0)
        checks.check_integer("hidden_channels", hidden_channels, minimum=1)
        checks.check_choice("peephole", peephole, PEEPHOLES)
        kernel_size = _pair("kernel_size", kernel_size)
        checks.check_odd("kernel_size", kernel_size)
        if input_kernel_size is not None:
            input_kernel_size = _pair("input_kernel_size", input_kernel_size)
            checks.check_odd("input_kernel_size", input_kernel_size)
        if peephole == "full":
            if spatial_size is None:
                raise ValueError('spatial_size: expected (H, W), which peephole="full" needs, got None')
            spatial_size = _pair("spatial_size", spatial_size)
        elif spatial_size is not None:
            raise ValueError(f'spatial_size: expected None without peephole="full", got {spatial_size!r}')
        peephole_size = {"none": None, "channel": (1, 1), "full": spatial_size}[peephole]
        super().__init__(
            in_channels,
            hidden_channels,
            kernel_size,
            None if peephole_size is None else (3, hidden_channels, *peephole_size),
            Spec(**options),
            input_kernel_size=input_kernel_size,
            bias=bias,
            forget_bias=forget_bias,
            device=device,
            dtype=dtype,
        )

    @property
    def in_channels(self) -> int:
        return self._in_channels

    @property
    def hidden_channels(self) -> int:
        return self._channels


class ConvLSTM2d(RecurrentStack):
    """A stack of ConvLSTM layers over a sequence of images (Shi et al. 2015, arXiv 1506.04214, equation 3).

    Args:
        in_channels: channels of the input; may be 0, for a stack that runs on its state alone (the paper's forecaster).
        hidden_channels: C, one value or a list with one for each layer.
        kernel_size: an odd size or a pair (kh, kw) of them, or a list with one of these for each layer.
        num_layers: how many layers; if None, as many as the lists have, else one.
        input_kernel_size: as kernel_size, for the convolutions of the layers' inputs; if None, the same.
        batch_first: whether input and output are (B, T, …) instead of (T, B, …).
        bias, peephole, spatial_size, forget_bias, device, dtype, options: as in `ConvLSTM2dCell`.

    Call:
        layer(input, state=None, *, steps=None) → (output, state)

        input: (T, B, Cin, H, W), or (B, T, Cin, H, W) with `batch_first`, or either without B. Any strides: an image
            expanded along T is read where it lies. None where Cin = 0, with `steps` = T and a state.
        state: one pair (h, c) for each layer, each (B, C, H, W); zeros if None. h has the input's dtype, c is float32
            where that is a half type. What one call returns, the next accepts.
        output: the last layer's h at every step, (T, B, C, H, W). It and the state are stored channels last. They may
            be written to before the backward pass; input and state that came in may not, and PyTorch says so.

        layer.step(frame, state=None) → (output, state) takes one step: frame (B, Cin, H, W), output (B, C, H, W).

    Parameters:
        `layers[l]` is the `ConvLSTM2dCell` of layer l, with weight, bias, peephole and, where its input's kernel has
        another size, input_weight.

    Raises:
        TypeError, ValueError: that name the argument, before anything is computed.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | list[int],
        kernel_size: int | tuple[int, int] | list[int | tuple[int, int]],
        num_layers: int | None = None,
        *,
        bias: bool = True,
        peephole: str = "channel",
        spatial_size: tuple[int, int] | None = None,
        input_kernel_size: int | tuple[int, int] | list[int | tuple[int, int]] | None = None,
        forget_bias: float = 1.0,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ):
        count = count_layers(
            num_layers,
            hidden_channels=hidden_channels,
            kernel_size=kernel_size,
            input_kernel_size=input_kernel_size,
        )
        channels = per_layer("hidden_channels", hidden_channels, count)
        kernels = per_layer("kernel_size", kernel_size, count)
        input_kernels = per_layer("input_kernel_size", input_kernel_size, count)
        cells = [
            ConvLSTM2dCell(
                below,
                above,
                kernel,
                bias=bias,
                peephole=peephole,
                spatial_size=spatial_size,
                input_kernel_size=input_kernel,
                forget_bias=forget_bias,
                device=device,
                dtype=dtype,
                **options,
            )
            for below, above, kernel, input_kernel in zip([in_channels, *channels], channels, kernels, input_kernels)
        ]
        super().__init__(cells, batch_first)


def _pair(name: str, value: object) -> tuple[int, int]:
    """A size, or a pair of sizes, as a pair."""
    if isinstance(value, int):
        value = (value, value)
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(f"{name}: expected an integer or a pair of them, got {value!r}")
    for size in value:
        checks.check_integer(name, size, minimum=1)
    return value
