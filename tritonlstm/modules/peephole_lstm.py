"""The peephole LSTM layer (FC-LSTM) and its cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..core import checks
from ..core.spec import Options, Spec, check_keywords
from .recurrent import RecurrentCell, RecurrentStack
from .sizes import channels_by_layer, count_layers

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
        forget_bias: initial value of the forget gate's bias. It has no effect without a bias.
        device, dtype: device and dtype of the parameters.
        options: how the layer computes: the fields of `tritonlstm.Spec`, by keyword.

    Call:
        cell(input, state=None) → (h, c) runs one step. input: (B, Cin), or None if Cin = 0; state: (h, c), each (B, C),
        zeros if None. h has the input's dtype; c is float32 if that is a half-precision dtype. The batch dimension B
        may be omitted from all of them. What is returned is an `LSTMState`, a named tuple.

        cell(input, state, steps) → (output, (h, c)) runs T = steps steps: input (T, B, Cin), output (T, B, C).
        `PeepholeLSTM` calls its cells this way.

    Parameters:
        weight (4C, Cin + C): input columns first; gates in the order i, f, g, o. Initialised from U(-b, b) with
            b = √(3/(Cin + C)), whose variance is 1/(Cin + C).
        bias (4C): initialised to zero, except for the forget gate: `forget_bias`.
        peephole (3, C): in the order i, f, o. Initialised to zero.

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
        forget_bias: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ):
        check_keywords(type(self).__name__, options, PeepholeLSTMCell.__init__)
        input_size = checks.check_integer("input_size", input_size, minimum=0)
        hidden_size = checks.check_integer("hidden_size", hidden_size, minimum=1)
        peephole = checks.check_bool("peephole", peephole)
        super().__init__(
            input_size,
            hidden_size,
            (),
            (3, hidden_size) if peephole else None,
            Spec(**options),
            bias=bias,
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
        bias, peephole, forget_bias, device, dtype, options: as in `PeepholeLSTMCell`.

    Call:
        layer(input, state=None, *, steps=None) → (output, state), and layer.step(frame, state=None), as in
        `ConvLSTM2d` without H and W: input (T, B, Cin), output (T, B, C), state one pair (h, c) per layer, each (B, C).

    Parameters:
        `layers[l]` is the `PeepholeLSTMCell` of layer l, with weight, bias and peephole.

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
        forget_bias: float = 1.0,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ):
        check_keywords(type(self).__name__, options, PeepholeLSTM.__init__)
        count = count_layers(num_layers, {"hidden_size": hidden_size})
        sizes = channels_by_layer("hidden_size", hidden_size, count)
        cells = [
            PeepholeLSTMCell(
                below,
                above,
                bias=bias,
                peephole=peephole,
                forget_bias=forget_bias,
                device=device,
                dtype=dtype,
                **options,
            )
            for below, above in zip([input_size, *sizes], sizes)
        ]
        super().__init__(cells, batch_first)
        self.input_size = cells[0].input_size
        self.hidden_size = tuple(sizes)

    def extra_repr(self) -> str:
        """The constructor's arguments as they were understood, with one value per layer."""
        return f"{self.input_size}, {list(self.hidden_size)}, batch_first={self.batch_first}"
