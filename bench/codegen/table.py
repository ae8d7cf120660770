"""The committed table of figures, and what differs from it."""

import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import triton

from .capture import compile_point
from .inspect import Figures, inspect
from .points import Point

PATH = Path(__file__).with_name("table.json")

REGISTERS = {"cuda": {True: 128, False: 160}, "hip": {True: 128, False: 192}}
"""At most so many registers a thread, by backend and by whether the channels allow 16-byte accesses (a multiple of 8).

With 128, an NVIDIA multiprocessor holds 16 warps of such a kernel at once, with 160 it holds 12; with 128 and 192, a
SIMD unit of AMD's holds four and two wavefronts. Odd channels need an address for each element, and more
registers."""


def measure(points: Iterable[Point], processes: int = 2) -> dict[str, dict]:
    """The figures of all points, by key."""
    points = list(points)
    with ProcessPoolExecutor(processes) as pool:
        figures = pool.map(_figures, points, chunksize=4)
        return {point.key: figure.as_json() for point, figure in zip(points, figures, strict=True)}


def _figures(point: Point) -> Figures:
    return inspect(compile_point(point))


def violations(point: Point, figures: dict) -> list[str]:
    """What breaks a rule, whatever the table says: spills, registers, narrow accesses."""
    found = []
    if figures["spills"]:
        found.append(f"{point.key}: {figures['spills']} spills")
    limit = REGISTERS["cuda" if point.arch.startswith("sm_") else "hip"][point.channels % 8 == 0]
    if figures["registers"] > limit:
        found.append(f"{point.key}: {figures['registers']} registers, at most {limit}")
    narrowest = narrowest_access(point)
    narrow = {width: count for width, count in figures["accesses"].items() if int(width) < narrowest}
    if narrow:
        found.append(f"{point.key}: accesses narrower than {narrowest} bytes: {narrow}")
    return found


def narrowest_access(point: Point) -> int:
    """The bytes that every global access may have at least: a power of two of channels, up to 16 bytes.

    The few sums that a program of the parameter reduction owns are read and written once, in float32, and a gradient
    with strides of its own is read element by element: they may be as narrow as an element.
    """
    if point.kernel == "parameter_grads":
        return min(4, point.itemsize * (point.channels & -point.channels))
    if point.variant == "strided":
        return point.itemsize
    return min(16, point.itemsize * (point.channels & -point.channels))


def load() -> dict:
    return json.loads(PATH.read_text())


def save(rows: dict[str, dict]) -> None:
    lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
    PATH.write_text(f'{{\n  "triton": "{triton.__version__}",\n  "kernels": {{\n{lines}\n  }}\n}}\n')


def differences(rows: dict[str, dict], committed: dict[str, dict]) -> list[str]:
    """Every figure that is not the committed one."""
    found = [f"{key}: not in the table" for key in rows.keys() - committed.keys()]
    found += [f"{key}: only in the table" for key in committed.keys() - rows.keys()]
    for key in rows.keys() & committed.keys():
        for figure, value in rows[key].items():
            if value != committed[key].get(figure):
                found.append(f"{key}: {figure} {committed[key].get(figure)} → {value}")
    return sorted(found)
