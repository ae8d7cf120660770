"""The order in which a layer computes its steps: from the first time to the last or, reversed, the other way round.

Sequences stay in the input's order, so ranges (first, last) are of times, and slices of sequences are views. What a
direction changes is the order of ranges and of the times in them, and on which side of a time the step before it is.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Order:
    """Of `steps` times 0 … steps - 1."""

    steps: int
    reverse: bool

    def times(self, first: int = 0, last: int | None = None) -> range:
        """The times first … last - 1 in the order of the forward pass."""
        times = range(first, self.steps if last is None else last)
        return times[::-1] if self.reverse else times

    @property
    def start(self) -> int:
        """The time of the first step, which reads the state that came in."""
        return self.steps - 1 if self.reverse else 0

    @property
    def end(self) -> int:
        """The time of the last step, whose state is the one that is returned."""
        return 0 if self.reverse else self.steps - 1

    def previous(self, t: int) -> int:
        """The time of the step before that at t."""
        return t + 1 if self.reverse else t - 1

    def following(self, t: int) -> int:
        """The time of the step after that at t."""
        return t - 1 if self.reverse else t + 1

    def before(self, t: int) -> int:
        """Where, in the steps + 1 cell states, is the one that the step at t reads."""
        return t + 1 if self.reverse else t

    def after(self, t: int) -> int:
        """Where, in the steps + 1 cell states, is the one that the step at t writes."""
        return t if self.reverse else t + 1

    def part(self, t: int, length: int) -> tuple[int, int]:
        """The range of at most `length` times that t is in. The forward pass goes through full ones first."""
        if self.reverse:
            last = self.steps - (self.steps - 1 - t) // length * length
            return max(0, last - length), last
        first = t // length * length
        return first, min(first + length, self.steps)

    def carried(self, first: int, last: int) -> tuple[slice, slice]:
        """Which of the times first … last - 1 read a hidden state of the output, and at which times that lies."""
        shift = self.previous(0)
        begin, end = max(first, -shift), min(last, self.steps - shift) if self.reverse else last
        end = max(begin, end)
        return slice(begin, end), slice(begin + shift, end + shift)
