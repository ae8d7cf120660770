"""The state of a layer as a named pair, and which pair is which layer's in the state of a stack."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree

from .checks import describe
from .dtypes import cell_dtype


class LSTMState(NamedTuple):
    """One layer's state, the tuple (h, c). A stack returns a tuple of these, one for each layer."""

    h: Tensor  # hidden state, (B, C, *spatial), in the input's dtype
    c: Tensor  # cell state, (B, C, *spatial), in float32 if h has a half-precision dtype


# The public name, which pickles and exported programs keep.
LSTMState.__module__ = "tritonlstm"
# PyTorch takes any named tuple apart, but saves and loads only those it knows, in an exported program or in a file.
_pytree._register_namedtuple(LSTMState, serialized_type_name="tritonlstm.LSTMState")
torch.serialization.add_safe_globals([LSTMState])

NN_LSTM_ORDER = "nn.LSTM's order, all h and then all c; list(zip(h, c)) converts it"


def as_passed(pair: LSTMState, passed: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """What a layer returns: the pair; under torch.export a plain tuple, unless an LSTMState was passed.

    An exported program accepts states of the structure it was exported with, so it must return the same one. A program
    without a named pair in it can be loaded where this package is not.
    """
    if torch.compiler._is_exporting_flag and not isinstance(passed, LSTMState):
        return tuple(pair)
    return pair


def check_layers(state: object, num_layers: int, what: str = "layers", name: str = "state") -> None:
    """Check that a stack's state has one entry for each layer, and that it is not in nn.LSTM's order.

    `what` is what the entries belong to, for messages: layers, or their directions; `name` is the argument's.

    nn.LSTM has all h first and then all c. With two layers of the same sizes and dtypes, ([h0, h1], [c0, c1]) has the
    structure of our [[h0, c0], [h1, c1]]: two lists are refused. Tuples are taken as (h, c), since that is how pairs
    are written: `[(h.detach(), c.detach()) for h, c in state]`.
    """
    if isinstance(state, (tuple, list)) and len(state) == num_layers:
        if num_layers != 2 or (isinstance(state[0], tuple) and isinstance(state[1], tuple)):
            return
        if not all(map(_is_tensor, state)) and not _has_two_readings(state):
            return
    raise _refusal(state, num_layers, what, name)


def _refusal(state: object, num_layers: int, what: str, name: str) -> Exception:
    wanted = f"{name}: expected one pair (h, c) for each of {num_layers} {what}"
    if not isinstance(state, (tuple, list)):
        return TypeError(f"{wanted}, got {describe(state)}")
    if len(state) == 2 and all(map(_is_tensor, state)):
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in state)
        return TypeError(
            f"{wanted}, got two tensors of shapes {shapes}; the state of one layer is [(h, c)], and"
            " list(zip(h_n, c_n)) converts that of nn.LSTM"
        )
    if len(state) == num_layers:
        return ValueError(
            f"{wanted}, got lists, which could be [[h0, c0], [h1, c1]] or nn.LSTM's [[h0, h1], [c0, c1]]; write"
            " [(h0, c0), (h1, c1)], with tuples or LSTMState"
        )
    if len(state) == 2 and all(isinstance(each, (tuple, list)) and len(each) == num_layers for each in state):
        return TypeError(f"{wanted}, got {NN_LSTM_ORDER}")
    return TypeError(f"{wanted}, got {describe(state)}")


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _has_two_readings(state: Sequence[object]) -> bool:
    """Whether neither shapes nor dtypes tell [[h0, c0], [h1, c1]] from [[h0, h1], [c0, c1]]."""
    entries = [each for pair in state if isinstance(pair, (tuple, list)) for each in pair]
    if len(entries) != 4 or not all(isinstance(each, Tensor) for each in entries):
        return False
    return all(each.shape == entries[0].shape and each.dtype == entries[0].dtype for each in entries)


def is_transposed(state: Sequence[Sequence[Tensor]], shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    """Whether two layers' state, which is wrong as pairs of these shapes, would be right in nn.LSTM's order."""
    if len(state) != 2 or not all(isinstance(each, (tuple, list)) and len(each) == 2 for each in state):
        return False
    hs, cs = state
    wanted = [shape for of_all in zip(*shapes) for shape in of_all]  # both of h, then both of c
    if not all(map(_is_tensor, (*hs, *cs))) or any(each.shape != shape for each, shape in zip((*hs, *cs), wanted)):
        return False
    h, c = ({each.dtype for each in tensors} for tensors in (hs, cs))
    has_dtypes = len(h) == 1 and c == {cell_dtype(*h)}
    return has_dtypes and (shapes[0] != shapes[1] or h != c)
