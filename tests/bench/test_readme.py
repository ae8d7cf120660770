"""The README's figures are those of the committed results, and are told as they are."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import readme
from bench.environment import ROOT, Environment
from bench.rows import ABSENT, FAILED, OK, Key, Row, Rows, read

ENVIRONMENT = replace(
    Environment.of(torch.device("cpu"), "python -m bench.gpu"), device="A GPU", driver="570", cudnn="91"
)


def row(provider: str, ms: float, mode: str = "training", run: str = "contenders", peephole: bool = True) -> Row:
    key = Key(run, "paper", "B16 T20", 20, "bfloat16", mode)
    return Row(key, provider, peephole, OK, "", "graph", ms, 0.9 * ms, 1.1 * ms, 30, 1000, ms / 8)


ROWS = [
    row("tritonlstm", 10.0),
    row("conv floor", 8.0),
    row("eager", 20.0),
    row("tritonlstm, no peephole", 8.0, peephole=False),
    row("eager, fused cell", 7.0, peephole=False),
    row("tritonlstm, recompute", 11.0),
    row("tritonlstm", 5.0, "inference"),
    row("eager", 5.1, "inference"),
    row("tritonlstm", 12.0, run="compiled"),
    row("torch.compile", 18.0, run="compiled"),
    replace(row("Keras", 1.0, run="JAX"), status=ABSENT, reason="keras not installed", median_ms=None),
    row("tritonlstm", 99.0, run="calls"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = Rows(tmp_path / "a-gpu" / "speed.csv", ENVIRONMENT)
    rows.add(ROWS)
    return rows.path


def test_the_table_tells_each_contender_against_ours_of_its_own_run(path: Path):
    made = readme.block(path)
    line = next(line for line in made.splitlines() if "| training |" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "paper: B16 T20", "training", "graph", "10 (9–11)", "1.25", "2.00×", "0.88×", "1.50×",
    ]  # fmt: skip
    assert "against eager (graph) | against eager, fused cell (graph) | against torch.compile (graph) |" in made
    table = [line for line in made.splitlines() if line.startswith("|")]  # a commit's name may have a 99
    assert "recompute" not in made and not any("99" in line for line in table)


def test_eager_is_told_once_in_its_faster_format(path: Path):
    slower, faster = row("eager, contiguous", 25.0), row("eager, contiguous", 4.0, "inference")
    assert "Eager:" not in readme.block(path)
    other = Rows(path, ENVIRONMENT)
    other.add([*ROWS, slower, faster])
    made = readme.block(path)
    assert readme.speeds(read(path)[0])["paper", "training"]["eager"] == 2.0
    assert readme.speeds(read(path)[0])["paper", "inference"]["eager"] == 0.8
    assert made.count("against eager (graph)") == 1 and "against eager, contiguous" not in made
    assert "Slower than eager, fused cell in paper's training (0.88×), eager in paper's inference (0.80×)." in made
    assert "Eager: with images channels last or contiguous" in made


def test_a_format_that_failed_is_told_apart(path: Path):
    failed = replace(row("eager, contiguous", 25.0), status=FAILED, reason="ValueError", median_ms=None)
    other = Rows(path, ENVIRONMENT)
    other.add([*ROWS, failed])
    made = readme.block(path)
    assert "Not measured: Keras (keras not installed), eager, contiguous (failed)." in made and "Eager:" not in made
    other = Rows(path, ENVIRONMENT)
    other.add([*(each for each in ROWS if each.provider != "eager"), row("eager, contiguous", 25.0)])
    assert "against eager (graph)" in readme.block(path)


def test_calls_are_compared_with_our_calls_alone(path: Path):
    def called(provider: str, ms: float, peephole: bool = False) -> Row:
        return replace(row(provider, ms, run="JAX", peephole=peephole), launch="calls")

    other = Rows(path, ENVIRONMENT)
    other.add([*ROWS, called("Flax", 30.0)])
    assert "Flax" not in readme.block(path).split("Launch:")[0], "ours without launches is no match for it"
    other.add([called("tritonlstm, no peephole", 10.0)])
    made = readme.block(path)
    assert "against Flax (calls)" in made and "3.00×" in made


def test_tf32_is_told(path: Path):
    single = [replace(each, key=replace(each.key, dtype="float32")) for each in ROWS]
    for precision, words in (("tf32", "float32 (convolutions in TF32), commit"), ("ieee", "float32, commit")):
        other = Rows(path, replace(ENVIRONMENT, float32=precision))
        other.add(single)
        assert words in readme.block(path)
    assert "TF32" not in readme.block(path)


def test_bars_without_a_floor(path: Path, tmp_path: Path):
    plots = pytest.importorskip("bench.plots")
    other = Rows(path, ENVIRONMENT)
    other.add([replace(each, x_conv_floor=None) for each in ROWS])
    with pytest.raises(ValueError, match="no bars"):
        plots.save_bars(path, tmp_path / "bars.png")
    assert plots.draw(path) == []


def test_where_it_is_not_faster_is_said(path: Path):
    made = readme.block(path)
    assert "Slower than eager, fused cell in paper's training (0.88×)." in made
    assert "Level, within 3%, with eager in paper's inference (1.02×)." in made
    assert "Not measured: Keras (keras not installed)." in made
    for part in ("A GPU", "driver 570", "cuDNN 91", torch.__version__, "`python -m bench.gpu`", ENVIRONMENT.commit):
        assert part in made
    faster = [each for each in ROWS if each.provider != "eager, fused cell" and each.key.mode == "training"]
    other = Rows(path, ENVIRONMENT)
    other.add(faster)
    assert "Slower than none of them in these cases." in readme.block(path)


def test_the_block_goes_between_the_markers_and_stays_there(path: Path):
    made = readme.block(path)
    text = "# title\n\n## The equations\n\nA = B\n"
    once = readme.insert(text, made)
    assert once.startswith("# title\n\n## Speed\n\n<!-- speed:begin -->") and once.endswith(
        "## The equations\n\nA = B\n"
    )
    assert readme.insert(once, made) == once
    assert readme.insert(once, f"{readme.BEGIN}\nnew\n{readme.END}") == once.replace(
        made, f"{readme.BEGIN}\nnew\n{readme.END}"
    )


def test_a_gpu_is_told_before_the_cpu(path: Path):
    folder = path.parents[1]
    assert readme.results(folder / "nothing") is None
    for name in ("cpu", "b-gpu"):
        (folder / name).mkdir()
        (folder / name / "speed.csv").write_text(path.read_text())
    assert readme.results(folder) == path
    path.unlink()
    assert readme.results(folder).parent.name == "b-gpu"


def test_the_command_writes_and_checks(path: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "results", lambda: path)
    file, plot = tmp_path / "README.md", tmp_path / "speed.png"
    file.write_text("# title\n\n## The equations\n")
    arguments = ["--readme", str(file), "--plot", str(plot)]
    assert readme.main([*arguments, "--check"]) == 1
    assert readme.main(arguments) == 0
    assert plot.stat().st_size > 1000
    assert readme.main([*arguments, "--check"]) == 0


def test_the_readme_says_what_the_committed_results_do():
    text = (ROOT / "README.md").read_text()
    if readme.BEGIN not in text:
        pytest.skip("the README has no figures yet")
    assert readme.insert(text, readme.block(readme.results())) == text
    assert readme.PLOT.is_file()


def test_the_committed_results_can_be_read():
    paths = list((ROOT / "bench/results").glob("*/speed.csv"))
    assert paths
    for path in paths:
        rows, environment = read(path)
        assert rows and re.fullmatch(r"[0-9a-f]{7,}(-dirty)?", environment.commit)
