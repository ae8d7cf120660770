"""Plots of a file of results: bars for each case, and time and memory against T.

python -m bench.plots bench/results/cpu/speed.csv draws them beside it. matplotlib is needed here alone.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .environment import Environment
from .providers import CONV_FLOOR
from .readme import told
from .rows import OK, Row, read

MODES = ("inference", "training")


def bars(rows: list[Row], title: str) -> Figure | None:
    """Each contender's time as a multiple of the convolutions alone, by case; None where there is nothing to show."""
    runs = "contenders", "compiled", "max-autotune", "JAX"
    shown = [
        row for row in rows if row.x_conv_floor is not None and row.provider != CONV_FLOOR.name and row.key.run in runs
    ]
    shown = [row for row in shown if row.key.dtype == shown[0].key.dtype]
    if not shown:
        return None
    figure, axes = plt.subplots(2, 1, figsize=(10, 7), layout="constrained")
    names = list(dict.fromkeys(map(_name, shown)))
    cases = list(dict.fromkeys(row.key.case for row in shown))
    for axis, mode in zip(axes, MODES):
        _bars(axis, [row for row in shown if row.key.mode == mode], names, cases)
        axis.set_title(mode)
        axis.set_ylabel("time / convolutions alone")
        axis.axhline(1, color="0.4", linewidth=0.8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def _name(row: Row) -> str:
    return f"{row.provider} ({row.launch})"


def _bars(axis: Axes, rows: list[Row], names: list[str], cases: list[str]) -> None:
    width = 0.85 / max(len(names), 1)
    for index, name in enumerate(names):
        found = {}
        for row in rows:
            if _name(row) == name:
                found.setdefault(row.key.case, row.x_conv_floor)  # its first run
        places = [cases.index(case) + (index - (len(names) - 1) / 2) * width for case in found]
        axis.bar(places, list(found.values()), width, label=name)
    axis.set_xticks(range(len(cases)), cases)


def against_steps(rows: list[Row], title: str, *, memory: bool) -> Figure | None:
    """Time or peak memory of a training step against T, a panel for each case; None where there is nothing to show."""
    shown = [row for row in rows if row.key.run == "steps" and row.status == OK and row.key.mode == "training"]
    if memory:
        shown = [row for row in shown if row.peak_bytes is not None]
    if not shown:
        return None
    cases = list(dict.fromkeys(row.key.case for row in shown))
    figure, axes = plt.subplots(1, len(cases), figsize=(10, 4), layout="constrained", squeeze=False)
    for axis, case in zip(axes[0], cases):
        own = [row for row in shown if row.key.case == case]
        for name in dict.fromkeys(row.provider for row in own):
            line = sorted((row for row in own if row.provider == name), key=lambda row: row.key.steps)
            values = [row.peak_bytes / 1e6 if memory else row.median_ms for row in line]
            axis.plot([row.key.steps for row in line], values, marker="o", label=name)
        axis.set(title=case, xlabel="T", ylabel="peak memory, MB" if memory else "training step, ms", ylim=(0, None))
        axis.legend(fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def _title(environment: Environment) -> str:
    return f"{environment.device}, torch {environment.torch}, commit {environment.commit}"


def save_bars(path: Path, plot: Path) -> None:
    """The bars of a file of results without our own variants, as the README shows them."""
    rows, environment = read(path)
    figure = bars(told(rows), _title(environment))
    if figure is None:
        raise ValueError(f"{path}: no time as a multiple of the convolutions alone, and so no bars")
    figure.savefig(plot, dpi=100)
    plt.close(figure)


def draw(path: Path) -> list[Path]:
    """The plots of a file of results, beside it; those of which it has rows."""
    rows, environment = read(path)
    title = _title(environment)
    figures = {
        "bars": bars(rows, title),
        "time": against_steps(rows, title, memory=False),
        "memory": against_steps(rows, title, memory=True),
    }
    written = []
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(path.with_name(f"{name}.png"), dpi=120)
            plt.close(figure)
            written.append(path.with_name(f"{name}.png"))
    return written


if __name__ == "__main__":
    print(*draw(Path(sys.argv[1])), sep="\n")
