"""A confidence interval for the median of ratios that asks nothing of their distribution."""

import math
import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """Head's time over base's: the median of the rounds' ratios, and bounds, each of which holds with `confidence`."""

    ratio: float
    lower: float
    upper: float
    confidence: float
    rounds: int

    def is_slower(self, threshold: float) -> bool:
        """Whether head is slower by more than `threshold`, with that confidence."""
        return self.lower > 1 + threshold


def least_rounds(confidence: float) -> int:
    """With fewer rounds not even the smallest and the largest ratio are bounds: 0.5 ** rounds is the chance to err."""
    return math.ceil(math.log(1 - confidence) / math.log(0.5))


def of_ratios(ratios: list[float], confidence: float = 0.99) -> Interval:
    """The k-th smallest and k-th largest ratio, k as large as `confidence` allows.

    The median lies below the k-th smallest of n independent ratios only if fewer than k of them fall below it, which
    has the chance P(Binomial(n, ½) < k), whatever the noise is like.
    """
    rounds = len(ratios)
    if rounds < least_rounds(confidence):
        raise ValueError(f"ratios: expected at least {least_rounds(confidence)} of them, got {rounds}")
    k, chance = 0, 0.0
    while True:
        chance += math.comb(rounds, k) / 2**rounds
        if chance > 1 - confidence:
            break
        k += 1
    ordered = sorted(ratios)
    return Interval(statistics.median(ratios), ordered[k - 1], ordered[-k], confidence, rounds)
