"""Time in turns, and what the clock does on a device, with a stand-in for it."""

import itertools
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from tritonlstm.tuning import timing, tune
from tritonlstm.tuning.timing import CudaClock, interleave


class Device:
    """Streams that are current or not, random states, graphs that run again what was captured, and a time.

    A capture fails as a real one does: it ends with an error of its own, before it gives the stream back.
    """

    def __init__(self):
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
        return event

    def fakes(self) -> dict:
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
        }


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()
    for name, fake in found.fakes().items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(timing, "_LEAST_FLUSH", 0)
    return found


@pytest.fixture
def clock(device: Device) -> CudaClock:
    return CudaClock(torch.device("cpu"))


def test_a_capture_that_fails_leaves_stream_and_generator_as_they_were(device: Device):
    def run() -> None:
        if device.current.name == "capturing":
            raise ValueError("no such launch")

    with pytest.raises(RuntimeError, match="invalidated"):
        timing.capture(run)
    assert device.current is device.default
    assert device.states == ["a copy"]


def test_a_capture_leaves_other_threads_alone(device: Device):
    where = []
    replay = timing.capture(lambda: where.append(device.current.name) or "results")
    assert replay() == "results"
    assert where == ["side"] * 3 + ["capturing"]
    assert device.modes == ["thread_local"]
    assert device.current is device.default and device.states == []


def test_a_replay_sees_the_next_input_and_a_cold_cache(device: Device, clock: CudaClock):
    seen = []

    def run(input: torch.Tensor) -> torch.Tensor:
        device.run = lambda: seen.append((input.item(), int(clock._flush.sum())))
        return input * 2

    arguments = [(torch.tensor(float(each)),) for each in range(3)]
    sample = clock.sampler(run, arguments)
    for _ in range(4):
        clock._flush.fill_(1)
        assert sample() == 2e-3
    assert seen == [(0.0, 0), (1.0, 0), (2.0, 0), (0.0, 0)] and device.replays == 4
    assert clock._flush.numel() == 200
    assert [each.item() for (each,) in arguments] == [0.0, 1.0, 2.0]  # only a copy was overwritten


def test_a_call_is_timed_by_events_and_a_foreign_queue_by_the_host(device: Device, clock: CudaClock):
    waited = []

    def run(input: int) -> int:
        device.now += 3.0
        return input

    assert clock.sampler(run, [(1,)], graph=False)() == 3e-3
    assert 0 < clock.sampler(run, [(1,), (2,)], graph=False, wait=waited.append)() < 1
    assert waited == [1]


def test_the_tuner_times_replays_and_no_launches(device: Device, clock: CudaClock, monkeypatch: pytest.MonkeyPatch):
    calls, plans = [], []
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark

    def run() -> None:
        calls.append(device.current.name)
        plans.append(cudnn.benchmark)

    monkeypatch.setattr(tune, "_ROUNDS", 5)
    assert tune._time(clock, [run, run]) == [[2e-3] * 5] * 2
    assert device.replays == 2 * (2 + 5)  # two rounds to warm up
    assert calls == (["side"] * 3 + ["capturing"]) * 2
    assert all(plans) and cudnn.benchmark == before


def test_functions_take_turns():
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
    assert interleave({"a": lambda: next(durations)}, rounds=3, warmup=2) == {"a": [1.0, 2.0, 3.0]}


def test_the_function_that_fails_is_named():
    def fail() -> float:
        raise ValueError("too large")

    with pytest.raises(timing.Failed, match="too large") as failed:
        interleave({"good": lambda: 1.0, "bad": fail}, rounds=1)
    assert failed.value.name == "bad" and isinstance(failed.value.__cause__, ValueError)


def test_the_spread_of_times():
    assert timing.spread([3.0, 1.0, 2.0]) == (2.0, pytest.approx(1.4), pytest.approx(2.6))
    assert timing.spread([1.0]) == (1.0, 1.0, 1.0)
