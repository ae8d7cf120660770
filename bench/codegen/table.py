"""The launches that are compiled, their figures, and how these differ from the committed table."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import triton

from tritonlstm.core import files
from tritonlstm.launch.config import find_config
from tritonlstm.launch.tables import KERNELS
from tritonlstm.tuning import aot
from tritonlstm.tuning.inspect import Figures, faults
from tritonlstm.tuning.launches import DTYPES, VARIANTS, Launch
from tritonlstm.tuning.occupancy import limits

PATH = Path(__file__).with_name("table.json")
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
CHANNELS = (1, 3, 17, 64, 96, 130)

REGISTERS = {"cuda": {True: 128, False: 160}, "hip": {True: 128, False: 192}}
"""The most registers a thread may take, by backend and by whether the channels are a multiple of 8 (16-byte accesses).

With 128, an NVIDIA multiprocessor holds 16 warps of such a kernel at once, with 160 it holds 12; with 128 and 192, a
SIMD unit of AMD's holds four and two wavefronts. Odd channels need an address for each element, and more registers."""

Rows = dict[str, dict]
"""Figures by the key of their point."""


@dataclass(frozen=True)
class Point:
    """One compilation. `variant` is one of the kernel's VARIANTS."""

    kernel: str
    dtype: str
    channels: int
    variant: str
    arch: str

    @property
    def key(self) -> str:
        return f"{self.kernel}/{self.dtype}/C{self.channels}/{self.variant}/{self.arch}"

    @property
    def launch(self) -> Launch:
        return Launch(self.kernel, self.dtype, self.channels, self.variant)


def points(architectures: tuple[str, ...] = ARCHITECTURES) -> Iterator[Point]:
    """Every channel class in every dtype with channel peepholes; the other variants at 64 channels, not in fp16."""
    for arch in architectures:
        for kernel in KERNELS:
            for dtype in DTYPES:
                for channels in CHANNELS:
                    yield Point(kernel, dtype, channels, "channel", arch)
                for variant in VARIANTS[kernel]:
                    if variant != "channel" and dtype != "fp16":
                        yield Point(kernel, dtype, 64, variant, arch)


def measure(points: Iterable[Point], processes: int = 2) -> Rows:
    """The figures of all points. Raises RuntimeError, with everything that went wrong, if one does not compile."""
    points, tasks = list(points), []
    for point in points:
        # The package's own configuration: a user's tables do not change these figures.
        entry, _ = find_config(point.kernel, point.arch, point.launch.itemsize, point.channels, user=False)
        tasks.append((point.launch, point.arch, entry.value))
    found = aot.measure(tasks, processes)
    failures = [f"{point.key}: {result}" for point, result in zip(points, found) if isinstance(result, str)]
    if failures:
        raise RuntimeError("\n".join(failures))
    return {point.key: figures.as_json() for point, figures in zip(points, found)}


def violations(point: Point, figures: dict) -> list[str]:
    """Which rules are broken, whatever the table says: spills, registers, narrow accesses."""
    found = [f"{point.key}: {fault}" for fault in faults(point.launch, Figures(**figures))]
    limit = REGISTERS["cuda" if point.arch.startswith("sm_") else "hip"][point.channels % 8 == 0]
    if figures["registers"] > limit:
        found.append(f"{point.key}: {figures['registers']} registers, at most {limit}")
    return found


def load() -> dict:
    return json.loads(files.read_text(PATH))


def save(rows: Rows) -> None:
    lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
    files.write(PATH, f'{{\n  "triton": "{triton.__version__}",\n  "kernels": {{\n{lines}\n  }}\n}}\n')


def regressions(rows: Rows, committed: Rows) -> list[str]:
    """What is worse than committed: more registers or spills, narrower accesses, fewer warps at once."""
    found = []
    for key in sorted(rows.keys() & committed.keys()):
        new, old = rows[key], committed[key]
        for figure in ("registers", "spills"):
            if new[figure] > old[figure]:
                found.append(f"{key}: {figure} {old[figure]} → {new[figure]}")
        if new["warps"] < old["warps"]:
            found.append(f"{key}: occupancy {_occupancy(key, old)} → {_occupancy(key, new)} warps")
        before, after = _mean_width(old["accesses"]), _mean_width(new["accesses"])
        if after < before:
            found.append(f"{key}: accesses of {before:.2f} → {after:.2f} bytes on average")
    return found


def differences(rows: Rows, committed: Rows) -> list[str]:
    """Every figure that is not the committed one, for better or worse."""
    found = [f"{key}: not in the table" for key in rows.keys() - committed.keys()]
    found += [f"{key}: only in the table" for key in committed.keys() - rows.keys()]
    for key in rows.keys() & committed.keys():
        for figure, value in rows[key].items():
            if value != committed[key][figure]:
                found.append(f"{key}: {figure} {committed[key][figure]} → {value}")
    return sorted(found)


def text(rows: Rows) -> str:
    """The rows as a table to read, one architecture after another."""
    lines, arch = [], None
    heads = "".join(f"{head:>14}" for head in ("registers", "spills", "shared", "warps", "instructions"))
    for key, row in rows.items():
        name, _, of = key.rpartition("/")
        if of != arch:
            arch = of
            lines += ["", f"{arch:38}{heads}  accesses"]
        cells = row["registers"], row["spills"], row["shared"], _occupancy(key, row), row["instructions"]
        accesses = ", ".join(f"{count} × {width} B" for width, count in row["accesses"].items())
        lines.append(f"{name:38}{''.join(f'{cell:>14}' for cell in cells)}  {accesses}")
    return "\n".join(lines).lstrip()


def _occupancy(key: str, row: dict) -> str:
    """The warps that a multiprocessor holds at once, of the most that it can."""
    return f"{row['warps']}/{limits(key.rpartition('/')[2]).warps}"


def _mean_width(accesses: dict[str, int]) -> float:
    return sum(int(width) * count for width, count in accesses.items()) / max(1, sum(accesses.values()))
