"""The peephole LSTM layer (FC-LSTM) and its cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..core import checks
from ..core.spec import Options, Spec, check_keywords
from .cell import RecurrentCell
from .regularisation import Norm
from .sizes import channels_by_layer, count_layers
from .stack import RecurrentStack, both_directions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PeepholeLSTMCell(RecurrentCell):
    """One LSTM layer with diagonal peepholes, one time step at a time (the FC-LSTM of Shi et al. 2015, equation 2).

    The equations are those of `ConvLSTMCell`, with the matrix product W [x ; h] instead of the convolution. With
    peephole=False it is equivalent to a `torch.nn.LSTMCell` with a single bias.

    Args:
        input_size: Cin; 0 for a cell without an input, which is driven by its state alone.
        hidden_size: C.
        bias: whether to add a bias.
        peephole: whether the gates have peephole connections to the cell state.
        proj_size: P, the channels of a projected hidden state h = W_r (o ∘ ψ(c)), less than hidden_size, as in nn.LSTM
            (Sak et al. 2014, arXiv 1402.1128); 0 for none. h and the output then have P channels, c has C. A sequence
            is computed with the weight W_h W_r, of 4C × C, so that it costs what one of C channels does.
        forget_bias: initial value of the forget gate's bias. It has no effect without a bias.
        input_dropout, recurrent_dropout, zoneout, norm: as in `ConvLSTM2dCell`.
        device, dtype: device and dtype of the parameters.
        options: how the layer computes: the fields of `tritonlstm.Spec`, by keyword.

    Call:
        cell(input, state=None) → (h, c) runs one step. input: (B, Cin), or None if Cin = 0; state: (h, c), each (B, C),
        zeros if None. h has the input's dtype; c is float32 if that is a half-precision dtype. The batch dimension B
        may be omitted from all of them. What is returned is an `LSTMState`, a named tuple.

        cell(input, state, steps) → (output, (h, c)) runs T = steps steps: input (T, B, Cin), output (T, B, C).
        `PeepholeLSTM` calls its cells this way.

    Parameters:
        weight (4C, Cin + C), or (4C, Cin + P): input columns first; gates in the order i, f, g, o. Initialised from
            U(-b, b) with b = √(3/n), whose variance is 1/n, for n columns.
        bias (4C): initialised to zero, except for the forget gate: `forget_bias`.
        peephole (3, C): in the order i, f, o. Initialised to zero.
        projection (P, C): only with a proj_size; initialised likewise.

    Raises:
        TypeError, ValueError: for an invalid argument, which the message names, before anything is computed.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        peephole: bool = True,
        proj_size: int = 0,
        forget_bias: float = 1.0,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        norm: Norm | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ):
        check_keywords(type(self).__name__, options, PeepholeLSTMCell.__init__)
        input_size = checks.check_integer("input_size", input_size, minimum=0)
        hidden_size = checks.check_integer("hidden_size", hidden_size, minimum=1)
        peephole = checks.check_bool("peephole", peephole)
        proj_size = checks.check_integer("proj_size", proj_size, minimum=0)
        if proj_size >= hidden_size:
            raise ValueError(
                f"proj_size: expected less than hidden_size = {hidden_size}, or 0 for none, got {proj_size}"
            )
        super().__init__(
            input_size,
            hidden_size,
            (),
            (3, hidden_size) if peephole else None,
            Spec(**options),
            proj_size=proj_size,
            bias=bias,
            input_dropout=input_dropout,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
            norm=norm,
            forget_bias=forget_bias,
            device=device,
            dtype=dtype,
        )

    @property
    def input_size(self) -> int:
        return self.in_channels

    @property
    def hidden_size(self) -> int:
        return self.hidden_channels


class PeepholeLSTM(RecurrentStack):
    """A stack of peephole LSTM layers over a sequence of vectors (the FC-LSTM of Shi et al. 2015, equation 2).

    Args:
        input_size: size of the input vectors; 0 for a stack without an input, which is driven by its state alone.
        hidden_size: C, one value, or a sequence with one value per layer.
        num_layers: number of layers. If None, it is the length of that sequence, or 1 if there is none.
        batch_first: if True, input and output are (B, T, …) instead of (T, B, …).
        dropout, bidirectional: as in `ConvLSTM2d`, and as in nn.LSTM.
        bias, peephole, proj_size, forget_bias, input_dropout, recurrent_dropout, zoneout, norm, device, dtype, options:
            as in `PeepholeLSTMCell`, for each layer and direction.

    Call:
        layer(input, state=None, *, steps=None, returns="sequence", return_cells=False, generator=None, lengths=None,
        reset=None, reset_state=None, hold=None) → (output, state), and layer.step(frame, state=None, *,
        generator=None), as in `ConvLSTM2d` without H and W: input (T, B, Cin), or a `PackedSequence`; output (T, B, C),
        or packed; state one pair (h, c) per layer and direction, each (B, C), but h (B, P) and output (T, B, P) with a
        proj_size of P, which takes no lengths, reset or hold.

    Parameters:
        `layers[l]` is the `PeepholeLSTMCell` of layer l, with weight, bias, peephole and projection. With
        `bidirectional`, `reverse_layers[l]` is that of the second direction.

    Raises:
        TypeError, ValueError: for an invalid argument, which the message names, before anything is computed.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int | None = None,
        *,
        bias: bool = True,
        peephole: bool = True,
        proj_size: int = 0,
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
        check_keywords(type(self).__name__, options, PeepholeLSTM.__init__)
        count = count_layers(num_layers, {"hidden_size": hidden_size})
        sizes = channels_by_layer("hidden_size", hidden_size, count)

        def cells(below: list[int], options: Options) -> list[PeepholeLSTMCell]:
            return [
                PeepholeLSTMCell(
                    below,
                    above,
                    bias=bias,
                    peephole=peephole,
                    proj_size=proj_size,
                    forget_bias=forget_bias,
                    input_dropout=input_dropout,
                    recurrent_dropout=recurrent_dropout,
                    zoneout=zoneout,
                    norm=norm,
                    device=device,
                    dtype=dtype,
                    **options,
                )
                for below, above in zip(below, sizes)
            ]

        of_h = [checks.check_integer("proj_size", proj_size, minimum=0) or size for size in sizes]
        super().__init__(*both_directions(cells, input_size, of_h, bidirectional, options), batch_first, dropout)
        self.input_size = self.layers[0].input_size
        self.proj_size = self.layers[0].proj_size
        self.hidden_size = tuple(sizes)

    def extra_repr(self) -> str:
        """The constructor's arguments as they were understood, with one value per layer."""
        proj_size = f"proj_size={self.proj_size}, " if self.proj_size else ""
        return f"{self.input_size}, {list(self.hidden_size)}, {proj_size}{self._repr_of_options()}"
