"""Write the README's table and plot of speed from the committed results.

python -m bench.readme            replaces the block between the markers in README.md, and draws docs/speed.png
python -m bench.readme --check    exits with 1 if README.md is out of date

The results are those of a GPU if bench/results has any, else of a CPU.
"""

import argparse
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from tritonlstm.core import files, output

from . import report
from .providers import COMPILED, EAGER, LSTM_CELL, OURS
from .rows import ABSENT, GRAPH, MODES, OK, ROOT, SINGLE_STEPS

BEGIN, END = "<!-- speed:begin -->", "<!-- speed:end -->"
README, PLOT = ROOT / "README.md", ROOT / "docs/speed.png"
SLOWER = 0.97
"""Below, a speed is in bold; medians that differ by less are level."""

EXPLANATION = """\
Speed is a baseline's median time over ours in the same run: above 1× we are faster, in bold we are slower by more
than 3%. Eager is the same layer in plain PyTorch, in the faster memory format of each case; torch.compile is eager
compiled, with the seconds that compiling took, once for each mode and again for another number of steps. Baselines
without peepholes are compared with our layer without. The plot shows multiples of PyTorch's convolutions alone.
Of single steps, eager cells are modules, which is what a project has, and eager functions nothing but the equations."""


def results(folder: Path = ROOT / "bench/results") -> Path | None:
    """The file of results for the README: the first GPU's by name, else the CPU's."""
    found = sorted(folder.glob("*/speed.csv"), key=lambda path: (path.parent.name == "cpu", path.parent.name))
    return found[0] if found else None


def speeds(shown: pd.DataFrame) -> pd.DataFrame:
    """How many times as fast we are, and the baseline's compile time, by (case, mode, baseline)."""
    rows = shown[(shown.status == OK) & (shown.provider != OURS.name) & ~shown.provider.isin(report.FLOOR)]
    rows = rows.assign(baseline=rows.provider.replace(report.EAGER, EAGER.name), speed=rows["time / ours"])
    by_point = rows.groupby([*report.POINT, "baseline"], sort=False)[["speed", "compile_seconds"]].min()
    return by_point.groupby(["case", "mode", "baseline"], sort=False).first().dropna(subset="speed")


def _table(shown: pd.DataFrame, speeds: pd.DataFrame) -> str:
    """A row for each case: our time, and how many times as fast we are as two baselines, in each mode."""
    ours = shown[(shown.provider == OURS.name) & (shown.status == OK)].drop_duplicates(["case", "mode"])
    ours = ours.set_index(["case", "mode"]).median_ms

    def cells(case: str, mode: str) -> Iterator[str]:
        yield f"{ours[case, mode]:.3g}" if (case, mode) in ours.index else ""
        for baseline in (EAGER.name, COMPILED.name):
            if (case, mode, baseline) not in speeds.index:
                yield ""
                continue
            speed, seconds = speeds.loc[case, mode, baseline]
            yield _speed(speed) + (f" ({seconds:.0f} s)" if baseline == COMPILED.name else "")

    columns = [f"{mode}{what}" for mode in MODES for what in (", ms", ": vs eager", ": vs torch.compile (compiling)")]
    rows = [["case", *columns]]
    for case, sizes in shown.drop_duplicates("case").set_index("case").sizes.items():
        rows.append([f"{case}: {sizes}", *(cell for mode in MODES for cell in cells(case, mode))])
    return _markdown(rows)


def _others(speeds: pd.DataFrame) -> str:
    """The range over the cases of the speed over each baseline that has no column."""
    every = speeds.reset_index()
    every = every[~every.baseline.isin([EAGER.name, COMPILED.name])]
    ranges = [
        f"{baseline} {group.min():.2f}× to {group.max():.2f}× ({mode})"
        for (baseline, mode), group in every.groupby(["baseline", "mode"], sort=False).speed
    ]
    return f"Our speed over other baselines: {', '.join(ranges)}." if ranges else ""


def _compiling(rows: pd.DataFrame) -> str:
    """How the compiler's time grows with T."""
    rows = rows[(rows.run == "steps") & (rows.provider == COMPILED.name) & (rows["mode"] == "training")]
    said = []
    for case, group in rows.dropna(subset="compile_seconds").sort_values("steps").groupby("case", sort=False):
        times = [f"{seconds:.0f} s at T={steps}" for seconds, steps in zip(group.compile_seconds, group.steps)]
        said.append(f"Compiling a training step of {case} takes {', '.join(times)}.")
    return " ".join(said)


def _single_steps(rows: pd.DataFrame) -> str:
    """A row for each case: our speed one step at a time over eager cells, eager functions and nn.LSTMCell."""
    cells, functions = "eager cells", "eager functions"
    names = dict.fromkeys(report.EAGER_CELLS, cells) | dict.fromkeys(report.EAGER, functions)
    rows = rows[(rows.run == SINGLE_STEPS) & (rows.status == OK)]
    rows = rows.assign(baseline=rows.provider.replace(names), speed=rows["time / ours"])
    rows = rows[rows.baseline.isin([cells, functions, LSTM_CELL.name])]
    if rows.empty:
        return ""
    speeds = rows.groupby(["case", "mode", "baseline"], sort=False).speed.min().dropna()
    columns = [(mode, baseline) for baseline in (cells, functions, LSTM_CELL.name) for mode in MODES]
    table = [["one step at a time", *(f"{mode}: vs {baseline}" for mode, baseline in columns)]]
    for case, sizes in rows.drop_duplicates("case").set_index("case").sizes.items():
        points = ((case, *column) for column in columns)
        table.append([f"{case}: {sizes}", *(_speed(speeds[each]) if each in speeds.index else "" for each in points)])
    return _markdown(table)


def _speed(speed: float) -> str:
    bold = "**" if speed < SLOWER else ""
    return f"{bold}{speed:.2f}×{bold}"


def _markdown(table: list[list[str]]) -> str:
    header, *others = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([header, "|---" * len(table[0]) + "|", *others])


def _missing(shown: pd.DataFrame) -> str:
    """Which baselines have no time at all, and why."""
    missing = shown[~shown.provider.isin(shown.provider[shown.status == OK])].drop_duplicates("provider")
    reasons = missing.reason.where(missing.status == ABSENT, missing.status)
    said = ", ".join(f"{name} ({reason})" for name, reason in zip(missing.provider, reasons))
    return f"Not measured: {said}." if said else ""


def _hardware(shown: pd.DataFrame) -> str:
    first = shown.iloc[0]
    dtype = first["dtype"]
    tf32 = " (convolutions in TF32)" if dtype == "float32" and first.float32 == "tf32" else ""
    own = f"driver {first.driver}, cuDNN {first.cudnn}" if first.driver else f"{first.threads} threads"
    launch = "replays of CUDA graphs, " if (shown.launch == GRAPH).any() else ""
    versions = f"torch {first.torch}, Triton {first.triton}, {dtype}{tf32}, {launch}commit {first.commit}"
    return f"{first.device}, {own}, {versions}; made by `{first.command}`."


def block(path: Path) -> str:
    """The README's block, markers included."""
    rows = report.read(path)
    compared = report.compared(rows)
    shown = report.selected(compared)
    found = speeds(shown)
    sentences = [_others(found), _compiling(rows), _missing(shown)]
    plot = "![Time by case, in multiples of the convolutions alone](docs/speed.png)"
    wrapped = [
        textwrap.fill(paragraph, 120, break_long_words=False, break_on_hyphens=False)
        for paragraph in (EXPLANATION, " ".join(filter(None, sentences)), _hardware(shown))
    ]
    parts = [BEGIN, plot, _table(shown, found), _single_steps(compared), *wrapped, END]
    return "\n\n".join(filter(None, parts))


def updated(text: str, path: Path) -> str:
    """The README's text with the block of these results in its place."""
    before, rest = text.split(BEGIN, 1)
    return before + block(path) + rest.split(END, 1)[1]


def main(arguments: list[str]) -> int:
    output.make_robust()
    parser = argparse.ArgumentParser(prog="python -m bench.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether README.md is up to date")
    options = parser.parse_args(arguments)
    path = results()
    if path is None:
        print("readme: no bench/results/*/speed.csv yet", file=sys.stderr)
        return 1
    try:
        text = files.read_text(README)
        files.check_target(PLOT)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if BEGIN not in text or END not in text:
        parser.error(f"{README} has no {BEGIN} … {END}")
    new = updated(text, path)
    if options.check:
        print(f"{README}: {'up to date' if new == text else 'out of date'} with {path}")
        return int(new != text)
    from . import plots  # only drawing needs matplotlib

    shown = report.selected(report.compared(report.read(path)))
    figure = plots.bars(shown)
    if figure is None:
        print(f"readme: {path} has no times to compare with the convolutions alone", file=sys.stderr)
        return 1
    plots.save(figure, shown, PLOT)
    files.write(README, new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
