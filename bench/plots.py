"""Plots of results: bars for each case, and time and memory against T."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from tritonlstm.core import files

from . import report
from .rows import MODES


def bars(rows: pd.DataFrame) -> Figure | None:
    """Each provider's time as a multiple of the convolutions alone, by case; None if there is nothing to show."""
    rows = rows[rows.run.isin(report.RUNS) & rows["time / convolutions"].notna() & ~rows.provider.isin(report.FLOOR)]
    if rows.empty:
        return None
    rows = rows[rows.dtype == rows.dtype.iloc[0]].assign(name=rows.provider + " (" + rows.launch + ")")
    figure, axes = plt.subplots(2, 1, figsize=(10, 7), layout="constrained")
    for axis, mode in zip(axes, MODES):
        # A provider that was timed in several runs is shown from its first.
        own = rows[rows["mode"] == mode].drop_duplicates(["case", "name"])
        table = own.pivot(index="case", columns="name", values="time / convolutions")
        table = table.reindex(index=rows.case.unique(), columns=rows.name.unique())
        table.plot.bar(ax=axis, rot=0, width=0.85, legend=False, title=mode, xlabel="")
        axis.set_ylabel("time / convolutions alone")
        axis.axhline(1, color="0.4", linewidth=0.8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


def against_steps(rows: pd.DataFrame, column: str, label: str, scale: float = 1.0) -> Figure | None:
    """A figure of a training step against T, a panel for each case; None if there is nothing to show."""
    rows = rows[(rows.run == "steps") & (rows["mode"] == "training") & rows[column].notna()]
    if rows.empty:
        return None
    cases = rows.case.unique()
    figure, axes = plt.subplots(1, len(cases), figsize=(10, 4), layout="constrained", squeeze=False)
    for axis, case in zip(axes[0], cases):
        table = rows[rows.case == case].pivot(index="steps", columns="provider", values=column)
        table = table[rows.provider[rows.case == case].unique()] * scale
        table.plot(ax=axis, marker="o", title=case, xlabel="T", ylabel=label, ylim=(0, None))
        axis.legend(fontsize="small")
    return figure


def save(figure: Figure, rows: pd.DataFrame, path: Path) -> None:
    first = rows.iloc[0]
    figure.suptitle(f"{first.device}, torch {first.torch}, commit {first.commit}", fontsize="medium")
    image = io.BytesIO()
    figure.savefig(image, dpi=110, format=path.suffix.removeprefix(".") or "png")
    plt.close(figure)
    files.write(path, image.getvalue())


def draw(path: Path) -> list[Path]:
    """The plots of a file of results, beside it, as far as it has rows for them."""
    rows = report.compared(report.read(path))
    figures = {
        "bars": bars(rows),
        "time": against_steps(rows, "median_ms", "training step, ms"),
        "memory": against_steps(rows, "peak_bytes", "peak memory, MB", scale=1e-6),
    }
    written = {path.with_name(f"{name}.png"): figure for name, figure in figures.items() if figure is not None}
    for plot, figure in written.items():
        save(figure, rows, plot)
    return list(written)
