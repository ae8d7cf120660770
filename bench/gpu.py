"""`make gpu-bench`: the layer against every baseline on this machine's GPU, in a given time.

Points come in order of importance: the rows of those for which there is no time say so. Writes
bench/results/<device>/speed.csv after every point. Without CUDA it says so and exits with 1.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tritonlstm.core import output
from tritonlstm.tuning.cases import CASES, Case
from tritonlstm.tuning.timing import best_plans

from . import flow, parts
from .check import Oracle
from .flow import Clock, Point
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
    VARIANTS,
)
from .providers.ours import RECOMPUTE
from .rows import DROPPED, FAILED, MODES, WRONG, Rows, environment, results_folder
from .timer import CudaClock, Deadline

SECONDS = 500
ROUNDS = 30
COMPILE_SECONDS = 60.0
"""A provider may take so long to compile a case, inference and training together."""

MAIN = ("paper", "openstl", "nowcast", "latency")
"""The most important cases; the others come after them."""

QUICK = ("nowcast", "latency")
"""Those of MAIN that compile fastest, since the compiler unrolls steps and layers."""

TIMES = (0.5, 1, 2, 4)
"""Of a case's steps, for time and memory against T."""

FULL = [OURS, CONV_FLOOR, EAGER, OURS_WITHOUT_PEEPHOLE, FUSED_CELL, *VARIANTS]
BOTH = [OURS, OURS_WITHOUT_PEEPHOLE, CONV_FLOOR]


def plan(cases: dict[str, Case], cold_bytes: int = parts.COLD_BYTES) -> list[Point | Part]:
    """Everything worth measuring, the most important first."""
    main = {name: cases[name] for name in MAIN if name in cases}
    rest = {name: case for name, case in cases.items() if name not in main}
    quick = {name: case for name, case in main.items() if name in QUICK}
    slow = {name: case for name, case in main.items() if name not in QUICK}

    def each(run: str, chosen: dict[str, Case], *providers, dtype: torch.dtype = torch.bfloat16, **options):
        return [Point(run, name, case, dtype, providers, **options) for name, case in chosen.items()]

    steps = [(name, case.but(steps=round(factor * case.steps))) for name, case in quick.items() for factor in TIMES]
    return [
        *each("baselines", main, *FULL),
        *(part for name, case in main.items() for part in parts.gates(name, case, cold_bytes)),
        *(part for name, case in main.items() for part in parts.convolutions(name, case)),
        *each("compiled", quick, *BOTH, COMPILED, COMPILED_FUSED_CELL),
        *each("max-autotune", quick, *BOTH, MAX_AUTOTUNE, MAX_AUTOTUNE_FUSED_CELL),
        *(Point("steps", *each, torch.bfloat16, [OURS, CONV_FLOOR, EAGER, RECOMPUTE]) for each in steps),
        # JAX has no graphs to capture: both sides are timed as calls.
        *each("JAX", {**quick, **slow}, OURS_WITHOUT_PEEPHOLE, CONV_FLOOR, FLAX, KERAS, graph=False),
        *each("compiled", slow, *BOTH, COMPILED, COMPILED_FUSED_CELL),
        *each("baselines", rest, *FULL),
        *each("calls", main, OURS, EAGER, graph=False),
        *each("max-autotune", slow, *BOTH, MAX_AUTOTUNE, MAX_AUTOTUNE_FUSED_CELL),
        *each("baselines", main, OURS, CONV_FLOOR, EAGER, dtype=torch.float16),
        *each("baselines", main, OURS, CONV_FLOOR, EAGER, EAGER_CONTIGUOUS, RECOMPUTE, dtype=torch.float32),
    ]


def run(
    work: list[Point | Part],
    clock: Clock,
    rows: Rows,
    deadline: Deadline,
    rounds: int,
    say: Callable[[str], object] = print,
) -> None:
    """Measure everything in order."""
    oracle = functools.cache(Oracle)
    for number, item in enumerate(work, 1):
        start, before = time.perf_counter(), len(rows.all)
        if isinstance(item, Point):
            prepared = flow.prepare(item, clock, deadline, oracle, COMPILE_SECONDS)
            for mode in MODES:
                flow.measure(prepared, mode, clock, rows, deadline, rounds)
        else:
            item.measure(clock, rows, deadline, rounds)
        count, took = sum(row.median_ms is not None for row in rows.all[before:]), time.perf_counter() - start
        title = f"{number}/{len(work)} {item.run}, {item.name}: {item.case}, {item.dtype}"
        say(f"{title}: {count} of {len(rows.all) - before} timed in {took:.0f} s")


def finish(rows: Rows) -> int:
    """Print, plot and say what is missing. Fails if one of ours was wrong or did not run."""
    flow.show(rows)
    dropped = sum(row.status == DROPPED for row in rows.all)
    if dropped:
        print(f"{dropped} of {len(rows.all)} rows were dropped for lack of time, the least important ones")
    bad = [row for row in rows.all if row.provider.startswith(OURS.name) and row.status in (WRONG, FAILED)]
    for row in bad:
        print(f"gpu-bench: {row.provider}, {row.case}, {row.mode}: {row.status}: {row.reason}", file=sys.stderr)
    return 1 if bad else 0


def main(arguments: list[str]) -> int:
    output.make_robust()
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="limit of the measurements (%(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each point (%(default)s)")
    parser.add_argument("--case", action="append", choices=CASES, help="only this case, in a folder apart (repeatable)")
    parser.add_argument("--out", type=Path, help="the folder of results, instead of bench/results/<device>")
    parser.add_argument("--commit", help="what is timed, if git cannot tell")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu-bench: this machine has no CUDA device that torch can use", file=sys.stderr)
        return 1
    deadline = Deadline(options.seconds)
    device = torch.device("cuda", torch.cuda.current_device())
    torch.manual_seed(0)
    folder = options.out or results_folder(device, whole=options.case is None)
    command = " ".join(["python -m bench.gpu", *arguments])
    rows = Rows(folder / "speed.csv", environment(device, command, options.commit))
    cases = {name: case for name, case in CASES.items() if name in (options.case or CASES)}
    try:
        with best_plans():
            run(plan(cases), CudaClock(device), rows, deadline, options.rounds)
    finally:
        code = finish(rows)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
