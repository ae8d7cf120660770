"""The committed table of figures, and what differs from it."""

import json
from collections.abc import Iterable
from pathlib import Path

import triton

from tritonlstm.tuning import aot
from tritonlstm.tuning.inspect import Figures, faults
from tritonlstm.tuning.occupancy import limits

from .points import Point

PATH = Path(__file__).with_name("table.json")

REGISTERS = {"cuda": {True: 128, False: 160}, "hip": {True: 128, False: 192}}
"""At most so many registers a thread, by backend and by whether the channels allow 16-byte accesses (a multiple of 8).

With 128, an NVIDIA multiprocessor holds 16 warps of such a kernel at once, with 160 it holds 12; with 128 and 192, a
SIMD unit of AMD's holds four and two wavefronts. Odd channels need an address for each element, and more
registers."""


def measure(points: Iterable[Point], processes: int = 2) -> dict[str, dict]:
    """The figures of all points, by key. Raises RuntimeError, with all that went wrong, where one does not compile."""
    points = list(points)
    found = aot.measure([(point.launch, point.arch, point.config) for point in points], processes)
    failures = [f"{point.key}: {result}" for point, result in zip(points, found) if isinstance(result, str)]
    if failures:
        raise RuntimeError("\n".join(failures))
    return {point.key: figures.as_json() for point, figures in zip(points, found)}


def violations(point: Point, figures: dict) -> list[str]:
    """What breaks a rule, whatever the table says: spills, registers, narrow accesses."""
    found = [f"{point.key}: {fault}" for fault in faults(point.launch, Figures(**figures))]
    limit = REGISTERS["cuda" if point.arch.startswith("sm_") else "hip"][point.channels % 8 == 0]
    if figures["registers"] > limit:
        found.append(f"{point.key}: {figures['registers']} registers, at most {limit}")
    return found


def load() -> dict:
    return json.loads(PATH.read_text())


def save(rows: dict[str, dict]) -> None:
    lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
    PATH.write_text(f'{{\n  "triton": "{triton.__version__}",\n  "kernels": {{\n{lines}\n  }}\n}}\n')


def regressions(rows: dict[str, dict], committed: dict[str, dict]) -> list[str]:
    """What is worse than committed, by row: more registers or spills, narrower accesses, fewer warps at once."""
    found = []
    for key in sorted(rows.keys() & committed.keys()):
        new, old = rows[key], committed[key]
        for figure in ("registers", "spills"):
            if new[figure] > old[figure]:
                found.append(f"{key}: {figure} {old[figure]} → {new[figure]}")
        if new["warps"] < old["warps"]:
            found.append(f"{key}: occupancy {occupancy(key, old)} → {occupancy(key, new)} warps")
        before, after = _mean_width(old["accesses"]), _mean_width(new["accesses"])
        if after < before:
            found.append(f"{key}: accesses of {before:.2f} → {after:.2f} bytes on average")
    return found


def differences(rows: dict[str, dict], committed: dict[str, dict]) -> list[str]:
    """Every figure that is not the committed one, for better or worse, by row."""
    found = [f"{key}: not in the table" for key in rows.keys() - committed.keys()]
    found += [f"{key}: only in the table" for key in committed.keys() - rows.keys()]
    for key in rows.keys() & committed.keys():
        for figure, value in rows[key].items():
            if value != committed[key][figure]:
                found.append(f"{key}: {figure} {committed[key][figure]} → {value}")
    return sorted(found)


def occupancy(key: str, row: dict) -> str:
    """The warps that a multiprocessor holds at once, of the most that it can."""
    return f"{row['warps']}/{limits(key.rpartition('/')[2]).warps}"


def text(rows: dict[str, dict]) -> str:
    """The rows as a table to read, an architecture after another."""
    lines, arch = [], None
    for key, row in rows.items():
        name, _, of = key.rpartition("/")
        if of != arch:
            arch = of
            lines += [
                "",
                f"{arch:38}{'registers':>10}{'spills':>8}{'shared':>8}{'warps':>8}{'instructions':>14}  accesses",
            ]
        accesses = ", ".join(f"{count} × {width} B" for width, count in row["accesses"].items())
        lines.append(
            f"{name:38}{row['registers']:10}{row['spills']:8}{row['shared']:8}{occupancy(key, row):>8}"
            f"{row['instructions']:14}  {accesses}"
        )
    return "\n".join(lines).lstrip()


def _mean_width(accesses: dict[str, int]) -> float:
    return sum(int(width) * count for width, count in accesses.items()) / max(1, sum(accesses.values()))
