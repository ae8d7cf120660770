"""The peephole LSTM layer (FC-LSTM) and its cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..core import checks
from ..core.spec import Options, Spec
from .recurrent import RecurrentCell, RecurrentStack, count_layers, per_layer

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PeepholeLSTMCell(RecurrentCell):
    """One LSTM layer with diagonal peepholes, one time step at a time (the FC-LSTM of Shi et al. 2015, equation 2).

    The equations are those of `ConvLSTM2dCell` with the product W [x ; h] in the convolution's place. With
    peephole=False it computes what `torch.nn.LSTMCell` does with one bias.

    Args:
        input_size: Cin; may be 0, for a cell that runs on its state alone.
        hidden_size: C.
        bias: whether there is a bias.
        peephole: whether the gates see the cell state.
        forget_bias: where the forget gate's bias starts; without a bias it has no effect.
        device, dtype: of the parameters.
        options: activation="tanh", recurrent_activation="sigmoid", backend="auto", memory="save", schedule="auto"; see
            `tritonlstm.Spec`.

    Call:
        cell(input, state=None) → (h, c). input (B, Cin), or None where Cin = 0; state (h, c), each (B, C), zeros if
        None; h has the input's dtype, c is float32 where that is a half type. All may come without B.
        cell(input, state, steps) → (output, (h, c)) takes all T = steps of them: input (T, B, Cin), output (T, B, C).
        So the stack calls it.

    Parameters:
        weight (4C, Cin + C): input columns first; gates in the order i, f, g, o. Starts as U(±√(3/(Cin + C))),
            of variance 1/(Cin + C).
        bias (4C): starts at zero, its forget part at `forget_bias`.
        peephole (3, C): in the order i, f, o. Starts at zero.

    Raises:
        TypeError, ValueError: that name the argument, before anything is computed.
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
        checks.check_integer("input_size", input_size, minimum=0)
        checks.check_integer("hidden_size", hidden_size, minimum=1)
        checks.check_bool("peephole", peephole)
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
        return self._in_channels

    @property
    def hidden_size(self) -> int:
        return self._channels


class PeepholeLSTM(RecurrentStack):
    """A stack of peephole LSTM layers over a sequence of vectors (the FC-LSTM of Shi et al. 2015, equation 2).

    Args:
        input_size: size of the input vectors; may be 0, for a stack that runs on its state alone.
        hidden_size: C, one value or a list with one for each layer.
        num_layers: how many layers; if None, as many as the list has, else one.
        batch_first: whether input and output are (B, T, …) instead of (T, B, …).
        bias, peephole, forget_bias, device, dtype, options: as in `PeepholeLSTMCell`.

    Call:
        layer(input, state=None, *, steps=None) → (output, state), and layer.step(frame, state=None), as in
        `ConvLSTM2d` without H and W: input (T, B, Cin), output (T, B, C), state one (h, c) of (B, C) for each layer.

    Parameters:
        `layers[l]` is the `PeepholeLSTMCell` of layer l, with weight, bias and peephole.

    Raises:
        TypeError, ValueError: that name the argument, before anything is computed.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int | list[int],
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
        sizes = per_layer("hidden_size", hidden_size, count_layers(num_layers, hidden_size=hidden_size))
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
