"""`make bench` and `make gpu-bench`: the layer against every baseline that is installed, on a CPU or a GPU.

pytest bench                  the small cases on this CPU
pytest bench --device cuda    the cases on this machine's GPU, in a given time: what there is none for says so, and
                              is measured by the same command with --resume

Correctness first, then time and memory. Everything is timed in turns, and written to bench/results/<device>/speed.csv.
pytest-benchmark's table and JSON have our layer's samples from there, of parts of a layer the first function's.
"""

from collections.abc import Callable

import pytest

from .flow import Point, faults
from .parts import Part
from .plans import Section


class _Replay:
    """A clock that moves on by what was measured before, so that pytest-benchmark times nothing twice."""

    __name__ = "replay"

    def __init__(self):
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


CLOCK = _Replay()


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.filterwarnings("default")  # a baseline that warns has not failed
def test_speed(section: Section, item: Point | Part, mode: str, prepare: Callable, sessions: Callable, benchmark):
    session = sessions(section)
    rows, seconds = session.measure(prepare(item, session)[mode])
    found = faults(rows)
    assert not found, "\n".join(found)
    ours = rows[0]
    if ours.provider not in seconds:
        pytest.skip(f"{ours.status}: {ours.reason}")
    if benchmark is not None:
        samples = iter(seconds[ours.provider])
        benchmark.pedantic(lambda: CLOCK.advance(next(samples)), rounds=len(seconds[ours.provider]))
