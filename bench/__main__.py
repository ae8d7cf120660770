"""`make bench` and `make gpu-bench`: the layer against every baseline that is installed, on a CPU or a GPU.

python -m bench                  the small cases on this CPU
python -m bench --device cuda    the cases on this machine's GPU, in a given time: what there is none for says so

Writes bench/results/<device>/speed.csv after every point, and at the end prints tables and draws plots.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tritonlstm.tuning.cases import CASES, SMALL
from tritonlstm.tuning.timing import CudaClock, best_plans

from . import plans
from .flow import Point, Session
from .parts import Part
from .providers import COMPILERS, OURS
from .rows import DROPPED, FAILED, WRONG, Rows, environment, results_folder
from .timer import CpuClock, Deadline

LIMITS = {"cpu": (9, math.inf, math.inf), "cuda": (30, 500.0, 60.0)}
"""Rounds of each point, seconds of all measurements, and seconds in which a provider may compile a case."""


def run(work: Sequence[Point | Part], session: Session, say: Callable[[str], object] = print) -> None:
    """Measure everything in order."""
    every = session.collected.all
    for number, item in enumerate(work, 1):
        start, before = time.perf_counter(), len(every)
        item.measure(session)
        count, took = sum(row.median_ms is not None for row in every[before:]), time.perf_counter() - start
        title = f"{number}/{len(work)} {item.run}, {item.name}: {item.case}, {item.dtype}"
        say(f"{title}: {count} of {len(every) - before} timed in {took:.0f} s")


def finish(collected: Rows) -> int:
    """Print, plot and say what is missing. Fails if one of ours was wrong or did not run."""
    if not collected.all:
        return 1
    try:
        from . import plots, report
    except ImportError as error:
        print(f"no tables and plots: {error}")
    else:
        print(report.text(report.frame(collected.records())))
        print(*plots.draw(collected.path), sep="\n")
    print(f"written to {collected.path}")
    dropped = sum(row.status == DROPPED for row in collected.all)
    if dropped:
        print(f"{dropped} of {len(collected.all)} rows were dropped for lack of time, the least important ones")
    bad = [row for row in collected.all if row.provider.startswith(OURS.name) and row.status in (WRONG, FAILED)]
    for row in bad:
        print(f"bench: {row.provider}, {row.case}, {row.mode}: {row.status}: {row.reason}", file=sys.stderr)
    return 1 if bad else 0


def without_compilers(work: Sequence[Point | Part]) -> list[Point | Part]:
    return [
        replace(item, providers=[each for each in item.providers if each not in COMPILERS])
        if isinstance(item, Point)
        else item
        for item in work
    ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument("--case", action="append", choices=CASES, help="only this case, in a folder apart (repeatable)")
    parser.add_argument("--rounds", type=int, help="of each point (9 on a CPU, 30 on a GPU)")
    parser.add_argument("--seconds", type=float, help="limit of the measurements (none on a CPU, 500 on a GPU)")
    parser.add_argument("--no-compiled", action="store_true", help="without torch.compile, in a folder apart")
    parser.add_argument("--max-autotune", action="store_true", help="torch.compile with autotuning on a CPU too")
    parser.add_argument("--out", type=Path, help="the folder of results, instead of bench/results/<device>")
    parser.add_argument("--commit", help="what is timed, if git cannot tell")
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"argument --rounds: expected at least 1, got {options.rounds}")
    on_gpu = options.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        print("bench: this machine has no CUDA device that torch can use", file=sys.stderr)
        return 1
    rounds, seconds, compile_seconds = LIMITS[options.device]
    deadline = Deadline(options.seconds or seconds)
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    torch.manual_seed(0)
    whole = options.case is None and not options.no_compiled
    folder = options.out or results_folder(device, whole=whole)
    command = " ".join(["python -m bench", *arguments])
    collected = Rows(folder / "speed.csv", environment(device, command, options.commit))
    cases = {name: case for name, case in (CASES if on_gpu else SMALL).items() if name in (options.case or CASES)}
    work = plans.on_gpu(cases) if on_gpu else plans.on_cpu(cases, max_autotune=options.max_autotune)
    clock = CudaClock(device) if on_gpu else CpuClock()
    session = Session(clock, collected, deadline, options.rounds or rounds, compile_seconds)
    try:
        with best_plans():
            run(without_compilers(work) if options.no_compiled else work, session)
    finally:
        code = finish(collected)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
