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
from tritonlstm.tuning.timing import best_plans

from . import parts
from .check import Oracles
from .cuda_clock import CudaClock
from .deadline import Deadline
from .ending import show
from .environment import Environment, results_folder
from .flow import Point, measure
from .parts import Part
from .providers import (
    COMPILED,
    COMPILED_FUSED_CELL,
    CONV_FLOOR,
    EAGER,
    EAGER_CONTIGUOUS,
    FLAX,
    FUSED_CELL,
    KERAS,
    MAX_AUTOTUNE,
    MAX_AUTOTUNE_FUSED_CELL,
    OURS,
    OURS_WITHOUT_PEEPHOLE,
    RECOMPUTE,
    VARIANTS,
)
from .rows import DROPPED, FAILED, WRONG, Rows

SECONDS = 500
ROUNDS = 30
MAIN = ("paper", "openstl", "nowcast", "latency")
"""The cases whose figures are told; the others come when those are done."""

TIMES = (0.5, 1, 2, 4)
"""Of a case's steps, for time and memory against T."""

FULL = [OURS, CONV_FLOOR, EAGER, OURS_WITHOUT_PEEPHOLE, FUSED_CELL, *VARIANTS]
BOTH = [OURS, OURS_WITHOUT_PEEPHOLE, CONV_FLOOR]
QUICK = ("nowcast", "latency")
"""Those of MAIN that a compiler, which unrolls steps and layers, is soonest done with."""


def plan(cases: dict[str, Case], cold_bytes: int = parts.COLD_BYTES) -> list[Point | Part]:
    """Everything worth measuring, the most important first."""
    half = torch.bfloat16
    main = {name: cases[name] for name in MAIN if name in cases}
    rest = {name: case for name, case in cases.items() if name not in main}

    def each(run: str, chosen: dict[str, Case], *providers, dtype: torch.dtype = half, **options) -> list[Point]:
        return [Point(run, name, case, dtype, providers, **options) for name, case in chosen.items()]

    quick = {name: case for name, case in main.items() if name in QUICK}
    slow = {name: case for name, case in main.items() if name not in QUICK}
    times = [
        Point("steps", name, case.but(steps=round(factor * case.steps)), half, [OURS, CONV_FLOOR, EAGER, RECOMPUTE])
        for name, case in quick.items()
        for factor in TIMES
    ]
    return [
        *each("contenders", main, *FULL),
        *(part for name, case in main.items() for part in parts.gates(name, case, cold_bytes)),
        *(part for name, case in main.items() for part in parts.convolutions(name, case)),
        *each("compiled", quick, *BOTH, COMPILED, COMPILED_FUSED_CELL),
        *each("max-autotune", quick, *BOTH, MAX_AUTOTUNE, MAX_AUTOTUNE_FUSED_CELL),
        *times,
        # They can be called alone, and so can we, to be compared with them.
        *each("JAX", {**quick, **slow}, OURS_WITHOUT_PEEPHOLE, CONV_FLOOR, FLAX, KERAS, graph=False),
        *each("compiled", slow, *BOTH, COMPILED, COMPILED_FUSED_CELL),
        *each("contenders", rest, *FULL),
        *each("calls", main, OURS, EAGER, graph=False),
        *each("max-autotune", slow, *BOTH, MAX_AUTOTUNE, MAX_AUTOTUNE_FUSED_CELL),
        *each("contenders", main, OURS, CONV_FLOOR, EAGER, dtype=torch.float16),
        *each("contenders", main, OURS, CONV_FLOOR, EAGER, EAGER_CONTIGUOUS, RECOMPUTE, dtype=torch.float32),
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
    oracles = Oracles()
    for number, item in enumerate(work, 1):
        start, before = time.perf_counter(), len(rows.all)
        if isinstance(item, Point):
            measure(item, clock, rows, deadline, lambda mode: rounds, oracles=oracles)
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
    parser.add_argument("--case", action="append", choices=CASES, help="only this case, in a folder apart (repeatable)")
    parser.add_argument("--out", type=Path, help="the folder of results, instead of bench/results/<device>")
    parser.add_argument("--commit", help="what is timed, where git is not there to tell")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu-bench: this machine has no CUDA device that torch can use", file=sys.stderr)
        return 1
    deadline = Deadline(options.seconds)
    device = torch.device("cuda", torch.cuda.current_device())
    torch.manual_seed(0)
    folder = options.out or results_folder(device, whole=options.case is None)
    environment = Environment.of(device, " ".join(["python -m bench.gpu", *arguments]), options.commit)
    rows = Rows(folder / "speed.csv", environment)
    cases = {name: case for name, case in CASES.items() if name in (options.case or CASES)}
    try:
        with best_plans():
            run(plan(cases), CudaClock(device), rows, deadline, options.rounds)
    finally:
        code = finish(rows)
    return code


def finish(rows: Rows) -> int:
    """Print the table, draw the plots, and say what is missing. Fails where one of ours was wrong or did not run."""
    show(rows)
    dropped = [row for row in rows.all if row.status == DROPPED]
    if dropped:
        print(f"{len(dropped)} of {len(rows.all)} rows were dropped for want of time, the least important ones")
    bad = [row for row in rows.all if row.provider.startswith(OURS.name) and row.status in (WRONG, FAILED)]
    for row in bad:
        print(f"gpu-bench: {row.provider}, {row.key.case}, {row.key.mode}: {row.status}: {row.reason}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
