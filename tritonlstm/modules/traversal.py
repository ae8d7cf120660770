"""How a cell goes over a batch of sequences: those of one length in one call, packed ones by their batch sizes."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..core.marks import Marks
from ..core.state import LSTMState
from ..functional import State


class Dense:
    """Sequences of one length, (T, B, channels, *spatial), where marks may end, reset or hold samples.

    `reset_state` has a pair for each cell, or is None for zeros.
    """

    channel_dim = 2

    def __init__(self, steps: int, marks: Marks | None = None, reset_state: Sequence[State] | None = None):
        self._steps, self._marks, self._reset_state = steps, marks, reset_state

    def options(self, index: int) -> dict[str, object]:
        """What the cell with this state of the stack's is called with, beside the options of the call."""
        if self._marks is None:
            return {}
        return {"marks": self._marks, "reset_state": self._reset_state and self._reset_state[index]}

    def run(self, cell: nn.Module, input: Tensor | None, state: State | None, reverse: bool, **options: object):
        """The output, the last state and, where `options` ask for them, c at every step."""
        return cell(input, state, self._steps, **options)


class Packed:
    """The data (N, channels, *spatial) of a `PackedSequence`, N the sum of all lengths.

    Steps with the same number of sequences are one call, which reads its part of the data in place. So there are as
    many calls as there are different lengths, and no step is computed that no sequence has.
    """

    channel_dim = 1

    def __init__(self, batch_sizes: Tensor):
        self._parts, first = [], 0
        for batch, steps in groupby(batch_sizes.tolist()):
            count = len(list(steps))
            self._parts.append((first, count, batch))
            first += count * batch

    def options(self, index: int) -> dict[str, object]:
        return {}

    def run(self, cell: nn.Module, data: Tensor, state: State | None, reverse: bool, **options: object):
        """As `Dense.run`. Sequences end, or with `reverse` begin, where the number of them changes.

        h and c are those of each sequence after its own last step.
        """
        if "shares_output" in options:
            options["shares_output"] = True  # the parts are copied into one tensor
        current, ended, results = None, [], []
        for first, steps, batch in self._parts[:: -1 if reverse else 1]:
            current = _begin(current, state, batch)
            if current is not None and len(current[0]) > batch:
                ended.append([each[batch:] for each in current])
                current = LSTMState(*(each[:batch] for each in current))
            part = data[first : first + steps * batch].unflatten(0, (steps, batch))
            output, current, *cells = cell(part, current, steps, **options)
            results.append((output, *cells))
        last = LSTMState(*map(torch.cat, zip(*[current, *ended[::-1]])))
        if options.get("returns") == "last":
            return last.h.clone(), last
        in_order = results[:: -1 if reverse else 1]
        output, *cells = (torch.cat([each.flatten(0, 1) for each in parts]) for parts in zip(*in_order))
        return output, last, *cells


def _begin(current: State | None, initial: State | None, batch: int) -> State | None:
    """The state for `batch` sequences, of which some may be new; None for zeros."""
    if current is None:
        return initial and LSTMState(*(each[:batch] for each in initial))
    count = len(current[0])
    if count >= batch:
        return current
    if initial is None:
        new = [each.new_zeros(batch - count, *each.shape[1:]) for each in current]
    else:
        new = [each[count:batch] for each in initial]
    return LSTMState(*(torch.cat(pair) for pair in zip(current, new)))


def sort(packed: PackedSequence, state: list[State] | None) -> list[State] | None:
    """States in the order in which the sequences are packed."""
    return _permute(state, packed.sorted_indices)


def unsort(packed: PackedSequence, state: tuple[State, ...]) -> tuple[State, ...]:
    """States in the order in which the sequences were given."""
    return tuple(_permute(state, packed.unsorted_indices))


def _permute(state, indices: Tensor | None):
    if state is None or indices is None:
        return state
    return [LSTMState(*(each.index_select(0, indices) for each in pair)) for pair in state]
