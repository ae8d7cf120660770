"""What the tuner's timer does on a device, with a stand-in for it."""

from types import SimpleNamespace

import pytest
import torch

from tritonlstm.tuning import graphs, timing


class Device:
    """Streams that are current or not, random states, and a graph whose capture fails as a real one's does."""

    def __init__(self):
        self.current = self.default = SimpleNamespace(name="default", wait_stream=lambda other: None)
        self.modes, self.states = [], []
        self.generator = SimpleNamespace(clone_state=lambda: "a copy", graphsafe_set_state=self.states.append)
        self.fails = self.replays = 0

    def stream(self, chosen):
        return _Current(self, chosen)

    def graph(self, graph, capture_error_mode: str):
        self.modes.append(capture_error_mode)
        return _Capture(self)

    def fakes(self) -> dict:
        def replay() -> None:
            self.replays += 1

        return {
            "current_stream": lambda *device: self.current,
            "set_stream": lambda chosen: setattr(self, "current", chosen),
            "Stream": lambda *device: SimpleNamespace(name="side", wait_stream=lambda other: None),
            "stream": self.stream,
            "CUDAGraph": lambda: SimpleNamespace(replay=replay),
            "graph": self.graph,
            "default_generators": [self.generator],
            "current_device": lambda: 0,
            "synchronize": lambda *device: None,
            "Event": lambda enable_timing: SimpleNamespace(record=lambda: None, elapsed_time=lambda end: 2.0),
        }


class _Current:
    def __init__(self, device: Device, chosen):
        self.device, self.chosen = device, chosen

    def __enter__(self):
        self.before, self.device.current = self.device.current, self.chosen

    def __exit__(self, *error):
        self.device.current = self.before


class _Capture(_Current):
    """Ends with an error of its own, before it gives the stream back, where what it captured failed."""

    def __init__(self, device: Device):
        super().__init__(device, SimpleNamespace(name="capturing"))

    def __exit__(self, kind, *error):
        if kind is not None:
            raise RuntimeError("the capture was invalidated")
        super().__exit__()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()
    for name, fake in found.fakes().items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(timing, "flush_buffer", lambda device: torch.ones(4))
    return found


def test_a_capture_that_fails_leaves_stream_and_generator_as_they_were(device: Device):
    def run() -> None:
        if device.current.name == "capturing":
            raise ValueError("no such launch")

    with pytest.raises(RuntimeError, match="invalidated"):
        graphs.capture(run)
    assert device.current is device.default
    assert device.states == ["a copy"]


def test_a_capture_leaves_other_threads_alone(device: Device):
    where = []
    _, results = graphs.capture(lambda: where.append(device.current.name) or "results")
    assert results == "results"
    assert where == ["side"] * 3 + ["capturing"]
    assert device.modes == ["thread_local"]
    assert device.current is device.default and device.states == []


def test_the_timer_times_replays_and_no_launches(device: Device):
    calls, plans = [], []
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark

    def run() -> None:
        calls.append(device.current.name)
        plans.append(cudnn.benchmark)

    assert timing.CudaTimer(rounds=5)([run, run]) == [[2e-3] * 5] * 2
    assert device.replays == 10
    assert calls == (["side"] * 3 + ["capturing"]) * 2
    assert all(plans) and cudnn.benchmark == before


def test_in_turn():
    assert [timing.order(turn, 3) for turn in range(6)] == [
        [0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1], [2, 0, 1], [1, 0, 2],
    ]  # fmt: skip
