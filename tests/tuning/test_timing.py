"""Time in turns, and what the clock does on a device, with a stand-in for it."""

import inspect
import itertools
from types import SimpleNamespace

import pytest
import torch

from tests.support.cuda import Device
from tritonlstm.tuning import timing, tune
from tritonlstm.tuning.timing import CudaClock, interleave


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setattr(timing, "COLD_BYTES", 0)
    return Device.install(monkeypatch)


@pytest.fixture
def clock(device: Device) -> CudaClock:
    return CudaClock(torch.device("cpu"))


def test_torch_has_what_the_stand_in_stands_for():
    assert list(inspect.signature(torch.cuda._sleep).parameters) == ["cycles"]
    assert "capture_error_mode" in inspect.signature(torch.cuda.graph.__init__).parameters
    assert "enable_timing" in inspect.signature(torch.cuda.Event.__new__).parameters
    for name in ("record", "query", "synchronize", "elapsed_time"):
        assert callable(getattr(torch.cuda.Event, name))


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


def test_the_backward_pass_runs_before_the_capture_too(device: Device):
    """Where cuDNN chooses for autograd's thread."""
    where = []

    class Traced(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
            where.append(device.current.name)
            return grad

    leaf = torch.ones((), requires_grad=True)
    timing.capture(lambda: torch.autograd.grad(Traced.apply(leaf), leaf))
    assert where == ["side"] * 3 + ["capturing"]


def trace_reads(clock: CudaClock, events: list[str]) -> None:
    """Have what fills the cache with other data write itself down."""
    clock._other = SimpleNamespace(sum=lambda: events.append("read"))


def test_a_replay_sees_the_next_input_and_a_cold_cache(device: Device, clock: CudaClock):
    assert clock._other.nbytes == 200  # twice the cache
    seen = []
    trace_reads(clock, seen)

    def run(input: torch.Tensor) -> torch.Tensor:
        device.run = lambda: seen.append(input.item())
        return input * 2

    arguments = [(torch.tensor(float(each)),) for each in range(3)]
    sample = clock.sampler(run, arguments)
    for _ in range(4):
        assert sample() == 2e-3
    assert seen == ["read", 0.0, "read", 1.0, "read", 2.0, "read", 0.0] and device.replays == 4
    assert [each.item() for (each,) in arguments] == [0.0, 1.0, 2.0]  # only a copy was overwritten


def test_a_hot_cache_holds_what_the_same_run_left(device: Device, clock: CudaClock):
    seen = []
    trace_reads(clock, seen)
    sample = clock.sampler(lambda: None, cold=False)
    device.run = lambda: seen.append(len(device.sleeps))
    assert sample() == 2e-3
    assert seen == [0, 1], "the first run is over before the measured one is queued"


def test_a_replay_never_waits_for_the_host(device: Device, clock: CudaClock):
    first, seen = timing._SLEEP_CYCLES, []
    trace_reads(clock, seen)
    sample = clock.sampler(lambda: None)
    device.launching = 5 * first
    assert sample() == sample() == 2e-3
    assert device.sleeps == [first, 2 * first, 4 * first, 8 * first, 8 * first]
    assert len(seen) == device.replays == 5, "each attempt has a cold cache"


def test_a_run_that_waits_for_the_device_cannot_be_timed(device: Device, clock: CudaClock):
    device.launching = 2**40
    with pytest.raises(RuntimeError, match="not launched within 2147483648 cycles"):
        clock.sampler(lambda: None)()


def test_a_call_is_timed_from_an_idle_device_and_a_foreign_queue_by_the_host(
    device: Device, clock: CudaClock, monkeypatch: pytest.MonkeyPatch
):
    events = []
    trace_reads(clock, events)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("idle"))

    def run(input: int) -> int:
        device.now += 3.0
        events.append(input)
        return input

    assert clock.sampler(run, [(1,)], graph=False)() == 3e-3
    assert 0 < clock.sampler(run, [(2,), (3,)], graph=False, wait=lambda result: events.append("waited"))() < 1
    assert events == ["read", "idle", 1, "read", "idle", 2, "waited"] and not device.sleeps


@pytest.mark.parametrize(("nbytes", "sets"), [(2**40, 2), (2**28, 3), (1, timing.ROTATED)])
def test_rotated_launches_find_a_cold_cache_or_a_hot_one(nbytes: int, sets: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timing, "COLD_BYTES", 3 * 2**28)
    launched, bound = [], itertools.count()

    def bind():
        index = next(bound)
        return lambda: launched.append(index)

    rotation = timing.Rotation.of(bind, nbytes)
    rotation.cold()
    assert launched == [index % sets for index in range(timing.ROTATED)]
    launched.clear()
    rotation.hot()
    assert launched == [0] * timing.ROTATED


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


def test_the_tuner_times_launches_cold_and_hot(device: Device, clock: CudaClock, monkeypatch: pytest.MonkeyPatch):
    launched = []
    rotation = timing.Rotation([lambda: launched.append("own"), lambda: launched.append("another's")])
    monkeypatch.setattr(tune, "_ROUNDS", 1)
    monkeypatch.setattr(clock, "sampler", lambda run, cold=True: lambda: run() or (8.0 if cold else 2.0))
    assert tune._time(clock, [rotation]) == [[4.0 / timing.ROTATED]]
    assert launched.count("own") == 3 * 1.5 * timing.ROTATED and launched.count("another's") == 3 * timing.ROTATED / 2


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
