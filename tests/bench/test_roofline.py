"""The least time of a layer on a GPU, and what bounds it, against figures computed by hand."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import codegen, parts, roofline, work
from bench.roofline import MEASURED_BY, TFLOPS
from bench.rows import OK, Row, Rows
from bench.work import MODES, Mode
from tritonlstm.tuning.cases import CASES, Case
from tritonlstm.tuning.launches import DTYPES

TRAINING, RATES = Mode(), dict.fromkeys(MEASURED_BY, 444e12)


@pytest.fixture
def hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instructions for each element, whatever the kernels compile to."""
    monkeypatch.setattr(roofline, "instructions", lambda *arguments: 100.0)


def bounds_of(kind: str, case: Case, mode: Mode = TRAINING) -> dict[str, float]:
    """Of the launches of one kind of a case with one layer."""
    (layer,) = work.layers(case, torch.bfloat16)
    found = next(each for each in work.works(layer, mode) if each.name == kind)
    return roofline.bounds(layer, mode, found, "bf16", RATES)


def test_a_convolution_takes_its_flops_at_cudnns_rate_and_its_bytes():
    """nowcast: 131,072 pixels a step, 3×3, from 128 channels to 256, ten steps."""
    found = bounds_of("convolution", CASES["nowcast"], Mode(training=False))
    moved = 10 * 2 * (131072 * (128 + 256) + 9 * 128 * 256)
    assert found == {
        "cuDNN": pytest.approx(10 * 2 * 131072 * 9 * 128 * 256 / 444e12),
        "issue": 0,
        "L2": pytest.approx(moved / 6.65e12),
        "DRAM": pytest.approx(moved / 3.35e12),  # 100 MB a step
    }


@pytest.mark.usefixtures("hundred")
@pytest.mark.parametrize("kind", ["gates_forward", "gates_backward"])
def test_a_gate_kernel_takes_its_instructions_and_its_bytes(kind: str):
    """latency: 131,072 elements a step, in 16 steps; what it saves, 26 MB, fits in the L2 cache."""
    found = bounds_of(kind, CASES["latency"])
    assert found["cuDNN"] == found["DRAM"] == 0
    assert found["issue"] == pytest.approx(16 * 131072 * 100 / (132 * 128 * 1.755e9))
    per_element = {"gates_forward": 28, "gates_backward": 32}[kind]
    assert found["L2"] == pytest.approx(16 * 131072 * per_element / 6.65e12, rel=0.02)


@pytest.mark.usefixtures("hundred")
def test_what_is_saved_goes_to_dram_if_it_does_not_fit_in_the_cache():
    long = CASES["latency"].but(steps=64)
    saved = 64 * 4096 * 128 * 2 + 65 * 4096 * 32 * 4
    for kind in ("gates_forward", "gates_backward"):
        assert bounds_of(kind, long)["DRAM"] == pytest.approx(saved / 3.35e12)
    assert bounds_of("gates_forward", long, Mode(training=False))["DRAM"] == 0
    assert bounds_of("data_grad", long)["DRAM"] == 0


def test_instructions_are_those_of_the_most_similar_number_of_channels(monkeypatch: pytest.MonkeyPatch):
    counts = {"C1": 8, "C3": 24, "C17": 136, "C64": 512, "C96": 768, "C130": 1040}
    kernels = {f"gates_forward/{dtype}/{c}/channel/sm_90": n for c, n in counts.items() for dtype in ("bf16", "fp16")}
    kernels["gates_forward/bf16/C64/hoisted/sm_90"] = 2 * 512
    table = {"kernels": {key: {"instructions": count} for key, count in kernels.items()}}
    monkeypatch.setattr(codegen, "load", lambda: table)
    # 1,024 elements of a half type to four warps are eight to a thread.
    like = {64: 64, 128: 64, 512: 64, 32: 64, 96: 96, 48: 96, 33: 17, 2: 130, 1: 1, 5: 3}
    assert {channels: roofline.instructions("gates_forward", "bf16", channels) for channels in like} == like
    assert roofline.instructions("gates_forward", "bf16", 96, "hoisted") == 2 * 96
    assert roofline.instructions("gates_forward", "fp16", 64, "hoisted") == 2 * 64


def test_the_committed_table_has_what_the_model_needs():
    for kernel, variant in (("gates_forward", "hoisted"), ("gates_backward", "recompute")):
        for dtype in DTYPES:
            plain, special = (roofline.instructions(kernel, dtype, 64, name) for name in ("channel", variant))
            assert 10 < plain < special < 300


@pytest.mark.usefixtures("hundred")
def test_each_case_says_what_bounds_it():
    both = {"slow": lambda name, mode: RATES, "fast": lambda name, mode: dict.fromkeys(RATES, 1e18)}
    found = roofline.times(["nowcast", "latency"], "bf16", both).set_index(["case", "mode", "TFLOP/s"])
    assert len(found) == 2 * len(MODES) * 2
    mode = str(Mode(training=False))
    slow, fast = found.loc["nowcast", mode, "slow"], found.loc["nowcast", mode, "fast"]
    assert slow["bound by"] == "cuDNN 74%, DRAM 26%" and fast["bound by"] == slow["gates bound by"] == "DRAM 100%"
    (layer,) = work.layers(CASES["nowcast"], torch.bfloat16)
    moved = sum(each.nbytes for each in work.works(layer, Mode(training=False)))
    assert fast["ms"] == pytest.approx(1e3 * moved / 3.35e12)
    assert found.loc["latency", mode, "slow"]["gates bound by"] == "issue 100%"


def results(path: Path, *, without: str = "") -> Path:
    """A file with the times of the convolutions of "paper" at 500, 400 and 300 TFLOP/s."""
    rates = {"forward": 500, "dX and dH together": 400, "dW, all steps at once": 300, "dW, step by step": 1}
    collected = Rows(path, {"commit": "a test"})
    for part in parts.convolutions("paper", CASES["paper"]):
        collected.add(
            Row(*part.point("convolutions"), name, False, OK, median_ms=1e3 * parts.flops(part.case) / (rate * 1e12))
            for name, rate in rates.items()
            if name != without
        )
    return path


def test_rates_from_a_file_of_results(tmp_path: Path):
    rates = roofline.measured(results(tmp_path / "speed.csv"), ["paper"])
    assert rates == {
        "paper": {
            "convolution": pytest.approx(500e12),
            "data_grad": pytest.approx(400e12),
            "weight_grad": pytest.approx(300e12),
        }
    }


def test_a_file_without_the_rates_is_refused(tmp_path: Path):
    path = results(tmp_path / "speed.csv", without="dX and dH together")
    with pytest.raises(ValueError, match="expected the convolutions of paper, got no time of 'dX and dH together'"):
        roofline.measured(path, ["paper"])
    with pytest.raises(ValueError, match="expected the convolutions of latency"):
        roofline.measured(path, ["latency"])


def test_flops_of_the_paper_s_network():
    """Those that were counted by hand for its three layers, 20 steps of 16 sequences."""
    table = roofline.table(["paper"], torch.bfloat16)
    assert table["GFLOP"][0] == pytest.approx(638, rel=1e-3)
    assert list(table["mode"]) == [str(mode) for mode in MODES]


def test_the_command():
    command = [sys.executable, "-m", "bench.roofline", "latency", "--dtype", "fp32"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = result.stdout.splitlines()
    assert lines[0] == "a model, not a measurement"
    assert len(lines) == 4 + (1 + len(TFLOPS)) * len(MODES) + 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--help", "[case ...]"),
        ("late", "expected some of paper, openstl"),
        ("--tflops 0", "expected a positive number, got 0"),
        ("--tflops fast", "expected a positive number, got fast"),
        ("--measured none.csv", "none.csv"),
        ("--measured none.csv --dtype fp32", "--measured: expected --dtype bf16, got fp32"),
    ],
)
def test_the_command_explains_itself(arguments: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sys, "argv", ["roofline", *arguments.split()])
    with pytest.raises(SystemExit):
        roofline.main()
    assert words in "".join(capsys.readouterr())


def test_the_command_takes_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    path = results(tmp_path / "speed.csv")
    monkeypatch.setattr(sys, "argv", ["roofline", "paper", "--tflops", "500", "--measured", str(path)])
    roofline.main()
    printed = capsys.readouterr().out
    assert " 500 " in printed and " 798 " not in printed
    of_file = [line for line in printed.splitlines() if " measured " in line]
    assert len(of_file) == sum(not mode.hoisted for mode in MODES) and not any("hoisted" in line for line in of_file)
