"""Deadlines, and the figures of a row."""

import math
import time
from contextlib import suppress

import pytest
import torch

from bench import timer
from bench.timer import Deadline, OutOfTime, peak_memory, summary


def test_a_rows_figures():
    figures = {"median_ms": 2000.0, "p20_ms": pytest.approx(1400.0), "p80_ms": pytest.approx(2600.0), "samples": 3}
    assert summary([1.0, 2.0, 3.0]) == figures
    assert summary([1.0]) == {"median_ms": 1e3, "p20_ms": 1e3, "p80_ms": 1e3, "samples": 1}


def test_peak_memory_is_above_what_was_held(monkeypatch):
    runs = []
    fakes = {
        "memory_allocated": 1000,
        "max_memory_allocated": 1500,
        "synchronize": None,
        "reset_peak_memory_stats": None,
    }
    for name, value in fakes.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert peak_memory(lambda: runs.append(1), torch.device("cuda")) == 500
    assert runs == [1, 1], "what it caches for good does not count"


def test_peak_memory_on_a_cpu():
    def run() -> None:
        first = torch.empty(1000, dtype=torch.uint8)
        second = torch.empty(3000, dtype=torch.uint8)
        del first, second
        torch.empty(2000, dtype=torch.uint8)

    assert peak_memory(run, torch.device("cpu")) == pytest.approx(4000, abs=200)  # sizes are aligned


def test_a_deadline_interrupts_and_leaves_no_alarm():
    start = time.monotonic()
    with pytest.raises(OutOfTime), Deadline(0.1).limit():
        time.sleep(5)
    assert time.monotonic() - start < 2
    with Deadline(0.1).limit():
        pass
    time.sleep(0.2)  # an alarm that was left would end this
    with pytest.raises(OutOfTime), Deadline(-1).limit():
        pass


def test_a_deadline_within_another_is_not_after_it():
    def left(deadline: Deadline) -> float:
        return deadline._end - time.monotonic()

    assert 4 < left(Deadline(60).within(5)) <= 5
    assert 4 < left(Deadline(5).within(60)) <= 5
    assert 4 < left(Deadline().within(5)) <= 5
    assert Deadline().within(math.inf)._end == math.inf


def test_an_interruption_that_was_swallowed_comes_again(monkeypatch):
    monkeypatch.setattr(timer, "REPEAT", 0.1)
    start = time.monotonic()
    with pytest.raises(OutOfTime), Deadline(0.1).limit():
        with suppress(OutOfTime):
            time.sleep(5)
        time.sleep(5)
    assert time.monotonic() - start < 2
