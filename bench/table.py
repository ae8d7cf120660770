"""Rows as a table to read."""

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter

from .providers import CONV_FLOOR, EAGER, EAGER_CONTIGUOUS, OURS, OURS_WITHOUT_PEEPHOLE
from .rows import OK, Key, Row

EAGER_FORMATS = (EAGER.name, EAGER_CONTIGUOUS.name)
"""The eager contender in each memory format: one baseline, the best of them."""


def points(rows: list[Row]) -> Iterator[tuple[Key, list[Row]]]:
    """The rows of each point, in the order in which the points came."""
    order = {}
    for row in rows:
        order.setdefault(row.key, len(order))
    for key, group in groupby(sorted(rows, key=lambda row: order[row.key]), key=lambda row: row.key):
        yield key, list(group)


def ours_for(row: Row, group: list[Row]) -> Row | None:
    """Our row that a contender's is compared with: launched alike, and without peepholes where it has none."""
    name = OURS.name if row.peephole or row.provider == CONV_FLOOR.name else OURS_WITHOUT_PEEPHOLE.name
    found = [each for each in group if each.provider == name and each.status == OK and each.launch == row.launch]
    return found[0] if found else None


def speed_up(row: Row, group: list[Row]) -> float | None:
    """The contender's median time over ours: how many times as fast we are."""
    ours = ours_for(row, group)
    return None if ours is None or row.status != OK else row.median_ms / ours.median_ms


def best_eager(launch: str, group: list[Row], by: str = "median_ms") -> Row | None:
    """The eager row of a point, so launched, that we are compared with: the one whose `by` is the least.

    That is a time or, with "peak_bytes", a peak of memory; each has its own best memory format.
    """
    found = [row for row in group if row.provider in EAGER_FORMATS and row.status == OK and row.launch == launch]
    return min((row for row in found if getattr(row, by) is not None), key=attrgetter(by), default=None)


def _share(row: Row, base: Row | None, by: str) -> str:
    """`by` of a row over that of another, where both have it."""
    values = [None if each is None else getattr(each, by) for each in (row, base)]
    return f"{values[0] / values[1]:.2f}×" if all(values) else ""


def _line(row: Row, group: list[Row]) -> str:
    if row.status != OK:
        return f"  {row.provider:32} {row.status}: {row.reason}"
    time = f"{row.median_ms:.3f} ({row.p20_ms:.3f}–{row.p80_ms:.3f})"
    floor = "" if row.x_conv_floor is None else f"{row.x_conv_floor:.2f}×"
    memory = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f}"
    ours = ours_for(row, group)
    shares = []
    for by in ("median_ms", "peak_bytes"):
        eager = best_eager(row.launch, group, by) if row.peephole else None
        shares.append(f"{_share(row, ours, by):>8} {_share(row, eager, by):>8}")
    return f"  {row.provider:32} {row.launch:>6} {time:>28} {floor:>8} {shares[0]} {memory:>8} {shares[1]}"


def table(rows: list[Row]) -> str:
    """A line for each row, by points."""
    ratios = f"{'× ours':>8} {'× eager':>8}"
    lines = []
    for key, group in points(rows):
        lines.append(f"\n{key.case}: {key.sizes}, {key.dtype}, {key.mode} ({key.run})")
        lines.append(f"  {'':32} {'launch':>6} {'ms (p20–p80)':>28} {'× floor':>8} {ratios} {'MB':>8} {ratios}")
        lines += [_line(row, group) for row in group]
    notes = [
        "× ours: the contender's time or peak memory over ours, peepholes and launch alike.",
        "× eager: the same over eager's, of whose memory formats the faster and the smaller counts.",
    ]
    return "\n".join([*lines, "", *notes])
