"""The whole flow of `make gpu-bench` and `make bench`, on a CPU with tiny cases and a clock of its own."""

import itertools
import math
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas
import pytest
import torch

from bench import flow, parts, plans, report, rows
from bench.flow import Point, Session
from bench.providers import ALL, COMPILERS, CONV_FLOOR, EAGER, NCHW, OURS
from bench.providers.protocol import Provider
from bench.providers.torch_layers import build, eager
from bench.rows import MODES, Row, Rows, environment, results_folder
from bench.timer import CpuClock, Deadline, OutOfTime
from tests.bench.tiny import TINY, VECTORS
from tests.support.cuda import Device
from tritonlstm.tuning import timing

CPU = torch.device("cpu")


@pytest.fixture
def collected(tmp_path):
    return Rows(tmp_path / "cpu" / "speed.csv", environment(CPU, "a test"))


@pytest.fixture
def quick(monkeypatch):
    """Without torch's profiler, which takes a second to start."""

    def peak_memory(run, device) -> int:
        run()
        return 1000

    monkeypatch.setattr(flow, "peak_memory", peak_memory)


@pytest.fixture
def few_launches(monkeypatch: pytest.MonkeyPatch):
    """Of the gate kernels, which are interpreted here."""
    monkeypatch.setattr(timing, "ROTATED", 2)
    monkeypatch.setattr(timing, "COLD_BYTES", 1)


def raising(error: BaseException) -> Provider:
    def build(given):
        raise error

    return Provider(type(error).__name__, build)


def off_by_a_little(input, layers):
    output, states = eager(input, layers)
    return 1.01 * output, states


def measure(
    collected: Rows, *providers: Provider, modes=MODES, deadline=None, rounds=1, limit=math.inf
) -> dict[str, Row]:
    """The rows of the last mode, by provider."""
    point = Point("baselines", "paper", TINY, torch.float32, providers, modes=modes)
    measure_all([point], Session(CpuClock(), collected, deadline or Deadline(), rounds, limit))
    return {row.provider: row for row in collected.all}


def measure_all(work: list, session: Session) -> None:
    for item in work:
        for turns in item.prepare(session).values():
            session.measure(turns)


def test_each_provider_gets_a_row_whatever_it_does(collected):
    wrong = Provider("wrong", partial(build, off_by_a_little))
    absent = replace(EAGER, name="absent", why_absent=lambda device: "not installed")
    compiling = replace(EAGER, name="compiling", compiles=True)
    errors = [torch.OutOfMemoryError("CUDA out of memory. Tried"), ValueError("no such plan"), OutOfTime()]
    providers = OURS, CONV_FLOOR, EAGER, wrong, absent, compiling, *map(raising, errors)
    got = measure(collected, *providers, modes=["training"], rounds=3)
    assert {name: row.status for name, row in got.items()} == {
        "tritonlstm": rows.OK,
        "convolutions": rows.OK,
        "eager": rows.OK,
        "wrong": rows.WRONG,
        "absent": rows.ABSENT,
        "compiling": rows.OK,
        "OutOfMemoryError": rows.OUT_OF_MEMORY,
        "ValueError": rows.FAILED,
        "OutOfTime": rows.DROPPED,
    }
    assert got["wrong"].median_ms is None and "output: error" in got["wrong"].reason
    assert got["absent"].reason == "not installed"
    assert got["ValueError"].reason == "ValueError: no such plan"
    ours = got["tritonlstm"]
    assert 0 < ours.p20_ms <= ours.median_ms <= ours.p80_ms and ours.samples == 3
    assert ours.peak_bytes > TINY.steps * 4 * TINY.batch * TINY.height * TINY.width * 4 * 7  # the gates that it keeps
    assert got["convolutions"].peak_bytes is None
    assert got["compiling"].compile_seconds > 0 and got["eager"].compile_seconds is None


@pytest.mark.usefixtures("quick")
def test_an_error_while_timing_is_its_providers_alone(collected):
    def build(given):
        """Right when it is checked and prepared."""
        built, calls = EAGER.build(given), itertools.count()

        def infer(input):
            if next(calls) > 2:  # checked, and twice for its memory
                raise RuntimeError("late")
            return built.infer(input)

        return replace(built, infer=infer)

    providers = OURS, Provider("late", build), CONV_FLOOR, EAGER
    got = measure(collected, *providers, modes=["inference"], rounds=3)
    failed = {"late": rows.FAILED}
    assert {name: row.status for name, row in got.items()} == dict.fromkeys(got, rows.OK) | failed
    assert list(got) == ["tritonlstm", "late", "convolutions", "eager"]
    assert got["late"].reason == "RuntimeError: late" and got["eager"].samples == 3


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("failing", ["why_absent", "reset", "free"])
def test_no_error_ends_the_run(failing: str, collected, monkeypatch):
    def fail(*arguments) -> None:
        raise RuntimeError("an earlier launch failed")

    if failing == "reset":
        monkeypatch.setattr(torch.compiler, "reset", fail)
    if failing == "free":
        monkeypatch.setattr(flow, "free_memory", fail)
    absent = fail if failing == "why_absent" else OURS.why_absent
    measure(collected, replace(OURS, why_absent=absent), CONV_FLOOR)
    got = [row for row in collected.all if row.provider == "tritonlstm"]
    assert [row.reason for row in got] == ["RuntimeError: an earlier launch failed"] * 2


def test_after_the_deadline_nothing_is_done(collected, monkeypatch):
    monkeypatch.setattr(torch.compiler, "reset", lambda: pytest.fail("there is no time for it"))
    monkeypatch.setattr(flow, "free_memory", torch.compiler.reset)
    measure(collected, OURS, EAGER, deadline=Deadline(-1))
    assert [row.status for row in collected.all] == [rows.DROPPED] * 4


@pytest.mark.usefixtures("quick")
def test_a_compiler_takes_no_more_than_its_time(collected):
    torch.compiler.reset()  # imports PyTorch's compilers: it would be broken for others if the limit interrupted it
    slow = Provider("slow", lambda given: time.sleep(60), compiles=True)
    got = measure(collected, slow, OURS, modes=["inference"], limit=0.2)
    assert (got["slow"].status, got["slow"].reason) == (rows.DROPPED, "it took more than 0.2 s")
    assert got["tritonlstm"].status == rows.OK


def test_rows_are_replaced_at_once(collected, monkeypatch):
    measure(collected, CONV_FLOOR)
    before = collected.path.read_text()

    def fail(*arguments) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rows.csv.DictWriter, "writerows", fail)
    with pytest.raises(KeyboardInterrupt):
        collected.add([])
    assert collected.path.read_text() == before


def test_rows_replace_no_device():
    with pytest.raises(ValueError, match="/dev/null: expected a regular file, got a character device"):
        Rows(Path("/dev/null"), environment(CPU, "a test"))


def test_a_run_may_write_its_results_and_go_on(tmp_path: Path):
    """They are part of the tree, but do not change what is timed."""

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    assert rows.commit(tmp_path) == "unknown"
    results, code = tmp_path / "bench/results/gpu/speed.csv", tmp_path / "code.py"
    results.parent.mkdir(parents=True)
    for path in (results, code):
        path.touch()
    git("init", "--quiet")
    git("add", ".")
    git("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "commit", "--quiet", "-m", "first")
    clean = rows.commit(tmp_path)
    assert len(clean) == 12
    results.write_text("new")
    assert rows.commit(tmp_path) == clean
    code.write_text("new")
    assert rows.commit(tmp_path) == f"{clean}-dirty"


def test_a_partial_run_leaves_the_whole_ones_results():
    whole, part = results_folder(CPU), results_folder(CPU, whole=False)
    assert part != whole
    assert part / "speed.csv" not in whole.parent.glob("*/speed.csv")


@pytest.mark.usefixtures("quick")
def test_what_is_saved_is_what_is_read(collected):
    collected.environment["commit"] = "123456789012"
    measure(collected, OURS, CONV_FLOOR, raising(ValueError('a, "b"')))
    read = report.read(collected.path)
    # pandas 2 reads a number's last digit wrong now and then.
    pandas.testing.assert_frame_equal(read, report.frame(collected.records()), rtol=1e-12)
    assert set(read.command) == {"a test"} and set(read.torch) == {torch.__version__}
    assert read.device[0].endswith(f", {torch.backends.cpu.get_cpu_capability()}")


@pytest.mark.usefixtures("quick")
def test_a_run_goes_on_with_what_another_did_not_complete(collected):
    """The first completes one mode, has no time for the other, and fails in a point of its own."""
    point = Point("baselines", "paper", TINY, torch.float32, [OURS, CONV_FLOOR])
    whole = Session(CpuClock(), collected, Deadline(), 2)
    turns = point.prepare(whole)
    whole.measure(turns["inference"])
    replace(whole, deadline=Deadline(-1)).measure(turns["training"])
    failing = Point("calls", "paper", TINY, torch.float32, [raising(ValueError("no such plan"))], modes=["inference"])
    whole.measure(failing.prepare(whole)["inference"])
    first = collected.records()

    resumed = Rows(collected.path, environment(CPU, "another command"), resume=True)
    assert {row.point for row, _ in resumed.kept} == {point.point("inference"), failing.point("inference")}
    own = replace(whole, collected=resumed)
    own.measure(point.prepare(own)["training"])
    assert [row.point for row in resumed.all] == [point.point("training")] * 2
    read = report.read(collected.path)
    assert list(read.status) == [rows.OK, rows.OK, rows.FAILED, rows.OK, rows.OK]
    assert list(read.command) == ["a test"] * 3 + ["another command"] * 2
    kept = [record for record in first if record["mode"] == "inference"]
    assert resumed.records()[:3] == kept, "their figures are as they were"


@pytest.mark.usefixtures("quick")
def test_a_run_of_another_commit_is_not_resumed(collected):
    assert Rows(collected.path, collected.environment, resume=True).kept == [], "nothing there to resume"
    measure(collected, OURS)
    other = collected.environment | {"commit": "0123456789ab"}
    with pytest.raises(ValueError, match=r"expected rows of the same environment, got commit '.*', not '0123456789ab'"):
        Rows(collected.path, other, resume=True)
    assert Rows(collected.path, other).kept == []
    collected.path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected a file of results, got one without case, "):
        Rows(collected.path, other, resume=True)


@pytest.mark.usefixtures("quick")
def test_a_mode_is_saved_when_it_is_done(collected, monkeypatch):
    seen = []

    def settle(device) -> None:
        seen.append(len(report.read(collected.path)) if collected.path.exists() else 0)

    monkeypatch.setattr(flow, "settle", settle)
    measure(collected, OURS, CONV_FLOOR)
    assert seen == [0, 2]


@pytest.mark.usefixtures("quick")
def test_without_pandas_the_run_says_so_and_where_the_rows_are(collected, monkeypatch, capsys):
    measure(collected, OURS)
    monkeypatch.setitem(sys.modules, "bench.report", None)  # importing it raises
    monkeypatch.delattr("bench.report")
    flow.show(collected)
    printed = capsys.readouterr().out
    assert "no tables and plots: " in printed and f"written to {collected.path}" in printed


def items(sections: list[plans.Section]) -> list:
    return [item for section in sections for item in section.items]


def test_the_order_of_the_gpu_run():
    """cuDNN's rate for each case comes first, the main ones before the others; compilers on the large cases, which may
    be dropped, come after "steps" and JAX."""
    sections = plans.on_gpu()
    assert sections[0].name == "convolutions"
    cases = list(dict.fromkeys(item.name for item in sections[0].items))
    assert cases[: len(plans.MAIN)] == [*plans.MAIN] and sorted(cases) == sorted(plans.CASES)
    assert len({section.name for section in sections}) == len(sections)
    work = [item for item in items(sections) if isinstance(item, Point)]
    runs = [(item.run, item.name) for item in work]
    assert runs.index(("max-autotune", "latency")) < runs.index(("steps", "nowcast")) < runs.index(("JAX", "paper"))
    assert runs.index(("JAX", "openstl")) < runs.index(("compiled", "paper"))
    assert not any(item.graph for item in work if item.run == "JAX")


def test_every_section_of_the_gpu_run_has_a_limit_and_no_point_twice():
    sections = plans.on_gpu()
    assert all(0 < section.seconds <= 240 for section in sections)
    points = Counter(item.point(mode) for item in items(sections) for mode in item.modes)
    assert max(points.values()) == 1, "a run that is resumed could not tell them apart"


def test_the_cpu_run_has_every_case_and_only_training_against_steps():
    work = items(plans.on_cpu(max_autotune=True))
    assert Counter(item.run for item in work) == {
        "baselines": len(plans.SMALL),
        "steps": 4,
        "single steps": len(plans.STEPS),
    }
    assert [item.case.steps for item in work if item.run == "steps"] == [4, 8, 16, 32]
    assert all(tuple(item.modes) == (("training",) if item.run == "steps" else MODES) for item in work)
    for item in work:
        if item.run == "single steps":
            continue
        assert {"tritonlstm", "torch.compile", "torch.compile max-autotune"} <= {each.name for each in item.providers}
    assert all(item.run == "baselines" for item in items(plans.on_cpu({"paper": TINY}, {})))


def test_sections_are_chosen_by_name():
    sections = plans.on_gpu()
    gates, float32 = plans.chosen(sections, ["float32", "gates"], compilers=False)
    assert (gates.name, float32.name) == ("gates", "float32")
    assert not any(
        set(COMPILERS) & set(item.providers)
        for item in items(plans.chosen(sections, None, compilers=False))
        if isinstance(item, Point)
    )
    assert plans.chosen(sections, None) == sections
    with pytest.raises(ValueError, match=r"section: expected some of convolutions, baselines, .*, got gate$"):
        plans.chosen(sections, ["gates", "gate"])


@pytest.mark.usefixtures("quick", "few_launches")
@pytest.mark.parametrize(
    ("plan", "runs"),
    [
        (
            plans.on_gpu,
            {"baselines", "gates", "convolutions", "compiled", "steps", "JAX", "calls", "max-autotune", "single steps"},
        ),
        (plans.on_cpu, {"baselines", "steps", "single steps"}),
    ],
    ids=["gpu", "cpu"],
)
def test_everything_in_a_plan_is_measured(plan, runs: set[str], collected):
    """In its order, without the compilers, which are slow here."""
    cases = {"nowcast": TINY.but(channels=(4,)), "odd": TINY.but(channels=(3,))}
    steps = {"images": TINY, "vectors": VECTORS}
    work = items(plans.chosen(plan(cases, steps), None, compilers=False))
    measure_all(work, Session(CpuClock(), collected, Deadline(), 2))
    assert {row.run for row in collected.all if row.status == rows.OK} == runs
    bad = [row for row in collected.all if row.status not in (rows.OK, rows.ABSENT)]
    assert not bad, [(row.provider, row.reason) for row in bad]
    assert "tritonlstm, recompute" in {row.provider for row in collected.all if row.dtype == "float32"}
    assert flow.faults(collected.all) == []
    flow.show(collected)
    names = {path.name for path in collected.path.parent.iterdir()}
    assert names == {"speed.csv", "bars.png", "time.png", "memory.png"}


@pytest.mark.usefixtures("few_launches")
def test_the_parts_of_a_layer(collected):
    session = Session(CpuClock(), collected, Deadline(), 2)
    measure_all(parts.convolutions("paper", TINY) + parts.gates("paper", TINY), session)
    assert {row.provider for row in collected.all if row.run == "convolutions"} == {
        "forward",
        "dW, step by step",
        "dW, all steps at once",
        "dX and dH together",
        "dH by step, dX at once",
    }
    gates = [row for row in collected.all if row.run == "gates"]
    kernels = "gates_forward", "gates_backward"
    assert {row.provider for row in gates} == {f"{kernel}, {cache}" for kernel in kernels for cache in ("cold", "hot")}
    assert all(row.reason.endswith(" TB/s" if row in gates else " TFLOP/s") for row in collected.all)
    assert all(row.status == rows.OK for row in collected.all)


@pytest.mark.usefixtures("quick", "few_launches")
def test_on_a_device_everything_is_timed_as_graphs(collected, monkeypatch):
    """On a stand-in, whose replays take 2 ms. Calls take as long as it likes."""
    device = Device.install(monkeypatch)
    point = partial(Point, name="paper", case=TINY, dtype=torch.float32, modes=["training"])
    work = [
        *parts.convolutions("paper", TINY),
        point("baselines", providers=[OURS, NCHW, replace(EAGER, name="foreign", capturable=False)]),
        point("calls", providers=[OURS], graph=False),
        *parts.gates("paper", TINY),
    ]
    measure_all(work, Session(timing.CudaClock(CPU), collected, Deadline(), 2))
    assert {row.status for row in collected.all} == {rows.OK}
    calls = [row for row in collected.all if row.launch == rows.CALLS]
    assert [(row.run, row.provider) for row in calls] == [("baselines", "foreign"), ("calls", "tritonlstm")]
    for row in collected.all:
        if row.launch == rows.GRAPH:
            assert row.median_ms == (2.0 / 2 if row.run == "gates" else 2.0), row
    hot = 4 * (2 + 2)  # runs before the measured ones: two kernels of two layers, two rounds to warm up and two
    assert device.replays == len(device.sleeps) + hot


def test_the_rates_of_a_part():
    """Three steps of 60 pixels; rows [X | 0 | H | 0] have 16 channels, four or three of them hidden."""
    for part, channels in zip(parts.convolutions("paper", TINY), (4, 3)):
        flops = 3 * 60 * 2 * 25 * 16 * 4 * channels
        assert part.note("forward", flops / 444e12) == part.note("dW, step by step", flops / 444e12) == "444 TFLOP/s"
    for part, channels in zip(parts.gates("paper", TINY), (4, 3)):
        for name, per_element in (("gates_forward, cold", 28), ("gates_backward, hot", 32)):
            assert part.note(name, 60 * channels * per_element / 3.03e12) == "3.03 TB/s"


def test_the_alternatives_of_a_part_compute_the_same():
    """Each kind of gradient, whatever the number of steps that are convolved at once."""
    functions = {name: run for name, (run, _) in parts._convolutions(TINY.but(channels=(4,)), CPU).items()}
    by_step, at_once = (functions[name]().float() for name in ("dW, step by step", "dW, all steps at once"))
    torch.testing.assert_close(by_step, at_once, rtol=0.05, atol=0.5)
    together, apart = (functions[name]() for name in ("dX and dH together", "dH by step, dX at once"))
    in_channels = 16 - 4  # rows [X | 0 | H | 0] of a multiple of eight channels
    torch.testing.assert_close(together[0][:, in_channels:], apart[0])
    torch.testing.assert_close(torch.cat(together)[:, :in_channels], apart[-1])


def test_times_that_spread_are_named(collected, capsys):
    steady = Row("baselines", "paper", "", 1, "float32", "training", "eager", True, rows.OK, median_ms=2.0)
    steady = replace(steady, p20_ms=1.9, p80_ms=2.05)
    collected.add([steady, replace(steady, case="odd", p80_ms=2.2), replace(steady, case="late", p20_ms=None)])
    flow.show(collected)
    printed = capsys.readouterr().out
    assert "1 of 3 times spread by more than a tenth, p20 to p80: odd (baselines, training)" in printed


# On a busy machine the first interruption may fall into a weakref callback, where Python ignores it; it is repeated.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_there_is_no_time_for_is_dropped_and_reported(collected, capsys):
    def point(*providers: Provider) -> Point:
        return Point("baselines", "paper", TINY, torch.float32, providers)

    slow = Provider("slow", lambda given: time.sleep(60))
    work = [point(slow), point(OURS, CONV_FLOOR), *parts.gates("paper", TINY)]
    measure_all(work, Session(CpuClock(), collected, Deadline(0.5), 2))
    assert {row.status for row in collected.all} == {rows.DROPPED}
    assert len(collected.all) == 2 + 4 + 2
    flow.show(collected)
    assert "dropped for lack of time; --resume goes on" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_only_what_is_wrong_or_failed_of_ours_is_a_fault(collected):
    wrong = partial(build, off_by_a_little)
    others = [replace(EAGER, build=wrong), replace(OURS, name="tritonlstm, absent", why_absent=lambda device: "no")]
    measure(collected, replace(OURS, build=wrong), *others, modes=["training"])
    (fault,) = flow.faults(collected.all)
    assert fault.startswith("tritonlstm, paper, training: wrong: output: error")


@pytest.mark.usefixtures("quick")
def test_all_providers_of_a_point_are_in_its_table(collected):
    measure(collected, *(each for each in ALL if each not in COMPILERS))
    table = report.text(report.frame(collected.records()))
    assert all(row.provider in table for row in collected.all)
    assert "not installed" in table or "Flax" in {row.provider for row in collected.all if row.status == rows.OK}
