"""What the GPU's clock does around a sample, with a stand-in for the device."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from bench.cuda_clock import CudaClock
from tritonlstm.tuning import timing

CPU = torch.device("cpu")


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
        device.run = lambda: seen.append((input.item(), int(clock._scratch.sum())))
        return input * 2

    arguments = [(torch.tensor(float(each)),) for each in range(3)]
    sample = clock.sampler(run, arguments, graph=True)
    for _ in range(4):
        clock._scratch.fill_(1)
        assert sample() == 2e-3
    assert seen == [(0.0, 0), (1.0, 0), (2.0, 0), (0.0, 0)] and device.replays == 4
    assert clock._scratch.numel() == 200
    assert [each.item() for (each,) in arguments] == [0.0, 1.0, 2.0]  # only a copy was overwritten


def test_a_call_is_timed_by_events_and_a_foreign_queue_by_the_machine(device):
    clock, waited = CudaClock(CPU), []

    def run(input: int) -> int:
        Event.now += 3.0
        return input

    assert clock.sampler(run, [(1,)], graph=False)() == 3e-3
    assert 0 < clock.sampler(run, [(1,), (2,)], graph=False, wait=waited.append)() < 1
    assert waited == [1]


def test_peak_memory_is_above_what_was_held(device):
    assert CudaClock(CPU).peak(lambda: None) == 500
