"""Time in turns, what the GPU's clock does around a sample (with a stand-in for the device), and deadlines."""

import itertools
import time
from contextlib import nullcontext, suppress
from types import SimpleNamespace

import pytest
import torch

from bench import timer
from bench.timer import CudaClock, Deadline, OutOfTime, interleave, summary
from tritonlstm.tuning import timing

CPU = torch.device("cpu")


def test_providers_take_turns():
    order = []
    samplers = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    seconds = interleave(samplers, rounds=12, warmup=0)
    rounds = [tuple(order[start : start + 3]) for start in range(0, len(order), 3)]
    assert len(rounds) == 12 and all(sorted(each) == list("abc") for each in rounds)
    assert {each[0] for each in rounds} == set("abc") == {each[-1] for each in rounds}
    follows = [order for each in rounds for order in itertools.pairwise(each)]
    assert all(follows.count((left, right)) == 4 for left in "abc" for right in "abc" if left != right)
    assert all(len(each) == 12 for each in seconds.values())


def test_warm_up_is_left_out():
    durations = iter([9.0, 9.0, 1.0, 2.0, 3.0])
    seconds = interleave({"a": lambda: next(durations)}, rounds=3, warmup=2)["a"]
    assert seconds == [1.0, 2.0, 3.0]
    figures = {"median_ms": 1000.0, "p20_ms": pytest.approx(700.0), "p80_ms": pytest.approx(1300.0), "samples": 3}
    assert summary(seconds, per_run=2) == figures
    assert summary([1.0]) == {"median_ms": 1e3, "p20_ms": 1e3, "p80_ms": 1e3, "samples": 1}


class Event:
    now = 0.0

    def __init__(self, enable_timing: bool):
        assert enable_timing

    def record(self) -> None:
        self._at = Event.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "Event") -> float:
        return end._at - self._at


@pytest.fixture
def device(monkeypatch):
    """A device whose graphs run again what was captured, and take 2 ms."""
    captured = SimpleNamespace(run=None, replays=0)

    class Graph:
        def replay(self) -> None:
            captured.replays += 1
            captured.run()
            Event.now += 2.0

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(timing, "_LEAST_FLUSH", 0)
    fakes = {
        "get_device_properties": lambda device: SimpleNamespace(L2_cache_size=100),
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": lambda graph, capture_error_mode: nullcontext(),
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda chosen: nullcontext(),
        "synchronize": lambda device: None,
        "reset_peak_memory_stats": lambda device: None,
        "memory_allocated": lambda device: 1000,
        "max_memory_allocated": lambda device: 1500,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return captured


def test_a_replay_sees_the_next_input_and_a_cold_cache(device):
    clock, seen = CudaClock(CPU), []

    def run(input: torch.Tensor) -> torch.Tensor:
        device.run = lambda: seen.append((input.item(), int(clock._flush.sum())))
        return input * 2

    arguments = [(torch.tensor(float(each)),) for each in range(3)]
    sample = clock.sampler(run, arguments, graph=True)
    for _ in range(4):
        clock._flush.fill_(1)
        assert sample() == 2e-3
    assert seen == [(0.0, 0), (1.0, 0), (2.0, 0), (0.0, 0)] and device.replays == 4
    assert clock._flush.numel() == 200
    assert [each.item() for (each,) in arguments] == [0.0, 1.0, 2.0]  # only a copy was overwritten


def test_a_call_is_timed_by_events_and_a_foreign_queue_by_the_host(device):
    clock, waited = CudaClock(CPU), []

    def run(input: int) -> int:
        Event.now += 3.0
        return input

    assert clock.sampler(run, [(1,)], graph=False)() == 3e-3
    assert 0 < clock.sampler(run, [(1,), (2,)], graph=False, wait=waited.append)() < 1
    assert waited == [1]


def test_peak_memory_is_above_what_was_held(device):
    assert CudaClock(CPU).peak(lambda: None) == 500


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


def test_an_interruption_that_was_swallowed_comes_again(monkeypatch):
    monkeypatch.setattr(timer, "REPEAT", 0.1)
    start = time.monotonic()
    with pytest.raises(OutOfTime), Deadline(0.1).limit():
        with suppress(OutOfTime):
            time.sleep(5)
        time.sleep(5)
    assert time.monotonic() - start < 2
