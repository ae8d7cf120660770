"""The command, on a machine without CUDA: what it prints, what it writes, and what it refuses."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.cache import cache_folder
from tests.support.processes import run_module
from tritonlstm import cli
from tritonlstm.launch import Config, cache, config
from tritonlstm.launch.tables import ConfigKey, Entry, ScheduleKey, Table
from tritonlstm.tuning import search, tune
from tritonlstm.tuning.inspect import Figures
from tritonlstm.tuning.launches import Layer
from tritonlstm.tuning.report import FIELDS
from tritonlstm.tuning.search import Bench
from tritonlstm.tuning.store import Header, update

__all__ = ["cache_folder"]

ROOT = Path(__file__).parents[1]
GOOD = Figures(registers=64, spills=0, shared=0, accesses={"16": 21}, instructions=1000, warps=32)
OWN = ("tune", "--channels", "64", "--size", "16x16")


@pytest.fixture(autouse=True)
def _without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def without_compiling(monkeypatch: pytest.MonkeyPatch):
    """All candidates compile to the same."""

    def measure(tasks, processes, done):
        return [done() or GOOD for _ in tasks]

    monkeypatch.setattr(tune.aot, "interprets", lambda: False)
    monkeypatch.setattr(tune.aot, "measure", measure)


@pytest.fixture
def device(without_compiling, monkeypatch: pytest.MonkeyPatch) -> None:
    """An H100 that takes half the time with tiles of 512 elements, and for "hoisted"."""

    def bind(workload, choice):
        fast = choice == "hoisted" if isinstance(workload, Layer) else choice.block == 512
        return lambda: 1.0 if fast else 2.0

    bench = Bench(bind, lambda *_: "", lambda runs: [[run()] * 3 for run in runs])
    monkeypatch.setattr(tune, "cuda_device", lambda: tune.Device("sm_90", "NVIDIA H100", timed=True))
    monkeypatch.setattr(tune, "cuda_bench", lambda: bench)


def command(*arguments: str) -> subprocess.CompletedProcess:
    """`python -m tritonlstm` in a process that has no device, and in which Triton compiles rather than interprets."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment = inherited | {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    return run_module("tritonlstm", *arguments, folder=ROOT, environment=environment)


def test_end_to_end_without_a_device(tmp_path: Path, cache_folder: Path):
    out, report = tmp_path / "new/sm_90.json", tmp_path / "report.csv"
    options = ("--kernels", "gates_forward", "--jobs", "1", "--out", str(out), "--report", str(report))
    result = command(*OWN, "--dtype", "bf16", *options)
    assert result.returncode == 0, result.stderr
    assert "no CUDA device: nothing was timed" in result.stdout
    assert "gates_forward" in result.stdout
    assert not cache_folder.exists(), "nothing goes to the user's cache that was not timed"

    content = json.loads(out.read_text())
    assert content["measured"] == "not timed: ranked statically"
    assert (content["arch"], content["triton"], content["device"]) == ("sm_90", cache.triton_version(), "none")
    (row,) = content["configs"]
    assert (row["kernel"], row["itemsize"], row["channels"]) == ("gates_forward", 2, 64)
    table, problem = cache.examine(out, "sm_90")
    assert problem == ""

    with open(report, newline="") as file:
        records = list(csv.DictReader(file))
    assert tuple(records[0]) == FIELDS
    assert records[0]["verdict"].startswith("default")
    assert len(records) == len(search.candidates("sm_90", ConfigKey("gates_forward", 2, 64)))
    (chosen,) = [record for record in records if "chosen" in record["verdict"]]
    assert table.config("gates_forward", 2, 64).value == Config(int(chosen["BLOCK"]), int(chosen["num_warps"]))
    assert all(int(record["registers"]) > 0 and record["median_us"] == "" for record in records)


def test_info_in_a_process_of_its_own():
    result = command("info")
    assert result.returncode == 0, result.stderr
    assert "gates_forward" in result.stdout


def test_an_interpreting_process_says_that_it_cannot_compile(capsys: pytest.CaptureFixture):
    assert cli.main([*OWN]) == 1
    assert "TRITON_INTERPRET is set" in capsys.readouterr().err


def test_a_dry_run_does_nothing(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tune, "run", lambda *_: pytest.fail("a dry run ran"))
    assert cli.main(["tune", "latency", "nowcast", "--dry-run", "--out", str(tmp_path / "table.json")]) == 0
    printed = capsys.readouterr().out
    assert "B1 T16 32→32 3×3 64×64" in printed
    assert "11 candidates for gates_forward at 32 channels" in printed
    assert cli.main(["tune", "latency", "--dry-run", "--launch-pdl"]) == 0
    assert "22 candidates for gates_forward at 32 channels" in capsys.readouterr().out
    assert "nothing was compiled or timed" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("device")
def test_on_a_device_the_winners_go_to_the_cache(capsys: pytest.CaptureFixture, cache_folder: Path, tmp_path: Path):
    report = tmp_path / "report.csv"
    assert cli.main(["tune", "latency", "--report", str(report)]) == 0
    printed = capsys.readouterr().out
    assert "2.00×" in printed
    assert "hoisted  inference 2.00×, training 2.00×" in printed
    assert "nothing was timed" not in printed
    table, problem = cache.examine(cache_folder / "sm_90.json", "sm_90")
    assert problem == ""
    assert {entry.value.block for entry in table.configs.values()} == {512}
    assert table.schedules[ScheduleKey(2, 32, 32, (3, 3))].value == "hoisted"
    assert all("NVIDIA H100" in entry.measured for entry in table.configs.values())
    config.forget()
    assert config.pick_config("gates_forward", "sm_90", 2, 32).block == 512
    assert config.pick_schedule("sm_90", 2, 32, 32, (3, 3)) == "hoisted"
    with open(report, newline="") as file:
        speedups = {record["BLOCK"]: record["speedup"] for record in csv.DictReader(file) if record["speedup"]}
    assert speedups["512"] == "2.0000"
    assert speedups["1024"] == "1.0000"

    assert cli.main(["info", "--arch", "sm_90"]) == 0
    printed = capsys.readouterr().out
    winner = table.config("gates_forward", 2, 32).value
    assert f"gates_forward   2 bytes     C 32{winner!s:>12}  {cache_folder / 'sm_90.json'}" in printed
    assert "32→32 3×3" in printed
    assert "kernels/tuned/default.json, measured nowhere yet" in printed


@pytest.mark.usefixtures("device")
def test_what_cannot_be_timed_is_said_and_the_rest_is_kept(
    capsys: pytest.CaptureFixture, cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = tune.cuda_bench()

    def timer(runs):
        if "no memory" in [run() for run in runs]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole.time(runs)

    def bind(workload, choice):
        fails = not isinstance(workload, Layer) and workload.kernel == "gates_backward"
        return (lambda: "no memory") if fails else whole.bind(workload, choice)

    monkeypatch.setattr(tune, "cuda_bench", lambda: replace(whole, bind=bind, time=timer))
    assert cli.main(["tune", "latency", "--report", str(tmp_path / "report.csv")]) == 0
    printed = capsys.readouterr().out
    assert "not timed" in next(line for line in printed.splitlines() if line.startswith("gates_backward"))
    assert "2.00×" in printed
    table, _ = cache.examine(cache_folder / "sm_90.json", "sm_90")
    assert table.config("gates_forward", 2, 32).value.block == 512


@pytest.mark.usefixtures("device")
def test_a_cache_that_cannot_be_written_loses_no_result(
    capsys: pytest.CaptureFixture, cache_folder: Path, tmp_path: Path
):
    cache_folder.write_text("a file where the folder should be")
    assert cli.main(["tune", "latency"]) == 1
    printed = capsys.readouterr()
    assert "2.00×" in printed.out, "the table comes first"
    assert f"{cache_folder / 'sm_90.json'} cannot be written" in printed.err
    assert "--out FILE" in printed.err
    assert cli.main(["tune", "latency", "--out", str(tmp_path / "table.json")]) == 0
    assert cache.examine(tmp_path / "table.json", "sm_90")[0].configs


@pytest.mark.usefixtures("device")
def test_a_read_only_folder_is_named(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    assert cli.main(["tune", "latency"]) == 1
    assert "cannot be written (Permission denied)" in capsys.readouterr().err


@pytest.mark.usefixtures("without_compiling")
def test_a_report_that_cannot_be_written_loses_no_table(capsys: pytest.CaptureFixture, tmp_path: Path):
    out = tmp_path / "table.json"
    assert cli.main([*OWN, "--report", str(tmp_path / "no/folder.csv"), "--out", str(out)]) == 1
    assert "--report FILE" in capsys.readouterr().err
    assert out.exists()


@pytest.mark.usefixtures("device")
def test_rows_of_another_triton_are_replaced_and_that_is_said(capsys: pytest.CaptureFixture, cache_folder: Path):
    update(cache_folder / "sm_90.json", Header("3.0.0", "sm_90", "NVIDIA H100"), Table())
    assert cli.main(["tune", "latency"]) == 0
    assert "its former rows were for triton '3.0.0'" in capsys.readouterr().out


def test_info_says_where_each_configuration_comes_from(capsys: pytest.CaptureFixture, cache_folder: Path):
    assert cli.main(["info", "--arch", "gfx942"]) == 0
    printed = capsys.readouterr().out
    for words in ("tritonlstm  0.1.0", "torch ", "triton ", "TRITON_INTERPRET is set", "kernels/tuned/gfx942.json"):
        assert words in printed
    assert f"{cache_folder / 'gfx942.json'}: no such file" in printed
    assert "gates_backward  4 bytes    any C      1024/4  kernels/tuned/gfx942.json" in printed


def test_info_counts_configurations_and_schedules_apart(capsys: pytest.CaptureFixture, cache_folder: Path):
    configs = {ConfigKey("gates_forward", 2, channels): Entry(Config(256, 1), "") for channels in (1, 2, 3)}
    schedules = {ScheduleKey(2, 1, 64, (3, 3)): Entry("hoisted", "")}
    update(cache_folder / "sm_90.json", Header(cache.triton_version(), "sm_90", "x"), Table(configs, schedules))
    assert cli.main(["info", "--arch", "sm_90"]) == 0
    assert "sm_90.json: 3 configurations, 1 schedules" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b2J", "\x07\r\n", "\u202e", "\ud800", "\x7f"])
@pytest.mark.parametrize("place", ["measured", "triton", "unknown key"])
def test_nothing_in_a_table_reaches_the_terminal_raw(
    text: str, place: str, capsys: pytest.CaptureFixture, cache_folder: Path
):
    path = cache_folder / "sm_90.json"
    row = {"kernel": "gates_forward", "itemsize": 2, "channels": 64, "BLOCK": 256, "num_warps": 2}
    content = {"schema": 1, "triton": cache.triton_version(), "arch": "sm_90", "configs": [row], "schedules": []}
    path.parent.mkdir()
    path.write_text(json.dumps(content | {text if place == "unknown key" else place: f"a {text} b"}))
    assert cli.main(["info", "--arch", "sm_90"]) == 0
    printed = capsys.readouterr().out
    assert all(each.isprintable() or each == "\n" for each in printed)
    assert repr(text)[1:-1] in printed


def test_info_prints_to_ascii_and_to_nobody():
    own = [sys.executable, "-m", "tritonlstm"]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    plan = subprocess.run(
        [*own, "tune", "latency", "--dry-run"], env=ascii_only, capture_output=True, text=True, check=True
    )
    assert "\\u2192" in plan.stdout
    line = "set -o pipefail; {0} info | head -1; {0} info >&-".format(" ".join(own))
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "tritonlstm  0.1.0\n", "")


def test_info_without_a_home_says_that_there_is_no_cache(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("TRITONLSTM_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    assert cli.main(["info"]) == 0
    assert "none: HOME, XDG_CACHE_HOME and TRITONLSTM_CACHE_DIR are not set" in capsys.readouterr().out


@pytest.mark.usefixtures("device")
def test_without_a_cache_a_search_needs_a_file(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "path_of", lambda arch: None)
    monkeypatch.setattr(tune, "run", lambda *_: pytest.fail("searched before it looked"))
    with pytest.raises(SystemExit):
        cli.main(["tune", "latency"])
    assert "argument --out: needed, since there is no cache" in capsys.readouterr().err


TARGETS = {
    "a device": (lambda path: path.symlink_to("/dev/null"), "expected a regular file, got a character device"),
    "a FIFO": (os.mkfifo, "expected a regular file, got a FIFO"),
    "a folder": (Path.mkdir, "expected a regular file, got a folder"),
    "something else": (lambda path: path.write_text("precious"), "or no file, got something else"),
}


def identity(path: Path) -> tuple[int, ...]:
    """What a change of the file changes. The time of access is no part of it, since the file may be read."""
    status = path.stat()
    return status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("option", ["--out", "--report", "the cache"])
@pytest.mark.parametrize(("make", "words"), TARGETS.values(), ids=TARGETS.keys())
def test_what_is_not_ours_is_refused_before_any_work(
    option: str,
    make: Callable,
    words: str,
    capsys: pytest.CaptureFixture,
    cache_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(tune, "run", lambda *_: pytest.fail("searched before it looked"))
    cache_folder.mkdir()
    path = cache_folder / "sm_90.json" if option == "the cache" else cache_folder / "other"
    make(path)
    before = identity(path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["tune", "latency", *(() if option == "the cache" else (option, str(path)))])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert str(path) in error and words in error
    assert identity(path) == before
    assert list(cache_folder.iterdir()) == [path]


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("same", ["x/table", "x/../x/table", "link", "x/link"])
def test_two_outputs_in_one_file_are_refused_before_any_work(
    same: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tune, "run", lambda *_: pytest.fail("searched before it looked"))
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    Path("link").symlink_to("x/table")
    Path("x/link").symlink_to("table")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["tune", "latency", "--out", str(tmp_path / "x/table"), "--report", same])
    assert stopped.value.code == 2
    assert "argument --report: expected another file than that of --out" in capsys.readouterr().err


def test_info_reports_a_cache_that_is_not_used(capsys: pytest.CaptureFixture, cache_folder: Path):
    cache_folder.mkdir()
    (cache_folder / "sm_90.json").write_text("{")
    assert cli.main(["info", "--arch", "sm_90"]) == 0
    assert "sm_90.json is not used: it is corrupt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tune", "sideways"], "argument case: invalid choice: 'sideways' (choose from paper, "),
        (["tune", "paper", "--channels", "64"], "argument --channels: not allowed with named cases"),
        (["tune", "paper", "--size", "64x64"], "argument --size: only with --channels"),
        (["tune", "paper", "--kernel-size", "3"], "argument --kernel-size: only with --channels"),
        (["tune", "--channels", "0"], "argument --channels: expected a positive integer, got '0'"),
        (["tune", "--channels", "-8"], "argument --channels"),
        (["tune", "--channels", "64", "--size", "64"], "argument --size: expected HxW, as 64x64, got '64'"),
        (["tune", "--channels", "64", "--kernel-size", "4"], "argument --kernel-size: expected an odd size, got '4'"),
        (["tune", "--arch", "sm_80", "--launch-pdl"], "argument --launch-pdl: expected sm_90 or higher, got sm_80"),
        (["tune", "--dtype", "fp64"], "argument --dtype: invalid choice: 'fp64'"),
        (["tune", "--arch", "sm_70"], "argument --arch: invalid choice: 'sm_70'"),
        (["tune", "--kernels", "gates"], "argument --kernels: invalid choice: 'gates'"),
        (["tune", "--jobs", "none"], "argument --jobs: expected a positive integer, got 'none'"),
        (["tune", "--dry-run", "--report", "x.csv"], "argument --report: a dry run has nothing to report"),
        (["info", "--arch", "../x"], "argument --arch: expected an architecture, as sm_90, gfx942 or cpu, got '../x'"),
        (["info", "--arch", "sm_90\n"], "argument --arch: expected an architecture"),
        (["turn"], "argument command: invalid choice: 'turn'"),
        ([], "the following arguments are required: command"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("device")
def test_another_architecture_than_the_devices_is_refused(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        cli.main(["tune", "latency", "--arch", "gfx942"])
    assert "argument --arch: this machine has NVIDIA H100, which is sm_90" in capsys.readouterr().err


@pytest.mark.usefixtures("without_compiling")
def test_a_bar_needs_tqdm_and_the_search_does_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)  # importing it raises
    assert cli.main([*OWN]) == 0
