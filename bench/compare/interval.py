"""A confidence interval for the median of ratios that assumes nothing about their distribution."""

import math
import statistics
from dataclasses import dataclass

CONFIDENCE = 0.99


@dataclass(frozen=True)
class Interval:
    """Head's time over base's: the median of the rounds' ratios, and bounds that each hold with CONFIDENCE."""

    ratio: float
    lower: float
    upper: float
    rounds: int

    def is_slower(self, threshold: float) -> bool:
        """Whether head is slower by more than `threshold`, with CONFIDENCE."""
        return self.lower > 1 + threshold


LEAST_ROUNDS = math.ceil(math.log2(1 / (1 - CONFIDENCE)))
"""With fewer, not even the smallest and the largest ratio are bounds: they err with the chance 0.5 ** rounds."""


def of_ratios(ratios: list[float]) -> Interval:
    """The k-th smallest and k-th largest ratio, with the largest k that CONFIDENCE allows.

    The median lies below the k-th smallest of n independent ratios only if fewer than k of them fall below it, which
    has the chance P(Binomial(n, ½) < k), whatever the noise is like.
    """
    rounds = len(ratios)
    if rounds < LEAST_ROUNDS:
        raise ValueError(f"ratios: expected at least {LEAST_ROUNDS} of them, got {rounds}")
    k, chance = 0, 2.0**-rounds
    while chance <= 1 - CONFIDENCE:
        k += 1
        chance += math.comb(rounds, k) / 2**rounds
    ordered = sorted(ratios)
    return Interval(statistics.median(ratios), ordered[k - 1], ordered[-k], rounds)
