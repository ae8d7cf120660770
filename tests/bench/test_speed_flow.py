"""The whole flow of `make gpu-bench` and `make bench`, on a CPU with tiny cases and a clock of its own."""

import itertools
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from bench import gpu, rows
from bench.deadline import Deadline, OutOfTime
from bench.environment import Environment
from bench.flow import Point, measure
from bench.measure import WallClock, interleave
from bench.providers import ALL, COMPILED, CONV_FLOOR, EAGER, MAX_AUTOTUNE, OURS, Provider
from bench.providers.protocol import of_stack
from bench.rows import Rows, read
from bench.table import points, speed_up, table
from tests.bench.tiny import TINY

CPU = torch.device("cpu")
HOUR = 3600.0


@pytest.fixture
def collected(tmp_path):
    return Rows(tmp_path / "cpu" / "speed.csv", Environment.of(CPU, "a test"))


class Quick(WallClock):
    """Without torch's profiler, which takes a second to start."""

    def peak(self, run) -> int:
        run()
        return 1000


def raising(error: BaseException) -> Provider:
    def build(given):
        raise error

    return Provider(type(error).__name__, build)


def off_by_a_little(input, layers):
    from bench.providers.eager import stack

    output, states = stack(input, layers)
    return 1.01 * output, states


def point(*providers: Provider, **options) -> Point:
    return Point("contenders", "paper", TINY, torch.float32, providers, **options)


def by_provider(rows_: list) -> dict:
    return {row.provider: row for row in rows_}


def test_each_contender_gets_a_row_whatever_it_does(collected):
    wrong = Provider("wrong", partial(of_stack, off_by_a_little))
    absent = replace(EAGER, name="absent", why_absent=lambda device: "not installed")
    errors = [torch.OutOfMemoryError("CUDA out of memory. Tried"), ValueError("no such plan"), OutOfTime()]
    measure(
        point(OURS, CONV_FLOOR, EAGER, wrong, absent, *map(raising, errors), modes=["training"]),
        WallClock(), collected, Deadline(HOUR), lambda mode: 3,
    )  # fmt: skip
    got = by_provider(collected.all)
    assert {name: row.status for name, row in got.items()} == {
        "tritonlstm": rows.OK,
        "conv floor": rows.OK,
        "eager": rows.OK,
        "wrong": rows.WRONG,
        "absent": rows.ABSENT,
        "OutOfMemoryError": rows.OUT_OF_MEMORY,
        "ValueError": rows.FAILED,
        "OutOfTime": rows.DROPPED,
    }
    assert got["wrong"].median_ms is None and "output: error" in got["wrong"].reason
    assert got["absent"].reason == "not installed"
    assert got["ValueError"].reason == "ValueError: no such plan"
    ours = got["tritonlstm"]
    assert 0 < ours.p20_ms <= ours.median_ms <= ours.p80_ms and ours.samples == 3
    assert ours.x_conv_floor == ours.median_ms / got["conv floor"].median_ms
    assert ours.peak_bytes > TINY.steps * 4 * TINY.batch * TINY.height * TINY.width * 4 * 7  # the gates that it keeps
    assert got["conv floor"].peak_bytes is None


def test_what_is_saved_is_what_is_read(collected):
    measure(point(OURS, CONV_FLOOR, raising(ValueError('a, "b"'))), Quick(), collected, Deadline(HOUR), lambda mode: 2)
    got, environment = read(collected.path)
    assert got == collected.all
    assert environment.command == "a test" and environment.torch == torch.__version__


def test_a_point_is_saved_when_it_is_done(collected):
    seen = []

    class Spy(Quick):
        def settle(self):
            seen.append(len(read(collected.path)[0]) if collected.path.exists() else 0)

    measure(point(OURS, CONV_FLOOR), Spy(), collected, Deadline(HOUR), lambda mode: 2)
    assert seen == [0, 2]


def test_the_plan_of_the_gpu_run(collected):
    """Everything that `make gpu-bench` measures, in its order; the compiled contenders, slow here, but once."""
    work = gpu.plan({"nowcast": TINY.but(channels=(4,)), "odd": TINY.but(channels=(3,))}, cold_bytes=1)
    work = [replace(item, providers=[each for each in item.providers if each not in (COMPILED, MAX_AUTOTUNE)])
            if isinstance(item, Point) else item for item in work]  # fmt: skip
    said = []
    gpu.run(work, Quick(), collected, Deadline(HOUR), 2, said.append)
    assert len(said) == len(work)
    done = {row.key.run for row in collected.all if row.status == rows.OK}
    assert done == {"contenders", "gates", "first-measurements", "compiled", "steps", "JAX", "calls", "max-autotune"}
    bad = [row for row in collected.all if row.status not in (rows.OK, rows.ABSENT)]
    assert not bad, [(row.provider, row.reason) for row in bad]
    measured = {row.provider for row in collected.all if row.key.run == "first-measurements"}
    assert {"forward, bf16", "forward, fp16", "dW, step by step", "dX and dH together"} <= measured
    assert "of the limit" in next(row.reason for row in collected.all if row.provider == "gates_forward")
    assert gpu.finish(collected) == 0
    assert {path.name for path in collected.path.parent.iterdir()} == {
        "speed.csv",
        "bars.png",
        "time.png",
        "memory.png",
    }


def test_what_the_time_does_not_suffice_for_is_dropped_and_told(collected, capsys):
    work = [point(OURS, CONV_FLOOR, modes=["inference"]), point(OURS, modes=["training"])]
    slow = Provider("slow", lambda given: time.sleep(60))
    gpu.run([point(slow), *work, *gpu.parts.gates("paper", TINY, cold_bytes=1)], Quick(), collected, Deadline(0.5), 2)
    assert {row.status for row in collected.all} == {rows.DROPPED}
    assert len(collected.all) == 2 + 2 + 1 + 4
    gpu.finish(collected)
    assert "dropped for want of time" in capsys.readouterr().out


def test_a_wrong_result_of_ours_fails_the_run(collected, capsys):
    measure(
        point(replace(OURS, build=partial(of_stack, off_by_a_little))),
        Quick(),
        collected,
        Deadline(HOUR),
        lambda mode: 1,
    )
    assert gpu.finish(collected) == 1
    assert "tritonlstm, paper, training: wrong" in capsys.readouterr().err


def test_without_cuda_it_says_so_and_fails(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 1
    assert "no CUDA device" in capsys.readouterr().err


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


def test_contenders_take_turns():
    order = []
    samplers = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    times = interleave(samplers, rounds=12, warmup=0)
    rounds = [tuple(order[start : start + 3]) for start in range(0, len(order), 3)]
    assert len(rounds) == 12 and all(sorted(each) == list("abc") for each in rounds)
    assert {each[0] for each in rounds} == set("abc") == {each[-1] for each in rounds}
    follows = [order for each in rounds for order in itertools.pairwise(each)]
    assert all(follows.count((left, right)) == 4 for left in "abc" for right in "abc" if left != right)
    assert all(len(each.durations) == 12 for each in times.values())


def test_warm_up_is_left_out():
    durations = iter([9.0, 9.0, 1.0, 2.0, 3.0])
    times = interleave({"a": lambda: next(durations)}, rounds=3, warmup=2)["a"]
    assert times.durations == [1.0, 2.0, 3.0] and times.median == 2.0


def test_ratios_compare_like_with_like(collected):
    """A contender without peepholes is compared with our layer without."""
    measure(
        point(*(each for each in ALL if each not in (COMPILED, MAX_AUTOTUNE))),
        Quick(),
        collected,
        Deadline(HOUR),
        lambda mode: 2,
    )
    ((_, group), _) = points(collected.all)
    got = by_provider(group)
    bare = replace(got["tritonlstm, no peephole"], provider="another", median_ms=12.0)
    assert speed_up(bare, group) == 12.0 / got["tritonlstm, no peephole"].median_ms
    assert speed_up(got["eager"], group) == got["eager"].median_ms / got["tritonlstm"].median_ms
    assert "not installed" in table(collected.all) or "Flax" in got
