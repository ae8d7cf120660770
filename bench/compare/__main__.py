"""Time the working tree, or another commit, against a base, and fail where it is slower.

python -m bench.compare BASE [HEAD]

Two processes are kept alive, one for each version, and run in turns. A round's ratio is that of the fastest of each
side's four runs, so that what disturbs some of them is not seen. It fails where a point is slower by more than the
threshold with 99% confidence. Both run on one core, since a neighbour of one core would slow only that side; on the CPU
each runs on one thread, and the time is that thread's own, so that a busy machine disturbs little.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path

import torch

from bench.environment import commit
from tritonlstm.tuning.cases import CASES, TWINS, Case

from . import trees
from .interval import Interval, least_rounds, of_ratios

THRESHOLD = 0.05
CONFIDENCE = 0.99
SECONDS = 40
"""Of running in turns, which gives about 18 rounds on a CPU of 2025; two processes start in about five more."""

ORDER = 0, 1, 1, 0, 1, 0, 0, 1
"""Whose turn it is in a round, base's (0) or head's; in every second round the other's."""

MODES = ("inference", "training")
ON_CPU = {"latency": 3, "copied-3x3": 2, "odd": 3}
"""Twins by name, with so many steps: quick ones, one of them a deep stack and one of odd sizes."""

ON_CUDA = ("latency", "paper", "nowcast")


class Worker:
    """A version's process."""

    def __init__(self, tree: Path, slowdown: float):
        command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(tree), str(slowdown)]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=tree
        )
        if hasattr(os, "sched_setaffinity"):  # on Linux
            os.sched_setaffinity(self._process.pid, {max(os.sched_getaffinity(0))})

    def send(self, value: object) -> None:
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def receive(self) -> object:
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> RuntimeError:
        return RuntimeError(f"the process of a version ended with {self._process.wait()}")

    def run(self, point: int) -> float:
        """The seconds of one run of a point."""
        self.send(point)
        return self.receive()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(BrokenPipeError):  # what was never read is in it
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def points() -> list[tuple[str, dict]]:
    """Names, and what a worker is told."""

    def of(name: str, case: Case, device: str) -> list[tuple[str, dict]]:
        return [
            (f"{name} ({case}), {device}, {mode}", {"case": asdict(case), "device": device, "mode": mode})
            for mode in MODES
        ]

    cpu = [point for name, steps in ON_CPU.items() for point in of(name, TWINS[name].but(steps=steps), "cpu")]
    cuda = [point for name in ON_CUDA for point in of(name, CASES[name], "cuda")]
    return cpu + (cuda if torch.cuda.is_available() else [])


def compare(
    base: Path,
    head: Path,
    chosen: Sequence[tuple[str, dict]],
    *,
    seconds: float = SECONDS,
    slowdown: float = 0.0,
) -> dict[str, Interval]:
    """Head's time over base's at each point, after rounds over all points for so many seconds.

    `slowdown` is planted in head, a part of its own time.
    """
    ratios = [[] for _ in chosen]
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(base, 0.0)), stack.enter_context(Worker(head, slowdown))]
        for worker in workers:
            worker.send([point for _, point in chosen])
        for worker in workers:
            worker.receive()
        end = time.monotonic() + seconds
        rounds = 0
        while time.monotonic() < end or rounds < least_rounds(CONFIDENCE):
            for index in range(len(chosen)):
                took = ([], [])
                for turn in ORDER:
                    side = turn ^ rounds % 2
                    took[side].append(workers[side].run(index))
                ratios[index].append(min(took[1]) / min(took[0]))
            rounds += 1
    return {name: of_ratios(each, CONFIDENCE) for (name, _), each in zip(chosen, ratios)}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.splitlines()[0])
    parser.add_argument("base", help="a git ref")
    parser.add_argument("head", nargs="?", help="a git ref; the working tree if left out")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="slowdown that is no failure (%(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of running in turns (%(default)s)")
    parser.add_argument("--plant", type=float, default=0.0, help="a slowdown of head, to see that it is noticed")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        head = Path(folder, "head")
        try:
            base = trees.of_ref(options.base, Path(folder, "base"))
            head = trees.of_ref(options.head, head) if options.head else trees.of_working_tree(head)
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
