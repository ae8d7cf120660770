"""A stand-in for a CUDA device, as far as timing needs one."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch


class Device:
    """Streams that are current or not, random states, graphs that run again what was captured, and a time.

    A capture fails as a real one does: it ends with an error of its own, before it gives the stream back. An event is
    over at once, unless it was recorded while the device slept for longer than the host takes to launch.
    """

    def __init__(self):
        self.launching = 0  # cycles that the host needs for a launch
        self.sleeps = []
        self.current = self.default = SimpleNamespace(name="default", wait_stream=lambda other: None)
        self.modes, self.states = [], []
        self.now = self.replays = 0
        self.run = lambda: None
        self.generator = SimpleNamespace(clone_state=lambda: "a copy", graphsafe_set_state=self.states.append)

    @contextmanager
    def stream(self, chosen):
        before, self.current = self.current, chosen
        yield
        self.current = before

    @contextmanager
    def graph(self, graph, capture_error_mode: str):
        self.modes.append(capture_error_mode)
        before, self.current = self.current, SimpleNamespace(name="capturing")
        try:
            yield
        except ValueError:
            raise RuntimeError("the capture was invalidated") from None
        self.current = before

    def replay(self) -> None:
        self.run()
        self.replays += 1
        self.now += 2.0

    def event(self, enable_timing: bool):
        event = SimpleNamespace(at=None, synchronize=lambda: None)
        event.record = lambda: setattr(event, "at", self.now)
        event.elapsed_time = lambda end: end.at - event.at
        event.query = lambda: self.sleeps[-1] <= self.launching if self.sleeps else True
        return event

    @classmethod
    def install(cls, monkeypatch: pytest.MonkeyPatch) -> "Device":
        """One in the place of CUDA's, under a clock whose device is the CPU."""
        device = cls()
        for name, fake in device._fakes().items():
            monkeypatch.setattr(torch.cuda, name, fake)
        return device

    def _fakes(self) -> dict:
        return {
            "current_stream": lambda: self.current,
            "set_stream": lambda chosen: setattr(self, "current", chosen),
            "Stream": lambda: SimpleNamespace(name="side", wait_stream=lambda other: None),
            "stream": self.stream,
            "CUDAGraph": lambda: SimpleNamespace(replay=self.replay),
            "graph": self.graph,
            "default_generators": [self.generator],
            "current_device": lambda: 0,
            "synchronize": lambda device: None,
            "get_device_properties": lambda device: SimpleNamespace(L2_cache_size=100),
            "Event": self.event,
            "_sleep": self.sleeps.append,
        }
