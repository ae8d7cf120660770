"""`make gpu-bench`: the layer against every contender on this machine's GPU, in a given time.

Points come in order of importance, so that what the time does not suffice for is what is missed least: its rows say so.
Writes bench/results/<device>/speed.csv after every point and, where matplotlib is installed, plots of it at the end.
Without CUDA it says so and exits with 1.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tritonlstm.tuning.cases import CASES, Case

from . import parts
from .cuda_clock import CudaClock
from .deadline import Deadline
from .environment import Environment, results_folder
from .flow import Point, measure
from .parts import Part
from .providers import (
    COMPILED,
    CONV_FLOOR,
    EAGER,
    FLAX,
    FUSED_CELL,
    KERAS,
    MAX_AUTOTUNE,
    OURS,
    OURS_WITHOUT_PEEPHOLE,
    VARIANTS,
)
from .rows import DROPPED, Rows
from .table import table

SECONDS = 500
ROUNDS = 30
MAIN = ("paper", "openstl", "nowcast", "latency")
"""The cases whose figures are told; the others come when those are done."""

TIMES = (0.5, 1, 2, 4)
"""Of a case's steps, for time and memory against T."""

FULL = [OURS, CONV_FLOOR, EAGER, OURS_WITHOUT_PEEPHOLE, FUSED_CELL, *VARIANTS]
RECOMPUTE = VARIANTS[0]


def plan(cases: dict[str, Case], cold_bytes: int = parts.COLD_BYTES) -> list[Point | Part]:
    """Everything worth measuring, the most important first."""
    half = torch.bfloat16
    main = {name: cases[name] for name in MAIN if name in cases}
    rest = {name: case for name, case in cases.items() if name not in main}

    def each(run: str, chosen: dict[str, Case], *providers, dtype: torch.dtype = half, **options) -> list[Point]:
        return [Point(run, name, case, dtype, providers, **options) for name, case in chosen.items()]

    small_first = dict(sorted(main.items(), key=lambda item: item[1].steps * len(item[1].channels)))
    times = [
        Point("steps", name, case.but(steps=round(factor * case.steps)), half, [OURS, CONV_FLOOR, EAGER, RECOMPUTE])
        for name, case in main.items()
        if name in ("nowcast", "latency")
        for factor in TIMES
    ]
    return [
        *each("contenders", main, *FULL),
        *(part for name, case in main.items() for part in parts.gates(name, case, cold_bytes)),
        *(part for name, case in main.items() for part in parts.convolutions(name, case)),
        # A compiler unrolls steps and layers: the fewer there are, the sooner it is done.
        *each("compiled", small_first, OURS, CONV_FLOOR, COMPILED),
        *times,
        *each("JAX", small_first, OURS_WITHOUT_PEEPHOLE, CONV_FLOOR, FLAX, KERAS),
        *each("contenders", rest, *FULL),
        *each("calls", main, OURS, EAGER, graph=False),
        *each("max-autotune", small_first, OURS, CONV_FLOOR, MAX_AUTOTUNE),
        *each("contenders", main, OURS, CONV_FLOOR, EAGER, dtype=torch.float16),
        *each("contenders", main, OURS, CONV_FLOOR, EAGER, dtype=torch.float32),
    ]


def run(
    work: list[Point | Part],
    clock: Any,
    rows: Rows,
    deadline: Deadline,
    rounds: int,
    say: Callable[[str], object] = print,
) -> None:
    """Measure everything in turn. What the time does not suffice for gets its rows too."""
    for number, item in enumerate(work, 1):
        start, before = time.perf_counter(), len(rows.all)
        if isinstance(item, Point):
            measure(item, clock, rows, deadline, lambda mode: rounds)
            title = f"{item.run}, {item.name} T={item.case.steps} {item.dtype}"
        else:
            item.measure(clock, rows, deadline, rounds)
            title = f"{item.key.run}, {item.key.case} {item.key.sizes}"
        counts = sum(row.median_ms is not None for row in rows.all[before:])
        took = time.perf_counter() - start
        say(f"{number}/{len(work)} {title}: {counts} of {len(rows.all) - before} timed in {took:.0f} s")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="what the measuring may take (%(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each point (%(default)s)")
    parser.add_argument("--case", action="append", choices=CASES, help="only this case (repeatable)")
    parser.add_argument("--out", type=Path, help="the folder of results, instead of bench/results/<device>")
    parser.add_argument("--commit", help="what is timed, where git is not there to tell")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu-bench: this machine has no CUDA device that torch can use", file=sys.stderr)
        return 1
    deadline = Deadline(options.seconds)
    torch.backends.cudnn.benchmark = True  # each contender's convolutions by the best of cuDNN's plans
    device = torch.device("cuda", torch.cuda.current_device())
    torch.manual_seed(0)
    folder = options.out or results_folder(device)
    environment = Environment.of(device, " ".join(["python -m bench.gpu", *arguments]), options.commit)
    rows = Rows(folder / "speed.csv", environment)
    cases = {name: case for name, case in CASES.items() if name in (options.case or CASES)}
    run(plan(cases), CudaClock(device), rows, deadline, options.rounds)
    return finish(rows)


def finish(rows: Rows) -> int:
    """Print the table, draw the plots, and say what is missing. Fails where one of ours was wrong or did not run."""
    print(table(rows.all))
    try:
        from .plots import draw
    except ImportError:
        print("no plots: matplotlib is not installed")
    else:
        print(*draw(rows.path), sep="\n")
    dropped = [row for row in rows.all if row.status == DROPPED]
    if dropped:
        print(f"{len(dropped)} of {len(rows.all)} rows were dropped for want of time, the least important ones")
    bad = [row for row in rows.all if row.provider.startswith(OURS.name) and row.status in ("wrong", "failed")]
    for row in bad:
        print(f"gpu-bench: {row.provider}, {row.key.case}, {row.key.mode}: {row.status}: {row.reason}", file=sys.stderr)
    print(f"gpu-bench: written to {rows.path}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
