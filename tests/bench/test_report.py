"""Rows are compared with the right ones of their point, and the README says what the committed results do."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench import plots, readme, report
from bench.rows import ABSENT, CALLS, FAILED, OK, ROOT, Row, Rows, environment

ENVIRONMENT = environment(torch.device("cpu"), "pytest bench --device cuda") | {
    "device": "A GPU",
    "driver": "9",
    "cudnn": "91",
}


def row(provider: str, ms: float, mode: str = "training", run: str = "baselines", peephole: bool = True) -> Row:
    point = run, "paper", "B16 T20", 20, "bfloat16", mode
    return Row(*point, provider, peephole, OK, "", "graph", ms, 0.9 * ms, 1.1 * ms, 30, 1000)


def failed(row: Row, status: str, reason: str = "") -> Row:
    return replace(row, status=status, reason=reason, median_ms=None, p20_ms=None, p80_ms=None, peak_bytes=None)


ROWS = [
    row("tritonlstm", 10.0),
    row("convolutions", 8.0, peephole=False),
    row("eager", 20.0),
    row("tritonlstm, no peephole", 8.0, peephole=False),
    row("eager, fused cell", 7.0, peephole=False),
    row("tritonlstm, recompute", 11.0),
    row("tritonlstm", 5.0, "inference"),
    row("eager", 5.1, "inference"),
    row("tritonlstm", 12.0, run="compiled"),
    replace(row("torch.compile", 18.0, run="compiled"), compile_seconds=61.0),
    replace(row("torch.compile", 18.0, run="steps"), compile_seconds=40.0),
    failed(row("Keras", 1.0, run="JAX"), ABSENT, "keras not installed"),
    row("tritonlstm", 99.0, run="calls"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(tmp_path / "a-gpu" / "speed.csv", ROWS)


def save(path: Path, rows: list[Row], **changes: str) -> Path:
    Rows(path, ENVIRONMENT | changes).add(rows)
    return path


def compared(*rows: Row) -> pd.DataFrame:
    """By provider and launch."""
    return report.compared(report.frame(map(vars, rows))).set_index(["provider", "launch"])


def test_a_row_is_compared_with_our_row_that_is_like_it():
    got = compared(*ROWS[:6], row("tritonlstm, no peephole", 99.0, "inference"), replace(ROWS[2], launch=CALLS))
    ours = got["time / ours"].to_dict()
    assert ours["eager", "graph"] == 2.0 and ours["eager, fused cell", "graph"] == 7 / 8
    assert ours["convolutions", "graph"] == 0.8
    assert pd.isna(ours["eager", "calls"]), "calls are not compared with replays"
    floors = compared(*ROWS[:3], row("convolutions, contiguous", 4.0))["time / convolutions"]
    assert floors["tritonlstm", "graph"] == 2.5


def test_the_baseline_is_the_better_eager_format():
    def one(provider: str, ms: float, nbytes: int) -> Row:
        return replace(row(provider, ms), peak_bytes=nbytes)

    rows = one("tritonlstm", 2.0, 150), one("eager", 4.0, 300), one("eager, contiguous", 3.0, 400)
    got = compared(*rows).loc["tritonlstm"].iloc[0]
    assert got["time / eager"] == pytest.approx(2 / 3) and got["memory / eager"] == 0.5
    got = compared(*rows[:2], failed(rows[2], FAILED)).loc["tritonlstm"].iloc[0]
    assert got["time / eager"] == 0.5
    assert pd.isna(compared(rows[0], failed(rows[1], FAILED)).loc["tritonlstm"].iloc[0]["time / eager"])


def test_the_table_has_a_line_for_each_row(path: Path):
    text = report.text(report.read(path))
    points = {(each.run, each.mode) for each in ROWS}
    assert len(text.splitlines()) == len(ROWS) + 3 * len(points)
    assert "absent: keras not installed" in text and "paper: B16 T20, bfloat16, training (baselines)" in text


def test_the_readme_table_has_a_row_for_each_case(path: Path):
    block = readme.block(path)
    table = [line for line in block.splitlines() if line.startswith("|")]
    assert len(table) == 3 and "vs torch.compile (compiling)" in table[0]
    cells = [cell.strip() for cell in table[2].strip("|").split("|")]
    assert cells == ["paper: B16 T20", "5", "1.02×", "", "10", "2.00×", "1.50× (61 s)"]
    assert "recompute" not in block
    assert "Our speed over other baselines: eager, fused cell 0.88× to 0.88× (training)." in block.replace("\n", " ")
    assert "Compiling a training step of paper takes 40 s at T=20." in block.replace("\n", " ")


def test_a_speed_is_bold_where_we_are_slower(path: Path):
    rows = [row("tritonlstm", 10.0), row("eager", 9.69), row("tritonlstm", 10.0, "inference")]
    block = readme.block(save(path, [*rows, row("eager", 9.71, "inference")]))
    assert "| 10 | 0.97× |  | 10 | **0.97×** |" in block


def test_what_was_not_measured_and_the_hardware_are_said(path: Path):
    block = readme.block(path).replace("\n", " ")
    assert "Not measured: Keras (keras not installed)." in block
    for part in (
        "A GPU",
        "driver 9",
        "cuDNN 91",
        torch.__version__,
        "`pytest bench --device cuda`",
        ENVIRONMENT["commit"],
    ):
        assert part in block


def test_the_faster_eager_format_is_shown(path: Path):
    rows = [*ROWS, row("eager, contiguous", 25.0), row("eager, contiguous", 4.0, "inference")]
    block = readme.block(save(path, rows))
    assert "| 5 | **0.80×** |  | 10 | 2.00× |" in block
    block = readme.block(save(path, [*ROWS, failed(rows[-1], FAILED, "ValueError")]))
    assert "Keras (keras not installed), eager, contiguous (failed)" in block.replace("\n", " ")


def test_single_steps_have_a_table_of_their_own(path: Path):
    def step(provider: str, ms: float, mode: str = "training", **changes: object) -> Row:
        return replace(row(provider, ms, mode, "single steps"), case="vector-step", **changes)

    rows = [step("tritonlstm step", 2.0), step("eager step", 5.0), step("eager step, contiguous", 3.0)]
    rows += [step("tritonlstm step", 2.0, "inference"), step("eager step", 1.0, "inference")]
    rows += [step("eager cells", 9.0), step("eager cells, contiguous", 8.0)]
    rows += [step("tritonlstm step, no peephole", 4.0, peephole=False), step("nn.LSTMCell", 2.0, peephole=False)]
    block = readme.block(save(path, [*ROWS, *rows]))
    (line,) = (line for line in block.splitlines() if line.startswith("| vector-step"))
    assert line.endswith("|  | 4.00× | **0.50×** | 1.50× |  | **0.50×** |")
    assert "one step at a time" not in readme.block(save(path, ROWS))


def test_tf32_is_reported(path: Path):
    single = [replace(each, dtype="float32") for each in ROWS]
    assert "TF32" in readme.block(save(path, single, float32="tf32"))
    assert "TF32" not in readme.block(save(path, single, float32="ieee"))
    assert "TF32" not in readme.block(save(path, ROWS, float32="tf32"))


def test_a_gpu_comes_before_the_cpu(path: Path):
    folder = path.parents[1]
    assert readme.results(folder / "nothing") is None
    for name in ("cpu", "b-gpu"):
        (folder / name).mkdir()
        (folder / name / "speed.csv").write_text(path.read_text())
    assert readme.results(folder) == path
    path.unlink()
    assert readme.results(folder).parent.name == "b-gpu"


@pytest.fixture
def file(path: Path, tmp_path: Path, monkeypatch) -> Path:
    """A README that the command writes to, with an old block."""
    monkeypatch.setattr(readme, "results", lambda: path)
    monkeypatch.setattr(readme, "PLOT", tmp_path / "speed.png")
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    readme.README.write_text(f"# title\n\n{readme.BEGIN}\nold\n{readme.END}\n\n## end\n")
    return readme.README


def test_the_command_writes_and_checks(path: Path, file: Path):
    assert readme.main(["--check"]) == 1
    assert readme.main([]) == 0
    assert file.read_text() == f"# title\n\n{readme.block(path)}\n\n## end\n"
    assert readme.PLOT.stat().st_size > 1000
    assert readme.main(["--check"]) == 0


def test_bars_need_the_convolutions(path: Path, file: Path, capsys):
    save(path, [each for each in ROWS if each.provider != "convolutions" and each.run != "steps"])
    before = file.read_text()
    assert readme.main([]) == 1 and "the convolutions alone" in capsys.readouterr().err
    assert file.read_text() == before
    assert plots.draw(path) == []


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("README", "/dev/zero", "expected a regular file, got a character device"),
        ("PLOT", "/dev/null", "expected a regular file, got a character device"),
        ("README", "/no/such/file", "No such file"),
        ("README", ROOT / "CONTRIBUTING.md", "has no <!-- speed:begin -->"),
    ],
)
def test_the_command_refuses_what_it_cannot_read_or_write(
    name: str, given: str, words: str, file: Path, monkeypatch, capsys
):
    given, text = Path(given), file.read_text()
    monkeypatch.setattr(readme, name, given)
    before = given.read_bytes() if given.is_file() else None
    with pytest.raises(SystemExit) as stopped:
        readme.main([])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
    assert before is None or given.read_bytes() == before
    assert file.read_text() == text
    assert list(file.parent.glob("speed.png")) == []


def test_the_readme_says_what_the_committed_results_do():
    path = readme.results()
    if path is None:
        pytest.skip("there are no results")
    text = (ROOT / "README.md").read_text()
    assert readme.updated(text, path) == text
    assert readme.PLOT.is_file()
    assert all(re.fullmatch(r"[0-9a-f]{7,}(-dirty)?", commit) for commit in report.read(path).commit)
