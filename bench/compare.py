"""Time the working tree, or another commit, against a base, and fail if it is slower.

python -m bench.compare BASE [HEAD]

Two processes stay alive, one for each version, and run in turns. A round's ratio is that of the fastest of each side's
four runs, which filters out disturbances. It fails if a point is slower by more than the threshold with 99% confidence.
Both run on one core, since a neighbour of one core would slow only that side; on the CPU each runs on one thread, and
its own CPU time counts.
"""

import argparse
import io
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from scipy.stats import quantile_test

from bench.rows import MODES, ROOT, commit
from tritonlstm.core import output
from tritonlstm.tuning.cases import CASES, SMALL
from tritonlstm.tuning.timing import interleave

CONFIDENCE = 0.99
LEAST_ROUNDS = math.ceil(math.log2(1 / (1 - CONFIDENCE)))
"""With fewer, not even the smallest and the largest ratio are bounds: each errs with a chance of 0.5 ** rounds."""

THRESHOLD = 0.05
SECONDS = 40
"""Of running in turns, about 18 rounds on a CPU of 2025; starting the two processes takes about five more."""

RUNS = 4
"""Of each side in a round, in the order 0 1 1 0 1 0 0 1."""

ON_CPU = {"latency": 3, "copied-3x3": 2, "odd": 3}
"""Small variants and their number of steps: quick ones, one of them a deep stack and one of odd sizes."""

ON_CUDA = ("latency", "paper", "nowcast")
PACKAGE = ("tritonlstm", "kernels")

Point = tuple[str, dict]
"""A name, and the point as the workers receive it."""


class Interval(NamedTuple):
    """Head's time over base's: the median of the rounds' ratios, and bounds that each hold with CONFIDENCE.

    Nothing is assumed about the distribution of the ratios.
    """

    ratio: float
    lower: float
    upper: float
    rounds: int

    @classmethod
    def of(cls, ratios: list[float]) -> "Interval":
        """The bounds are NaN with fewer than LEAST_ROUNDS."""
        bounds = quantile_test(ratios, p=0.5).confidence_interval(2 * CONFIDENCE - 1)
        return cls(statistics.median(ratios), bounds.low, bounds.high, len(ratios))

    def is_slower(self, threshold: float) -> bool:
        """Whether head is slower by more than `threshold`, with CONFIDENCE."""
        return self.lower > 1 + threshold


def tree_of(ref: str | None, folder: Path) -> Path:
    """The package at a commit, or in the working tree if `ref` is None, laid out as it is installed."""
    if ref is None:
        for name in PACKAGE:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        # The commit by its hash: a ref that begins with "-" would be an option of git archive.
        resolved = _git(ref, "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}").decode().strip()
        archive = _git(ref, "archive", "--format=tar", resolved, *PACKAGE)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
    shutil.move(folder / "kernels", folder / "tritonlstm" / "kernels")
    return folder


def _git(ref: str, *arguments: str) -> bytes:
    """What git prints. Raises ValueError, which names `ref`, where it fails."""
    result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    if result.returncode:
        raise ValueError(f"{ref}: {result.stderr.decode().strip()}")
    return result.stdout


class Worker(subprocess.Popen):
    """A version's process: compare_worker.py with the package of `tree`."""

    def __init__(self, tree: Path, slowdown: float = 0.0):
        script, pipe = Path(__file__).with_name("compare_worker.py"), subprocess.PIPE
        environment = os.environ | {"PYTHONPATH": str(tree)}
        command = [sys.executable, str(script), str(tree), str(slowdown)]
        super().__init__(command, stdin=pipe, stdout=pipe, bufsize=0, env=environment, cwd=tree)
        if hasattr(os, "sched_setaffinity"):  # on Linux
            os.sched_setaffinity(self.pid, {max(os.sched_getaffinity(0))})

    def ask(self, value: object) -> object:
        """Its answer to the points, or to the number of one: the seconds of a run. Raises RuntimeError if it ended."""
        with suppress(BrokenPipeError):
            self.stdin.write(json.dumps(value).encode() + b"\n")
        answer = self.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of a version ended with {self.wait()}")
        return json.loads(answer)


def points() -> list[Point]:
    cases = [(name, SMALL[name].but(steps=steps), "cpu") for name, steps in ON_CPU.items()]
    if torch.cuda.is_available():
        cases += [(name, CASES[name], "cuda") for name in ON_CUDA]
    return [
        (f"{name} ({case}), {device}, {mode}", {"case": asdict(case), "device": device, "mode": mode})
        for name, case, device in cases
        for mode in MODES
    ]


def compare(
    base: Path, head: Path, chosen: Sequence[Point], *, seconds: float = SECONDS, slowdown: float = 0.0
) -> dict[str, Interval]:
    """Head's time over base's at each point, after rounds over all points for this time.

    `slowdown` is planted in head, as a fraction of its own time.
    """
    ratios = {name: [] for name, _ in chosen}
    with Worker(base) as of_base, Worker(head, slowdown) as of_head:
        for worker in (of_base, of_head):
            worker.ask([point for _, point in chosen])
        end, rounds = time.monotonic() + seconds, 0
        while time.monotonic() < end or rounds < LEAST_ROUNDS:
            for index, name in enumerate(ratios):
                runs = {"base": partial(of_base.ask, index), "head": partial(of_head.ask, index)}
                took = interleave(runs, RUNS, warmup=0)
                ratios[name].append(min(took["head"]) / min(took["base"]))
            rounds += 1
    return {name: Interval.of(each) for name, each in ratios.items()}


def main(arguments: list[str]) -> int:
    output.make_robust()
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.splitlines()[0])
    parser.add_argument("base", help="a git ref")
    parser.add_argument("head", nargs="?", help="a git ref; the working tree by default")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="tolerated slowdown (%(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of running in turns (%(default)s)")
    parser.add_argument("--plant", type=float, default=0.0, help="a slowdown of head, to test that it is noticed")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            base, head = tree_of(options.base, Path(folder, "base")), tree_of(options.head, Path(folder, "head"))
        except ValueError as error:  # no such commit
            parser.error(str(error))
        found = compare(base, head, points(), seconds=options.seconds, slowdown=options.plant)
    print(f"{options.head or f'the working tree ({commit()})'} against {options.base}")
    for name, each in found.items():
        verdict = "SLOWER" if each.is_slower(options.threshold) else ""
        print(f"  {name:58} {each.ratio:.3f} ({each.lower:.3f}–{each.upper:.3f}), {each.rounds} rounds {verdict}")
    slower = sum(each.is_slower(options.threshold) for each in found.values())
    print(
        f"time over the base's: median, and bounds of {CONFIDENCE:.0%} confidence each."
        f" {slower} of {len(found)} slower by more than {options.threshold:.0%}"
    )
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
