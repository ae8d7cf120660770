"""Rows as a table to read."""

from collections.abc import Iterator
from itertools import groupby

from .providers import CONV_FLOOR, OURS, OURS_WITHOUT_PEEPHOLE
from .rows import OK, Key, Row


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


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}×"


def table(rows: list[Row]) -> str:
    """A line for each row, by points."""
    lines = []
    for key, group in points(rows):
        lines.append(f"\n{key.case}: {key.sizes}, {key.dtype}, {key.mode} ({key.run})")
        lines.append(
            f"  {'':32} {'launch':>6} {'ms (p20–p80)':>28} {'× floor':>8} {'× ours':>8} {'MB':>8} {'× ours':>8}"
        )
        for row in group:
            if row.status != OK:
                lines.append(f"  {row.provider:32} {row.status}: {row.reason}")
                continue
            time = f"{row.median_ms:.3f} ({row.p20_ms:.3f}–{row.p80_ms:.3f})"
            ours = ours_for(row, group)
            memory = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f}"
            has_memory = row.peak_bytes is not None and ours is not None and ours.peak_bytes
            share = row.peak_bytes / ours.peak_bytes if has_memory else None
            lines.append(
                f"  {row.provider:32} {row.launch:>6} {time:>28} {_times(row.x_conv_floor):>8}"
                f" {_times(speed_up(row, group)):>8} {memory:>8} {_times(share):>8}"
            )
    return "\n".join([*lines, "", "× ours: the contender's time or peak memory over ours, peepholes and launch alike."])
