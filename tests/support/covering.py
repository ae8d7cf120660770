"""Pairwise covering: few combinations of options in which every two options meet with every pair of their values.

Most defects need one option, or two together. With a dozen options a full product has thousands of combinations; a
pairwise covering has about as many as the two longest options have pairs.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations, product

Row = dict[str, Hashable]


def pairwise(options: Mapping[str, Sequence], fits: Callable[[Row], bool] = lambda row: True) -> list[Row]:
    """Rows of one value for each option that together hold every pair of values that some row may have.

    `fits` tells rows that make sense. It sees incomplete rows too, and accepts those that can be completed, or seem to.
    Rows are built greedily: each starts from the first missing pair and takes the value that adds the most new ones.
    """
    names = sorted(options, key=lambda name: -len(options[name]))
    missing = {
        frozenset({(one, first), (other, second)}): None
        for one, other in combinations(names, 2)
        for first, second in product(options[one], options[other])
    }
    used = Counter()

    def complete(row: Row) -> Row | None:
        name = next((name for name in names if name not in row), None)
        if name is None:
            return row

        def merit(value: Hashable) -> tuple[int, int]:
            new = sum(frozenset({(name, value), other}) in missing for other in row.items())
            return -new, used[name, value]

        for value in sorted(options[name], key=merit):
            candidate = {**row, name: value}
            if fits(candidate) and (found := complete(candidate)):
                return found
        return None

    rows = []
    while missing:
        pair = next(iter(missing))
        row = complete(dict(pair)) if fits(dict(pair)) else None
        if row is None:  # no row has this pair
            del missing[pair]
            continue
        used.update(row.items())
        for items in combinations(row.items(), 2):
            missing.pop(frozenset(items), None)
        rows.append({name: row[name] for name in options})
    return rows


def describe(row: Row) -> str:
    """A row as a test's name: "bias-triton-float32"."""
    return "-".join(map(str, row.values()))
