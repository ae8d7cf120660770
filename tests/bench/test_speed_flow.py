"""The whole flow of `make gpu-bench` and `make bench`, on a CPU with tiny cases and a clock of its own."""

import itertools
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
import torch

from bench import deadline, flow, gpu, rows
from bench.deadline import Deadline, OutOfTime
from bench.environment import ROOT, Environment, results_folder
from bench.flow import Point, measure
from bench.measure import WallClock, interleave
from bench.providers import ALL, COMPILERS, CONV_FLOOR, EAGER, OURS, Provider
from bench.providers.protocol import of_stack
from bench.rows import Rows, read
from bench.table import best_eager, points, speed_up, table
from tests.bench.tiny import TINY
from tritonlstm.tuning.cases import CASES

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


def sampled_once_wrongly(name: str) -> Provider:
    """A contender that is right when it is checked and prepared, and raises when it is timed."""

    def build(given):
        built = EAGER.build(given)
        calls = itertools.count()

        def infer(input):
            if next(calls) > 2:  # checked, and twice for its memory
                raise RuntimeError("late")
            return built.infer(input)

        return replace(built, infer=infer)

    return Provider(name, build)


def test_an_error_while_timing_is_its_contenders_alone(collected):
    contenders = OURS, sampled_once_wrongly("late"), CONV_FLOOR, EAGER
    measure(point(*contenders, modes=["inference"]), Quick(), collected, Deadline(HOUR), lambda mode: 3)
    got = by_provider(collected.all)
    assert {name: row.status for name, row in got.items()} == {
        "tritonlstm": rows.OK,
        "late": rows.FAILED,
        "conv floor": rows.OK,
        "eager": rows.OK,
    }
    assert got["late"].reason == "RuntimeError: late" and got["eager"].samples == 3


@pytest.mark.parametrize("failing", ["why_absent", "reset", "free"])
def test_no_error_ends_the_run(failing: str, collected, monkeypatch):
    def fail(*arguments) -> None:
        raise RuntimeError("an earlier launch failed")

    if failing == "reset":
        monkeypatch.setattr(torch.compiler, "reset", fail)
    if failing == "free":
        monkeypatch.setattr(flow, "_free", fail)
    absent = fail if failing == "why_absent" else OURS.why_absent
    work = point(replace(OURS, why_absent=absent), CONV_FLOOR)
    measure(work, Quick(), collected, Deadline(HOUR), lambda mode: 1)
    got = [row for row in collected.all if row.provider == "tritonlstm"]
    assert [row.reason for row in got] == ["RuntimeError: an earlier launch failed"] * 2


def test_after_the_deadline_nothing_is_done(collected, monkeypatch):
    monkeypatch.setattr(torch.compiler, "reset", lambda: pytest.fail("there is no time for it"))
    monkeypatch.setattr(flow, "_free", torch.compiler.reset)
    measure(point(OURS, EAGER), Quick(), collected, Deadline(-1), lambda mode: 1)
    assert [row.status for row in collected.all] == [rows.DROPPED] * 4


def test_a_compiler_takes_no_more_than_its_time(collected):
    slow = Provider("slow", lambda given: time.sleep(60), seconds=0.2)
    measure(point(slow, OURS, modes=["inference"]), Quick(), collected, Deadline(HOUR), lambda mode: 1)
    got = by_provider(collected.all)
    assert (got["slow"].status, got["slow"].reason) == (rows.DROPPED, "it took more than 0.2 s")
    assert got["tritonlstm"].status == rows.OK


def test_calls_are_not_compared_with_graphs():
    key = rows.Key("contenders", "paper", "sizes", 3, "float32", "training")
    ours, floor, called = (
        rows.Row(key, name, True, rows.OK, "", launch, ms, ms, ms)
        for name, launch, ms in (("tritonlstm", "graph", 2.0), ("conv floor", "graph", 1.0), ("eager", "calls", 9.0))
    )
    group = rows.with_floor([ours, floor, called], "conv floor")
    assert [row.x_conv_floor for row in group] == [2.0, 1.0, None]
    assert speed_up(called, group) is None
    assert speed_up(replace(called, launch="graph"), group) == 4.5
    (line,) = (line for line in table(group).splitlines() if line.startswith("  eager"))
    assert line.split()[:3] == ["eager", "calls", "9.000"]


def eager_rows(*formats: tuple[str, float | None, int | None], launch: str = "calls") -> list[rows.Row]:
    """Of one point, of each (name, ms, bytes); one without a time has failed."""
    key = rows.Key("contenders", "paper", "sizes", 3, "float32", "training")
    return [
        rows.Row(key, name, True, rows.FAILED if ms is None else rows.OK, "", launch, ms, ms, ms, 9, peak)
        for name, ms, peak in formats
    ]


def test_the_baseline_is_the_best_eager_format():
    last, contiguous = group = eager_rows(("eager", 4.0, 300), ("eager, contiguous", 3.0, 400))
    assert best_eager("calls", group) is contiguous
    assert best_eager("calls", group, "peak_bytes") is last
    assert best_eager("calls", [*group, *eager_rows(("tritonlstm", 1.0, 1), ("torch.compile", 1.0, 1))]) is contiguous
    assert best_eager("graph", group) is None
    assert best_eager("calls", [*group, *eager_rows(("eager", 1.0, 1), launch="graph")]) is contiguous


def test_a_format_that_was_not_measured_is_no_baseline():
    (alone,) = eager_rows(("eager", 4.0, None))
    (failed,) = eager_rows(("eager, contiguous", None, None))
    assert best_eager("calls", [alone]) is best_eager("calls", [failed, alone]) is alone
    assert best_eager("calls", [alone, failed], "peak_bytes") is None
    assert best_eager("calls", [failed]) is None


def test_the_table_compares_with_the_best_eager_format():
    group = eager_rows(("tritonlstm", 2.0, 150), ("eager", 4.0, 300), ("eager, contiguous", 3.0, 400))
    ours, last, contiguous = (line.split() for line in table(group).splitlines() if "(" in line and "calls" in line)
    assert ours[-5:] == ["1.00×", "0.67×", "0.0", "1.00×", "0.50×"]
    assert last[-5:] == ["2.00×", "1.33×", "0.0", "2.00×", "1.00×"]
    assert contiguous[-5:] == ["1.50×", "1.00×", "0.0", "2.67×", "1.33×"]


def test_a_cpu_is_told_with_its_vectors(collected):
    collected.add(eager_rows(("eager", 4.0, 300)))
    _, environment = read(collected.path)
    assert environment.device.endswith(f", {torch.backends.cpu.get_cpu_capability()}")
    assert len(environment.device.split(", ")[0]) > 1


def test_the_order_of_the_gpu_run():
    """What the time may not suffice for comes last: compilers on the large cases after "steps" and JAX."""
    work = [item for item in gpu.plan(CASES) if isinstance(item, Point)]
    runs = [(item.run, item.name) for item in work]
    assert runs.index(("max-autotune", "latency")) < runs.index(("steps", "nowcast")) < runs.index(("JAX", "paper"))
    assert runs.index(("JAX", "openstl")) < runs.index(("compiled", "paper"))
    assert not any(item.graph for item in work if item.run == "JAX")


def test_rows_are_replaced_at_once(collected, monkeypatch):
    measure(point(CONV_FLOOR), Quick(), collected, Deadline(HOUR), lambda mode: 1)
    before = collected.path.read_text()

    def fail(*arguments) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "_flat", fail)
    with pytest.raises(KeyboardInterrupt):
        collected.add([])
    assert collected.path.read_text() == before


def test_a_partial_run_leaves_the_whole_ones_results():
    whole, part = results_folder(CPU), results_folder(CPU, whole=False)
    assert part != whole
    assert part / "speed.csv" not in whole.parent.glob("*/speed.csv")


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
    work = [replace(item, providers=[each for each in item.providers if each not in COMPILERS])
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
    assert {"dW, all steps at once, bf16", "dW, all steps at once, fp16"} <= measured
    gates = {row.provider: row.reason for row in collected.all if row.key.run == "gates"}
    assert "of the limit" in gates["gates_forward, cold"] and gates["gates_forward, hot"] == ""
    single = {row.provider for row in collected.all if row.key.dtype == "float32"}
    assert "tritonlstm, recompute" in single
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


def test_an_alarm_that_was_swallowed_rings_again(monkeypatch):
    monkeypatch.setattr(deadline, "REPEAT", 0.1)
    start = time.monotonic()
    with pytest.raises(OutOfTime), Deadline(0.1).limit():
        with suppress(OutOfTime):
            time.sleep(5)
        time.sleep(5)
    assert time.monotonic() - start < 2


@pytest.mark.serial
def test_benchmarks_that_are_disabled_pass():
    """`pytest bench --benchmark-disable`, of a point against T, in a process of its own."""
    chosen = ["--benchmark-disable", "-k", "against_steps and odd-4"]
    command = [sys.executable, "-m", "pytest", "-q", "bench", *chosen]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "1 passed" in result.stdout and "tritonlstm, recompute" in result.stdout


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
        point(*(each for each in ALL if each not in COMPILERS)),
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
