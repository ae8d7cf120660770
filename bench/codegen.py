"""What every kernel compiles to for every architecture, without a GPU, compared with the committed figures.

python -m bench.codegen            exits with 1 if a rule is broken or a figure differs
python -m bench.codegen --update   writes the figures to bench/codegen.json
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import triton

from tritonlstm.core import files, output
from tritonlstm.launch.config import find_config
from tritonlstm.launch.tables import KERNELS, Config
from tritonlstm.tuning import aot
from tritonlstm.tuning.inspect import Figures, faults
from tritonlstm.tuning.launches import DTYPES, VARIANTS, Launch
from tritonlstm.tuning.occupancy import limits

PATH = Path(__file__).with_suffix(".json")
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
CHANNELS = (1, 3, 17, 64, 96, 130)

REGISTERS = {"cuda": {True: 128, False: 160}, "hip": {True: 128, False: 192}}
"""The most registers a thread may take, by backend and by whether the channels are a multiple of 8 (16-byte accesses).

With 128, an NVIDIA multiprocessor holds 16 warps of such a kernel at once, with 160 it holds 12; with 128 and 192, a
SIMD unit of AMD's holds four and two wavefronts. Odd channels need an address for each element, and more registers."""

PER_ELEMENT = {
    "gates_forward": {"bf16": 62, "fp16": 85, "fp32": 82},
    "gates_backward": {"bf16": 74, "fp16": 70, "fp32": 70},
}
"""The most instructions for an element on NVIDIA's GPUs, with peepholes by channel and channels that are a multiple of
64: what an issue slot each takes, beside the time for memory."""

Rows = dict[str, dict]
"""Figures by the key of their point."""


@dataclass(frozen=True)
class Point:
    """One compilation."""

    launch: Launch
    arch: str

    @property
    def key(self) -> str:
        launch = self.launch
        return f"{launch.kernel}/{launch.dtype}/C{launch.channels}/{launch.variant}/{self.arch}"

    @property
    def config(self) -> Config:
        """The package's own: a user's tables do not change these figures."""
        launch = self.launch
        return find_config(launch.kernel, self.arch, launch.itemsize, launch.channels, user=False)[0].value

    def row(self, figures: Figures) -> dict:
        """The figures, and of the gates' kernels, which have no loop, the instructions for one element."""
        elements = self.config.block / (self.config.num_warps * limits(self.arch).warp_size)  # of a thread
        per_element = None if self.launch.kernel == "parameter_grads" else round(figures.instructions / elements, 1)
        return asdict(figures) | {"per_element": per_element}


def points(architectures: Iterable[str] = ARCHITECTURES) -> Iterator[Point]:
    """Every channel class in every dtype with channel peepholes; the other variants at 64 channels, not in fp16."""
    for arch, kernel, dtype in itertools.product(architectures, KERNELS, DTYPES):
        for channels in CHANNELS:
            yield Point(Launch(kernel, dtype, channels), arch)
        for variant in VARIANTS[kernel]:
            if variant != "channel" and dtype != "fp16":
                yield Point(Launch(kernel, dtype, 64, variant), arch)


def measure(points: Iterable[Point], processes: int = 2) -> Rows:
    """The figures of all points. Raises RuntimeError, with everything that went wrong, if one does not compile."""
    points = list(points)
    found = aot.measure([(point.launch, point.arch, point.config) for point in points], processes)
    failures = [f"{point.key}: {result}" for point, result in zip(points, found) if isinstance(result, str)]
    if failures:
        raise RuntimeError("\n".join(failures))
    return {point.key: point.row(figures) for point, figures in zip(points, found)}


def violations(point: Point, figures: dict) -> list[str]:
    """Which rules are broken, whatever the committed figures say: spills, registers, narrow accesses, instructions."""
    figures = dict(figures)
    per_element = figures.pop("per_element")
    found = [f"{point.key}: {fault}" for fault in faults(point.launch, Figures(**figures))]
    limit = REGISTERS["cuda" if point.arch.startswith("sm_") else "hip"][point.launch.channels % 8 == 0]
    if figures["registers"] > limit:
        found.append(f"{point.key}: {figures['registers']} registers, at most {limit}")
    launch, most = point.launch, PER_ELEMENT.get(point.launch.kernel, {}).get(point.launch.dtype, math.inf)
    is_limited = point.arch.startswith("sm_") and launch.variant == "channel" and launch.channels % 64 == 0
    if is_limited and per_element is not None and per_element > most:
        found.append(f"{point.key}: {per_element} instructions an element, at most {most}")
    return found


def load() -> dict:
    return json.loads(files.read_text(PATH))


def save(rows: Rows) -> None:
    lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
    files.write(PATH, f'{{\n  "triton": "{triton.__version__}",\n  "kernels": {{\n{lines}\n  }}\n}}\n')


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
    """The rows as a table to read. Warps: those that a multiprocessor holds at once, of the most that it can."""
    table = pd.DataFrame.from_dict(rows, orient="index")
    most = [limits(key.rpartition("/")[2]).warps for key in rows]
    table["warps"] = [f"{warps}/{each}" for warps, each in zip(table.warps, most)]
    table["accesses"] = [", ".join(f"{n} × {width} B" for width, n in each.items()) for each in table.accesses]
    table["per_element"] = [row["per_element"] or "" for row in rows.values()]
    return table.to_string()


def main(arguments: list[str]) -> int:
    output.make_robust()
    parser = argparse.ArgumentParser(prog="python -m bench.codegen", description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help=f"write the figures to {PATH.name}")
    options = parser.parse_args(arguments)
    if aot.interprets():
        parser.error("TRITON_INTERPRET is set: Triton interprets the kernels, and compiles none")
    chosen = list(points())
    rows = measure(chosen)
    print(text(rows))
    broken = [line for point in chosen for line in violations(point, rows[point.key])]
    changed = differences(rows, load()["kernels"])
    print("\nRules broken: " + ("\n  ".join(["", *broken]) or "none"))
    print("\nDifferent from the committed table, which is out of date: " + ("\n  ".join(["", *changed]) or "none"))
    if options.update:
        save(rows)
        print(f"\nwritten to {PATH}")
    return 1 if broken or (changed and not options.update) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
