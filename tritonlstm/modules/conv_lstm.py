"""The ConvLSTM layers and their cells, for signals, images and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..core import checks
from ..core.spec import Options, Spec, check_keywords
from .cell import RecurrentCell
from .regularisation import Norm
from .sizes import channels_by_layer, count_layers, kernels_by_layer, size
from .stack import RecurrentStack, both_directions

if TYPE_CHECKING:
    from typing_extensions import Unpack

PEEPHOLES = ("none", "channel", "full")


class ConvLSTMCell(RecurrentCell):
    """One ConvLSTM layer, one time step at a time (Shi et al. 2015, arXiv 1506.04214, equation 3).

    The base class of `ConvLSTM1dCell`, `ConvLSTM2dCell` and `ConvLSTM3dCell`. Sizes are those of the second; in their
    place signals have (L) and volumes (D, H, W), and kernels as many sizes.

        i = σ(A_i + w_ci ∘ c)    f = σ(A_f + w_cf ∘ c)    g = φ(A_g)         [A_i A_f A_g A_o] = W * [x ; h] + b
        c' = f ∘ c + i ∘ g       o = σ(A_o + w_co ∘ c')   h' = o ∘ ψ(c')

    with σ the recurrent activation, φ the activation and ψ the output's.

    Args:
        in_channels: Cin; 0 for a cell without an input, which is driven by its state alone.
        hidden_channels: C.
        kernel_size: an odd size, or a pair (kh, kw) of odd sizes, a tuple or any other sequence. The padding preserves
            H and W.
        bias: whether to add a bias.
        peephole: "channel", one weight per gate and channel, as in the paper; "full", one per gate, channel and pixel;
            or "none".
        spatial_size: (H, W); required for peephole="full", and None otherwise.
        input_kernel_size: the kernel size of the input's convolution, if it differs from kernel_size.
        forget_bias: initial value of the forget gate's bias. It has no effect without a bias.
        input_dropout: the probability with which, in training, an element of the input is zero, by one mask (B, Cin,
            H, W) for all steps of a call; the others are divided by 1 - input_dropout. As `dropout` of a Keras LSTM;
            Keras' ConvLSTM layers draw one mask more for each gate.
        recurrent_dropout: the same for the hidden state that the convolution reads.
        zoneout: the probability with which, in training, an element of h keeps its value from the step before, or a
            pair of those of h and of c (Krueger et al. 2017, arXiv 1606.01305; haste's LSTM has that of h). In
            evaluation h and c are the expectations, p · old + (1 - p) · new.
        norm: a function of the number of channels that makes a module, such as lambda channels: nn.GroupNorm(4,
            channels), for the pre-activations (B, 4C, H, W) between the convolution with its bias and the peepholes and
            gates. It is the parameter `norm`. A BatchNorm in evaluation is folded into the weights.

            With recurrent_dropout in training, with zoneout, and with a norm that is not folded, a sequence runs step
            by step (functional/stepping.py): slower than in one operator, and torch.compile unrolls it. Then
            memory="recompute" checkpoints each step, which a norm refuses.
        device, dtype: device and dtype of the parameters.
        options: how the layer computes: the fields of `tritonlstm.Spec`, by keyword.

    Call:
        cell(input, state=None) → (h, c) runs one step. input: (B, Cin, H, W), or None if Cin = 0; state: (h, c), each
        (B, C, H, W), zeros if None. h has the input's dtype; c is float32 if that is a half-precision dtype. The batch
        dimension B may be omitted from all of them. What is returned is an `LSTMState`, a named tuple.

        cell(input, state, steps) → (output, (h, c)) runs T = steps steps: input (T, B, Cin, H, W), output
        (T, B, C, H, W). `ConvLSTM` calls its cells this way, with the keywords `returns`, of `functional.conv_lstm`,
        `generator`, and `marks` with `reset_state` where these are not the defaults.

    Parameters:
        weight (4C, Cin + C, kh, kw): input channels first, then hidden channels; gates in the order i, f, g, o.
            Initialised from U(-√(3/fan_in), √(3/fan_in)), whose variance is 1/fan_in, so that the pre-activations have
            about the variance of the inputs.
        input_weight (4C, Cin, kh', kw'): only with an input_kernel_size of its own; initialised like weight, which is
            then (4C, C, kh, kw) and applies to the hidden state alone. fan_in counts both.
        bias (4C): initialised to zero, except for the forget gate: `forget_bias`.
        peephole (3, C, 1, 1) or (3, C, H, W): in the order i, f, o. Initialised to zero.

    Raises:
        TypeError, ValueError: for an invalid argument, which the message names, before anything is computed.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int | Sequence[int],
        *,
        bias: bool = True,
        peephole: str = "channel",
        spatial_size: int | Sequence[int] | None = None,
        input_kernel_size: int | Sequence[int] | None = None,
        forget_bias: float = 1.0,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        norm: Norm | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ):
        check_keywords(type(self).__name__, options, ConvLSTMCell.__init__)
        dims = len(self.spatial_dims)
        in_channels = checks.check_integer("in_channels", in_channels, minimum=0)
        hidden_channels = checks.check_integer("hidden_channels", hidden_channels, minimum=1)
        checks.check_choice("peephole", peephole, PEEPHOLES)
        kernel_size = size("kernel_size", kernel_size, dims)
        checks.check_odd("kernel_size", kernel_size)
        if input_kernel_size is not None:
            input_kernel_size = size("input_kernel_size", input_kernel_size, dims)
            checks.check_odd("input_kernel_size", input_kernel_size)
        if peephole == "full":
            if spatial_size is None:
                names = ", ".join(self.spatial_dims)
                raise ValueError(f'spatial_size: expected ({names}), which peephole="full" needs, got None')
            spatial_size = size("spatial_size", spatial_size, dims)
        elif spatial_size is not None:
            raise ValueError(f'spatial_size: expected None without peephole="full", got {spatial_size!r}')
        peephole_size = {"none": None, "channel": (1,) * dims, "full": spatial_size}[peephole]
        super().__init__(
            in_channels,
            hidden_channels,
            kernel_size,
            None if peephole_size is None else (3, hidden_channels, *peephole_size),
            Spec(**options),
            input_kernel_size=input_kernel_size,
            bias=bias,
            input_dropout=input_dropout,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
            norm=norm,
            forget_bias=forget_bias,
            device=device,
            dtype=dtype,
        )


class ConvLSTM1dCell(ConvLSTMCell):
    """`ConvLSTMCell` of signals.

        ConvLSTM1dCell(in_channels, hidden_channels, kernel_size, *, …)

    kernel_size and input_kernel_size: an odd size; spatial_size: L. input (B, Cin, L); h and c (B, C, L); weight
    (4C, Cin + C, k), input_weight (4C, Cin, k'), peephole (3, C, 1) or (3, C, L). All else as in `ConvLSTMCell`.
    """

    spatial_dims = ("L",)


class ConvLSTM2dCell(ConvLSTMCell):
    """`ConvLSTMCell` of images.

        ConvLSTM2dCell(in_channels, hidden_channels, kernel_size, *, …)

    kernel_size and input_kernel_size: an odd size, or (kh, kw); spatial_size: (H, W). input (B, Cin, H, W); h and c
    (B, C, H, W); weight (4C, Cin + C, kh, kw), input_weight (4C, Cin, kh', kw'), peephole (3, C, 1, 1) or (3, C, H, W).
    All else as in `ConvLSTMCell`.
    """

    spatial_dims = ("H", "W")


class ConvLSTM3dCell(ConvLSTMCell):
    """`ConvLSTMCell` of volumes.

        ConvLSTM3dCell(in_channels, hidden_channels, kernel_size, *, …)

    kernel_size and input_kernel_size: an odd size, or (kd, kh, kw); spatial_size: (D, H, W). input (B, Cin, D, H, W);
    h and c (B, C, D, H, W); weight (4C, Cin + C, kd, kh, kw), input_weight (4C, Cin, kd', kh', kw'), peephole
    (3, C, 1, 1, 1) or (3, C, D, H, W). All else as in `ConvLSTMCell`.
    """

    spatial_dims = ("D", "H", "W")


class ConvLSTM(RecurrentStack):
    """A stack of ConvLSTM layers over a sequence of images (Shi et al. 2015, arXiv 1506.04214, equation 3).

    The base class of `ConvLSTM1d`, `ConvLSTM2d` and `ConvLSTM3d`. Sizes are those of the second; in their place signals
    have (L) and volumes (D, H, W), and kernels as many sizes.

    Args:
        in_channels: channels of the input; 0 for a stack without an input, such as the paper's forecaster.
        hidden_channels: C, one value, or a sequence with one value per layer.
        kernel_size: for all layers an odd size or a tuple (kh, kw) of odd sizes; or a list with one size or pair per
            layer, [5, (3, 1)] or [[5, 5], [3, 1]]. A list of two integers, which may have been a tuple before it went
            through JSON or YAML, is one size per layer if num_layers or another argument says that there are two
            layers, and a pair if there is one; also a pair for more layers if both are equal. Otherwise it is
            ambiguous and refused. Other sequences count as lists. The same holds for lists of three integers and
            volumes; a list of integers for signals has one for each layer.
        num_layers: number of layers. If None, it is the length of the sequences with one value per layer, or 1 if
            there is none.
        input_kernel_size: kernel sizes of the input's convolutions, given like kernel_size; if None, kernel_size.
        dilation: one of the options; also one for each layer, given like kernel_size.
        batch_first: if True, input and output are (B, T, …) instead of (T, B, …).
        dropout: the probability with which, in training, each element of a layer's output is set to zero before the
            next layer, as in nn.LSTM; the others are divided by 1 - dropout.
        bidirectional: whether each layer has a second cell, which reads the sequence from its last step to its first.
            A layer's output is both hidden states side by side, the forward one first: 2C channels, which the next
            layer reads. Joining them copies the output once. To read it backward alone, pass reverse=True.
        bias, peephole, spatial_size, forget_bias, input_dropout, recurrent_dropout, zoneout, norm, device, dtype,
            options: as in `ConvLSTMCell`, for each layer and direction.

    Call:
        layer(input, state=None, *, steps=None, returns="sequence", return_cells=False, generator=None,
              lengths=None, reset=None, reset_state=None, hold=None)
            → (output, state), or with return_cells (output, state, cells)

        input: (T, B, Cin, H, W), or (B, T, Cin, H, W) with `batch_first`; B may be omitted. Any strides are accepted;
            an image expanded along T is not copied. None if Cin = 0: pass `steps` = T and a state instead. A
            `PackedSequence` of (N, Cin, H, W) for sequences of different lengths: the output is packed alike, and the
            state is each sequence's own last one.
        state: one pair (h, c) per layer, each (B, C, H, W); zeros if None. With `bidirectional`, one for each direction
            of each layer, in nn.LSTM's order: layer 0 forward, layer 0 backward, layer 1 forward, … h has the input's
            dtype; c is float32 if that is a half-precision dtype. A tuple of `LSTMState`, named pairs, is returned, and
            can be passed to the next call; plain tuples (h, c) are accepted too. nn.LSTM's order, all h and then all c,
            is not: `list(zip(h_n, c_n))` converts it. Two layers of equal sizes do not accept lists as pairs, because
            [[h0, h1], [c0, c1]] could not be told from [[h0, c0], [h1, c1]]; a pair of tuples is always (h, c).
        returns: "sequence", for the last layer's h at every step; "last", for that of the last step alone,
            (B, C, H, W), where the last layer allocates no sequence in inference, and in training only what the
            backward pass reads; "layers", for a tuple with the sequence of every layer. With `bidirectional`, "last" is
            each direction's own last step, as in `state`.
        return_cells: whether c at every step is returned behind the state, in the form of the output: in training one
            more copy of it, and one addition per step of the backward pass.
        generator: draws all masks; if None, PyTorch's default one, as in nn.Dropout. Under
            torch.utils.checkpoint that one alone is set back for the second forward pass.
        lengths: each sample's number of steps (B), a tensor of int64 or int32 or a list of ints. Past it, a sample's
            output is zero and its state stays as it is, in every layer and direction: the state returned, and the
            output of returns="last", are its own last ones, and a reversed direction begins at its own last step.
        reset: (T, B), or (B, T) with `batch_first`, torch.bool: before the steps where it is True, a sample's state
            becomes the reset state, in the order of the steps; with lengths, not past them. Not with `bidirectional`.
        reset_state: one pair (h, c) for each layer, each (B, C, H, W) or (1, C, H, W), which may learn; zeros if None.
        hold: as reset: at the steps where it is True a sample's state stays as it is, after a reset, and its output is
            its hidden state once more. Numbers of the input under a hold, or past a length, have no effect; where
            weights learn they must be finite.
        output: the last layer's h at every step, (T, B, C, H, W). Output and state are stored channels last. They may
            be modified in place before the backward pass. The input and the state passed in may not, nor the outputs of
            the layers below the last, which are the next layers' inputs: PyTorch raises its usual error.

        layer.step(frame, state=None, *, generator=None) → (output, state) runs one step: frame (B, Cin, H, W), output
        (B, C, H, W). A stack with reverse=True takes the frames from the last to the first; a bidirectional one raises
        a ValueError.

    Parameters:
        `layers[l]` is the cell of layer l, with weight, bias, peephole and, with an input_kernel_size of its own,
        input_weight. With `bidirectional`, `reverse_layers[l]` is that of the second direction.

    Raises:
        TypeError, ValueError: for an invalid argument, which the message names, before anything is computed.
    """

    cell_type: type[ConvLSTMCell]

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | Sequence[int],
        kernel_size: int | Sequence[int] | Sequence[int | Sequence[int]],
        num_layers: int | None = None,
        *,
        bias: bool = True,
        peephole: str = "channel",
        spatial_size: int | Sequence[int] | None = None,
        input_kernel_size: int | Sequence[int] | Sequence[int | Sequence[int] | None] | None = None,
        forget_bias: float = 1.0,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        norm: Norm | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ):
        check_keywords(type(self).__name__, options, ConvLSTM.__init__)
        dims = len(self.spatial_dims)
        count = count_layers(
            num_layers,
            {"hidden_channels": hidden_channels},
            {"kernel_size": kernel_size, "input_kernel_size": input_kernel_size, "dilation": options.get("dilation")},
            dims,
        )
        channels = channels_by_layer("hidden_channels", hidden_channels, count)
        kernels = kernels_by_layer("kernel_size", kernel_size, count, dims)
        input_kernels = kernels_by_layer("input_kernel_size", input_kernel_size, count, dims)
        dilations = [{}] * count
        if "dilation" in options:
            values = kernels_by_layer("dilation", options.pop("dilation"), count, dims)
            dilations = [{"dilation": each[0] if len(set(each)) == 1 else each} for each in values]

        def cells(below: list[int], options: Options) -> list[ConvLSTMCell]:
            return [
                self.cell_type(
                    below,
                    above,
                    kernel,
                    bias=bias,
                    peephole=peephole,
                    spatial_size=spatial_size,
                    input_kernel_size=input_kernel,
                    forget_bias=forget_bias,
                    input_dropout=input_dropout,
                    recurrent_dropout=recurrent_dropout,
                    zoneout=zoneout,
                    norm=norm,
                    device=device,
                    dtype=dtype,
                    **dilation,
                    **options,
                )
                for below, above, kernel, input_kernel, dilation in zip(
                    below, channels, kernels, input_kernels, dilations
                )
            ]

        super().__init__(*both_directions(cells, in_channels, channels, bidirectional, options), batch_first, dropout)
        self.in_channels = self.layers[0].in_channels
        self.hidden_channels = tuple(channels)
        self.kernel_size = tuple(kernels)
        self.input_kernel_size = tuple(input_kernels)

    def extra_repr(self) -> str:
        """The constructor's arguments as they were understood, with one value per layer."""
        parts = [f"{self.in_channels}, {list(self.hidden_channels)}, kernel_size={list(self.kernel_size)}"]
        if any(size is not None for size in self.input_kernel_size):
            parts.append(f"input_kernel_size={list(self.input_kernel_size)}")
        return ", ".join([*parts, self._repr_of_options()])


class ConvLSTM1d(ConvLSTM):
    """`ConvLSTM` over a sequence of signals.

        ConvLSTM1d(in_channels, hidden_channels, kernel_size, num_layers=None, *, …)

    input (T, B, Cin, L) → output (T, B, C, L); h and c (B, C, L). Its cells are `ConvLSTM1dCell`. All else as in
    `ConvLSTM`.
    """

    spatial_dims, cell_type = ConvLSTM1dCell.spatial_dims, ConvLSTM1dCell


class ConvLSTM2d(ConvLSTM):
    """`ConvLSTM` over a sequence of images.

        ConvLSTM2d(in_channels, hidden_channels, kernel_size, num_layers=None, *, …)

    input (T, B, Cin, H, W) → output (T, B, C, H, W); h and c (B, C, H, W). Its cells are `ConvLSTM2dCell`. All else as
    in `ConvLSTM`.
    """

    spatial_dims, cell_type = ConvLSTM2dCell.spatial_dims, ConvLSTM2dCell


class ConvLSTM3d(ConvLSTM):
    """`ConvLSTM` over a sequence of volumes.

        ConvLSTM3d(in_channels, hidden_channels, kernel_size, num_layers=None, *, …)

    input (T, B, Cin, D, H, W) → output (T, B, C, D, H, W); h and c (B, C, D, H, W). Its cells are `ConvLSTM3dCell`. All
    else as in `ConvLSTM`.
    """

    spatial_dims, cell_type = ConvLSTM3dCell.spatial_dims, ConvLSTM3dCell
